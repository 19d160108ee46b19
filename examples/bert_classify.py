"""Teaches a Bert to tell two kinds of sequences apart, with ATen and with flag_gems, and compares the two.

    python examples/bert_classify.py                             # a small configuration
    python examples/bert_classify.py --full --dtype bfloat16     # bert-base-uncased's: a GPU

The model is BertForSequenceClassification of the transformers package with random weights; a sequence is of the second
kind when tokens of the upper half of the vocabulary are more than those of the lower. Both runs start from the same
weights and see the same batches, so their losses are to agree.
"""

from __future__ import annotations

import copy
from typing import Any

import flag_gems
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from side_by_side import DEVICE, clock, made, parsed, parser, tell_model, tell_share, with_layers


def configuration(full: bool, layers: int | None) -> Any:
    from transformers import BertConfig

    size = {} if full else {
        "vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
        "max_position_embeddings": 64,
    }  # fmt: skip
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return with_layers(BertConfig(**size, **none, num_labels=2), layers)


def batches(count: int, size: int, length: int, vocabulary: int) -> list[dict[str, Tensor]]:
    """The same sequences of several lengths in every call."""
    generator = torch.Generator().manual_seed(20)
    found = []
    for _ in range(count):
        # The share of upper tokens is drawn first, so that few sequences are nearly half and half.
        upper = torch.rand(size, 1, generator=generator) > 0.5
        chosen = torch.rand(size, length, generator=generator) < torch.where(upper, 0.75, 0.25)
        half = vocabulary // 2
        tokens = torch.randint(1, half, (size, length), generator=generator) + chosen * half
        lengths = torch.randint(length // 2, length + 1, (size, 1), generator=generator)
        mask = torch.arange(length) < lengths
        labels = ((chosen & mask).sum(1) * 2 > lengths[:, 0]).long()
        batch = {"input_ids": tokens * mask, "attention_mask": mask.long(), "labels": labels}
        found.append({name: value.to(DEVICE) for name, value in batch.items()})
    return found


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]) -> Tensor:
    optimizer.zero_grad()
    loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    return loss.detach()


def trained(model: nn.Module, data: list[dict[str, Tensor]], rate: float) -> tuple[list[float], float]:
    """The loss of each step, and the seconds that the steps after the first took."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, foreach=False)
    losses, begin = [], 0.0
    for i, batch in enumerate(data):
        begin = clock() if i == 1 else begin
        losses.append(step(model, optimizer, batch))
    found = torch.stack(losses).tolist()
    return found, clock() - begin


@torch.no_grad()
def classified(model: nn.Module, data: list[dict[str, Tensor]]) -> list[int]:
    return [kind for batch in data for kind in model(**batch).logits.argmax(-1).tolist()]


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    from transformers import BertForSequenceClassification

    options = parser(__doc__, "bert-base-uncased's configuration")
    options.add_argument("--steps", type=int, default=60)
    given = parsed(options, arguments)
    config = configuration(given.full, given.layers)
    first = made(BertForSequenceClassification, config, getattr(torch, given.dtype))
    size, length = (32, 128) if given.full else (16, 24)
    data = batches(given.steps + 4, size, length, config.vocab_size)
    data, held = data[:-4], data[-4:]
    labels = [label for batch in held for label in batch["labels"].tolist()]
    console = Console(width=120)
    tell_model(console, "Bert", first, given.dtype)

    found: dict[str, Any] = {}
    for name in ("ATen", "flag_gems"):
        model = copy.deepcopy(first)
        if name == "flag_gems":
            flag_gems.enable()
        try:
            losses, seconds = trained(model, data, 2e-5 if given.full else 1e-3)
            kinds = classified(model, held)
        finally:
            flag_gems.disable()
        right = sum(a == b for a, b in zip(kinds, labels, strict=True)) / len(labels)
        speed = size * (given.steps - 1) / seconds
        found[name] = {"losses": losses, "kinds": kinds, "right": right, "sequences_per_second": speed}
    aten, ours = found["ATen"], found["flag_gems"]
    table = Table("step", "loss, ATen", "loss, flag_gems")
    for i in sorted({*range(0, given.steps, max(1, given.steps // 6)), given.steps - 1}):
        table.add_row(str(i), f"{aten['losses'][i]:.5f}", f"{ours['losses'][i]:.5f}")
    console.print(table)
    pairs = list(zip(ours["losses"], aten["losses"], strict=True))
    found["difference"] = max(abs(a - b) / max(abs(b), 0.1) for a, b in pairs)
    found["same"] = sum(a == b for a, b in zip(ours["kinds"], aten["kinds"], strict=True)) / len(labels)
    console.print(f"largest difference of the losses: {found['difference']:.1e}")
    console.print(
        f"right of {len(labels)} sequences not seen before: ATen {aten['right']:.1%}, ours {ours['right']:.1%}"
    )
    speeds = [r["sequences_per_second"] for r in (ours, aten)]
    console.print(
        f"sequences a second in training: ATen {speeds[1]:.1f}, ours {speeds[0]:.1f}: {speeds[0] / speeds[1]:.2f}"
    )
    model = copy.deepcopy(first)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    found["share"] = tell_share(console, lambda: step(model, optimizer, data[0]))
    return found


if __name__ == "__main__":
    main()
