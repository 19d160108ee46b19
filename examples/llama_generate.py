"""Lets a Llama write tokens, with ATen and with flag_gems, and compares the two.

    python examples/llama_generate.py                            # a small configuration
    python examples/llama_generate.py --full --dtype bfloat16    # Llama-2-7b's: a large GPU

The model is LlamaForCausalLM of the transformers package, unchanged, with random weights: the tokens say nothing, and
are to be the same. A third run gives the model this library's fused functions (RMSNorm, SwiGLU), as a program does that
wants more than `enable()`.
"""

from __future__ import annotations

import types
from typing import Any

import flag_gems
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from side_by_side import DEVICE, both, difference, llama_config, made, parsed, parser, tell_model, tell_share, timed


def generated(model: nn.Module, prompt: Tensor, count: int) -> list[int]:
    """The likeliest `count` tokens after each prompt."""
    mask = torch.ones_like(prompt)
    with torch.no_grad():
        found = model.generate(prompt, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False)
    return found[:, -count:].flatten().tolist()


def fuse(model: nn.Module) -> None:
    """Puts fused functions in the place of a Llama's norms and gates."""
    for part in model.modules():
        if type(part).__name__ == "LlamaRMSNorm":
            part.forward = types.MethodType(
                lambda self, x: flag_gems.ops.rms_norm(x, list(self.weight.shape), self.weight, self.variance_epsilon),
                part,
            )
        if type(part).__name__ == "LlamaMLP":
            part.forward = types.MethodType(
                lambda self, x: self.down_proj(flag_gems.silu_and_mul(self.gate_proj(x), self.up_proj(x))), part
            )


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    from transformers import LlamaForCausalLM

    options = parser(__doc__, "Llama-2-7b's configuration")
    options.add_argument("--batch", type=int, default=2)
    options.add_argument("--tokens", type=int, default=32, help="to write")
    given = parsed(options, arguments)
    config = llama_config(given.full, given.layers)
    model = made(LlamaForCausalLM, config, getattr(torch, given.dtype)).eval()
    length = 128 if given.full else 12
    prompt = torch.randint(config.vocab_size, (given.batch, length), generator=torch.Generator().manual_seed(20))
    prompt = prompt.to(DEVICE)
    console = Console(width=120)
    tell_model(console, "Llama", model, given.dtype)

    def write() -> list[int]:
        return generated(model, prompt, given.tokens)

    with torch.no_grad():
        logits, ours = (run[0] for run in both(lambda: model(prompt).logits, 0))
    runs = dict(zip(("ATen", "enable()"), both(write, given.rounds), strict=True))
    found: dict[str, Any] = {"difference": difference(ours, logits)}
    found["share"] = tell_share(console, write)
    fuse(model)
    with flag_gems.use_gems():
        runs["enable() and fused functions"] = timed(write, given.rounds)
    table = Table("kernels", "the same tokens", "tokens/s", "of ATen's")
    aten = runs["ATen"]
    for name, (tokens, seconds) in runs.items():
        same = sum(a == b for a, b in zip(tokens, aten[0], strict=True))
        found[name] = {"same": same == len(tokens), "tokens_per_second": len(tokens) / seconds}
        table.add_row(name, f"{same} of {len(tokens)}", f"{len(tokens) / seconds:.1f}", f"{aten[1] / seconds:.2f}")
    console.print(table)
    console.print(f"largest difference of the prompt's logits, by the largest logit: {found['difference']:.1e}")
    console.print("first tokens:", runs["enable()"][0][:12], highlight=False)
    return found


if __name__ == "__main__":
    main()
