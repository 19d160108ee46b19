"""Three models of the transformers package, trained a step and asked for tokens, with ATen and with flag_gems.

    python benchmarks/models.py                           # small configurations, as in the tests
    python benchmarks/models.py --full --dtype bfloat16   # bert-base-uncased, Llama-2-7b, Llava-1.5-7b: a large GPU
    python benchmarks/models.py llama --full --layers 8   # fewer layers of the same width

Weights are random and the same for both. For each model: the largest differences of outputs, loss and gradients (by the
largest value of each tensor), whether greedy decoding gives the same tokens, the share of aten calls that ran in our
kernels, the time of a training step and the tokens a second of decoding, each beside ATen's in the same run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import flag_gems
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

DEVICE = flag_gems.device
# Views and what only asks: they run no kernel.
# Operators of a GPU that call others, which are counted: a kind of attention and its gradient.
WRAPPERS = {
    f"_scaled_dot_product_{kind}_attention{way}"
    for kind in ("flash", "efficient", "cudnn")
    for way in ("", "_backward")
}
VIEWS = {
    "alias",
    "detach",
    "expand",
    "lift_fresh",
    "permute",
    "select",
    "slice",
    "split",
    "squeeze",
    "t",
    "transpose",
    "unbind",
    "unsqueeze",
    "view",
    "_unsafe_view",
    "_reshape_alias",
    "as_strided",
    "diagonal",
    "unfold",
    "split_with_sizes",
    "_local_scalar_dense",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "new_empty_strided",
    "resize_",
    "set_",
    "is_same_size",
    "_has_compatible_shallow_copy_type",
}


@dataclass
class Subject:
    """A model and what it is given."""

    name: str
    model: nn.Module
    batch: dict[str, Tensor]
    prompt: dict[str, Tensor] | None  # None: no decoder


@dataclass
class Result:
    """What one model gave under one library."""

    outputs: Tensor
    loss: float
    gradients: dict[str, Tensor]
    tokens: list[int]
    step_ms: float
    tokens_per_second: float
    stats: dict[str, dict[str, int]] = field(default_factory=dict)


def bert(full: bool, layers: int | None, dtype: torch.dtype) -> Subject:
    from transformers import BertConfig, BertForMaskedLM

    small = {
        "vocab_size": 211,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 128,
    }
    config = BertConfig(**({} if full else small), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    if layers:
        config.num_hidden_layers = layers
    model = made(BertForMaskedLM, config, dtype)
    tokens = torch.randint(config.vocab_size, (16, 512) if full else (2, 19), device=DEVICE)
    mask = torch.ones_like(tokens)
    mask[0, -3:] = 0
    return Subject("bert", model, {"input_ids": tokens, "attention_mask": mask, "labels": tokens.roll(1, 1)}, None)


def llama(full: bool, layers: int | None, dtype: torch.dtype) -> Subject:
    from transformers import LlamaForCausalLM

    config = llama_config(full, layers)
    model = made(LlamaForCausalLM, config, dtype)
    tokens = torch.randint(config.vocab_size, (2, 1024) if full else (2, 19), device=DEVICE)
    prompt = tokens[:, : 128 if full else 7]
    return Subject("llama", model, {"input_ids": tokens, "labels": tokens}, prompted(input_ids=prompt))


def llava(full: bool, layers: int | None, dtype: torch.dtype) -> Subject:
    from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

    small = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "projection_dim": 32,
    }
    large = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "projection_dim": 768,
    }
    size, patch = (336, 14) if full else (28, 14)
    vision = CLIPVisionConfig(**(large if full else small), image_size=size, patch_size=patch)
    text = llama_config(full, layers)
    image_token = text.vocab_size - 1
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image_token)
    model = made(LlavaForConditionalGeneration, config, dtype)
    patches = (size // patch) ** 2
    words = torch.randint(image_token, (1, 128 if full else 9), device=DEVICE)
    tokens = torch.cat((torch.full((1, patches), image_token, device=DEVICE), words), 1)
    pixels = torch.randn(1, 3, size, size, device=DEVICE).to(dtype)
    batch = {"input_ids": tokens, "pixel_values": pixels, "labels": tokens.clone()}
    return Subject("llava", model, batch, prompted(input_ids=tokens, pixel_values=pixels))


def llama_config(full: bool, layers: int | None) -> Any:
    from transformers import LlamaConfig

    small = {
        "vocab_size": 211,
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }
    large = {
        "vocab_size": 32064,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    }
    config = LlamaConfig(**(large if full else small), pad_token_id=0, bos_token_id=1, eos_token_id=None)
    if layers:
        config.num_hidden_layers = layers
    return config


def made(kind: Any, config: Any, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(20)
    config.dtype = dtype
    with torch.device(DEVICE):
        return kind(config).to(dtype)


def prompted(**given: Tensor) -> dict[str, Tensor]:
    return given | {"attention_mask": torch.ones_like(given["input_ids"])}


def train_step(subject: Subject) -> tuple[Tensor, float, dict[str, Tensor]]:
    subject.model.zero_grad(set_to_none=True)
    found = subject.model(**subject.batch)
    found.loss.backward()
    gradients = {n: p.grad for n, p in subject.model.named_parameters() if p.grad is not None}
    return found.logits.detach(), float(found.loss.detach()), gradients


def decode(subject: Subject, count: int) -> list[int]:
    if subject.prompt is None:
        return []
    subject.model.eval()
    with torch.no_grad():
        found = subject.model.generate(**subject.prompt, max_new_tokens=count, min_new_tokens=count, do_sample=False)
    subject.model.train()
    return found[:, -count:].flatten().tolist()


def seconds(call: Callable[[], Any]) -> float:
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def run(subject: Subject, rounds: int, count: int) -> Result:
    """One step and one decoding whose results are kept, then `rounds` that are timed."""
    flag_gems.reset_stats()
    outputs, loss, gradients = train_step(subject)
    tokens = decode(subject, count)
    stats = flag_gems.stats()
    gradients = {name: gradient.clone() for name, gradient in gradients.items()}
    step = statistics.median(seconds(lambda: train_step(subject)) for _ in range(rounds)) if rounds else float("nan")
    took = statistics.median(seconds(lambda: decode(subject, count)) for _ in range(rounds)) if rounds else float("nan")
    return Result(outputs, loss, gradients, tokens, step * 1e3, len(tokens) / took, stats)


def difference(ours: Tensor, theirs: Tensor, least: float = 0.0) -> float:
    """The largest difference by the largest value, or by `least` where all are smaller."""
    most = max(float(theirs.abs().max()), least, torch.finfo(torch.float32).tiny)
    return float((ours.double() - theirs.double()).abs().max()) / most


def gradient_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The largest over all parameters. A bias that softmax takes away has a gradient of nothing but rounding."""
    most = max(float(g.abs().max()) for g in theirs.values())
    return max(difference(ours[name], g, 1e-5 * most) for name, g in theirs.items())


