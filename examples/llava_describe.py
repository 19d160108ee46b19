"""Asks a Llava about an image, with ATen and with flag_gems, and compares the two.

    python examples/llava_describe.py                            # a small configuration
    python examples/llava_describe.py --full --dtype bfloat16    # Llava-1.5-7b's: a large GPU

The model is LlavaForConditionalGeneration of the transformers package, unchanged, with random weights, and the image is
drawn here (a disc on a gradient): what it answers says nothing, and is to be the same. What differs is which kernels
read the image (patches, a vision transformer), brought it to the language model and wrote the tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from side_by_side import DEVICE, both, difference, llama_config, made, parsed, parser, tell_model, tell_share


def configuration(full: bool, layers: int | None) -> Any:
    from transformers import CLIPVisionConfig, LlavaConfig

    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    if full:
        size = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
    vision = CLIPVisionConfig(**size, image_size=336 if full else 56, patch_size=14)
    text = llama_config(full, layers)
    text.vocab_size += 64 if full else 0
    return LlavaConfig(vision_config=vision, text_config=text, image_token_index=text.vocab_size - 1)


def picture(size: int) -> Tensor:
    """An image [1, 3, size, size]: a disc on a gradient, of mean 0."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    disc = ((x - 0.2) ** 2 + (y + 0.1) ** 2 < 0.3).float()
    image = torch.stack((x, y, 2 * disc - 1))[None]
    return image - image.mean()


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    from transformers import LlavaForConditionalGeneration

    options = parser(__doc__, "Llava-1.5-7b's configuration")
    options.add_argument("--tokens", type=int, default=16, help="to write")
    given = parsed(options, arguments)
    config = configuration(given.full, given.layers)
    dtype = getattr(torch, given.dtype)
    model = made(LlavaForConditionalGeneration, config, dtype).eval()
    vision = config.vision_config
    patches = (vision.image_size // vision.patch_size) ** 2
    words = torch.randint(
        config.image_token_index, (1, 64 if given.full else 9), generator=torch.Generator().manual_seed(20)
    )
    tokens = torch.cat((torch.full((1, patches), config.image_token_index), words), 1).to(DEVICE)
    asked = {
        "input_ids": tokens,
        "attention_mask": torch.ones_like(tokens),
        "pixel_values": picture(vision.image_size).to(DEVICE, dtype),
    }
    console = Console(width=120)
    tell_model(console, "Llava", model, given.dtype)
    console.print(f"an image of {patches} patches and {words.shape[1]} tokens of text")

    @torch.no_grad()
    def answer() -> list[int]:
        count = given.tokens
        found = model.generate(**asked, max_new_tokens=count, min_new_tokens=count, do_sample=False)
        return found[0, -count:].tolist()

    @torch.no_grad()
    def look() -> Tensor:
        return model(**asked).logits

    (logits, aten_look), (our_logits, our_look) = both(look, given.rounds)
    (aten, aten_seconds), (ours, our_seconds) = both(answer, given.rounds)
    table = Table("", "ATen", "flag_gems", "ratio")
    table.add_row(
        "image and text, ms", f"{aten_look * 1e3:.1f}", f"{our_look * 1e3:.1f}", f"{aten_look / our_look:.2f}"
    )
    speeds = len(ours) / aten_seconds, len(ours) / our_seconds
    table.add_row("tokens/s", f"{speeds[0]:.1f}", f"{speeds[1]:.1f}", f"{speeds[1] / speeds[0]:.2f}")
    console.print(table)
    same = sum(a == b for a, b in zip(ours, aten, strict=True))
    found = {"difference": difference(our_logits, logits), "same": ours == aten, "tokens_per_second": speeds}
    console.print(f"largest difference of logits, by the largest: {found['difference']:.1e}")
    console.print(f"the same tokens: {same} of {len(ours)}; {ours}", highlight=False)
    found["share"] = tell_share(console, answer)
    return found


if __name__ == "__main__":
    main()