def ran(stats: dict[str, dict[str, int]]) -> tuple[int, dict[str, int]]:
    """How many calls ran in our kernels; and those that were left to ATen by name."""
    return sum(c["kernel"] for c in stats.values()), {n: c["fallback"] for n, c in stats.items() if c["fallback"]}


class Counter(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the aten calls of a run, those included for which the library has no operator."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name.removeprefix("aten::")
        overload = function._schema.overload_name
        key = f"{name}.{overload}" if overload else name
        self.calls[key] = self.calls.get(key, 0) + 1
        return function(*args, **(kwargs or {}))


def uncovered(subject: Subject, count: int) -> dict[str, int]:
    """Calls of aten operators that are no views and that the library does not have."""
    known = set(flag_gems.all_ops())
    with Counter() as counter:
        train_step(subject)
        decode(subject, count)
    return {n: c for n, c in counter.calls.items() if n not in known and n.split(".")[0] not in VIEWS | WRAPPERS}


def compare(subject: Subject, rounds: int, count: int) -> dict[str, Any]:
    aten = run(subject, rounds, count)
    with flag_gems.use_gems():
        ours = run(subject, rounds, count)
        missing = uncovered(subject, count)
    kernels, declined = ran(ours.stats)
    every = kernels + sum(declined.values()) + sum(missing.values())
    return {
        "model": subject.name,
        "parameters": sum(p.numel() for p in subject.model.parameters()),
        "output_difference": difference(ours.outputs, aten.outputs),
        "loss_difference": abs(ours.loss - aten.loss) / abs(aten.loss),
        "gradient_difference": gradient_difference(ours.gradients, aten.gradients),
        "same_tokens": ours.tokens == aten.tokens,
        "kernel_share": kernels / every,
        "declined": declined,
        "missing": missing,
        "step_ms": {"aten": aten.step_ms, "gems": ours.step_ms},
        "tokens_per_second": {"aten": aten.tokens_per_second, "gems": ours.tokens_per_second},
    }


MODELS = {"bert": bert, "llama": llama, "llava": llava}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[*MODELS, []], help="default: all three")
    parser.add_argument("--full", action="store_true", help="the real configurations")
    parser.add_argument("--layers", type=int, help="of the language model, where fewer are wanted")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=16, help="to decode")
    parser.add_argument("--json", metavar="FILE")
    given = parser.parse_args()
    table = Table(
        "model",
        "outputs",
        "loss",
        "gradients",
        "tokens",
        "in kernels",
        "step ms",
        "ATen's",
        "ratio",
        "tokens/s",
        "ATen's",
        "ratio",
    )
    found = []
    for name in given.models or MODELS:
        subject = MODELS[name](given.full, given.layers, getattr(torch, given.dtype))
        row = compare(subject, given.rounds, given.tokens)
        found.append(row)
        step, speed = row["step_ms"], row["tokens_per_second"]
        table.add_row(
            name,
            f"{row['output_difference']:.1e}",
            f"{row['loss_difference']:.1e}",
            f"{row['gradient_difference']:.1e}",
            "same" if row["same_tokens"] else "differ",
            f"{row['kernel_share']:.1%}",
            f"{step['gems']:.1f}",
            f"{step['aten']:.1f}",
            f"{step['aten'] / step['gems']:.2f}",
            f"{speed['gems']:.1f}",
            f"{speed['aten']:.1f}",
            f"{speed['gems'] / speed['aten']:.2f}" if speed["aten"] else "",
        )
        print(name, "left to ATen:", row["declined"], "not in the table:", row["missing"])
        del subject
        if DEVICE == "cuda":
            torch.cuda.empty_cache()
    chip = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    Console(width=160).print(f"{chip}, torch {torch.__version__}, {given.dtype}", table)
    if given.json:
        with open(given.json, "w") as file:
            asked = {name: value for name, value in vars(given).items() if name != "json"}
            json.dump({"chip": chip, "torch": torch.__version__, **asked, "results": found}, file, indent=1)


if __name__ == "__main__":
    main()
