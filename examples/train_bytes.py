"""Trains a small language model twice, with ATen and with flag_gems, and compares the two.

The model is a decoder as Llama's (RMSNorm, rotary position embedding, SwiGLU) in plain PyTorch, without a word of this
library in it; the text is the project's own documents, read byte by byte. Both runs start from the same seed, so their
losses are to agree; what differs is which kernels computed them. Runs on the GPU if there is one, else on the CPU.

    python examples/train_bytes.py [--steps 100] [--json out.json]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import flag_gems
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Config:
    vocabulary: int = 256
    width: int = 128
    layers: int = 3
    heads: int = 4
    hidden: int = 352
    context: int = 128
    batch: int = 8
    learning_rate: float = 2e-3
    seed: int = 20


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def rotary_tables(config: Config) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary embedding (Su et al., 2021), each [context, head width]."""
    half = config.width // config.heads // 2
    frequency = 10000.0 ** (-torch.arange(half) / half)
    angle = torch.arange(config.context)[:, None] * frequency
    return torch.cat((angle, angle), -1).cos(), torch.cat((angle, angle), -1).sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


class Block(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.heads = config.heads
        self.attention_norm, self.mlp_norm = RMSNorm(config.width), RMSNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)
        self.gate_up = nn.Linear(config.width, 2 * config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.width, bias=False)

    def attention(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = (t.transpose(1, 2) for t in qkv.unbind(2))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        scores = q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5
        weights = torch.softmax(scores.masked_fill(mask, float("-inf")), -1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, mask)
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Decoder(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        cos, sin = rotary_tables(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        mask = torch.ones(config.context, config.context, dtype=torch.bool).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [batch, length, 256] of tokens [batch, length], int64."""
        length = tokens.shape[1]
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos[:length], self.sin[:length], self.mask[:length, :length])
        return self.head(self.norm(x))


def read_text() -> Tensor:
    """Bytes of the project's documents, [n] uint8."""
    files = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
    return torch.frombuffer(bytearray(b"\n".join(f.read_bytes() for f in files)), dtype=torch.uint8)


def first_weights(config: Config) -> dict[str, Tensor]:
    """What both runs start from: drawn once, since ATen's CPU generator gives other numbers than ours."""
    torch.manual_seed(config.seed)
    return Decoder(config).state_dict()


def make(config: Config, weights: dict[str, Tensor], device: str) -> tuple[Decoder, torch.optim.Optimizer]:
    model = Decoder(config)
    model.load_state_dict(weights)
    model.to(device)
    return model, torch.optim.AdamW(model.parameters(), lr=config.learning_rate, foreach=False)


def batches(config: Config, text: Tensor, steps: int, device: str) -> list[Tensor]:
    """The same random windows for both runs, each [batch, context + 1] int64."""
    generator = torch.Generator().manual_seed(config.seed)
    starts = torch.randint(len(text) - config.context - 1, (steps, config.batch), generator=generator)
    window = torch.arange(config.context + 1)
    return [text[start[:, None] + window].long().to(device) for start in starts]


def step(model: Decoder, optimizer: torch.optim.Optimizer, batch: Tensor) -> Tensor:
    logits = model(batch[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def train(
    config: Config, weights: dict[str, Tensor], data: list[Tensor], device: str, label: str
) -> tuple[Decoder, list[float], float]:
    """A trained model, its losses, seconds."""
    model, optimizer = make(config, weights, device)
    losses = []
    begin = time.perf_counter()
    for batch in track(data, f"{label:>9}", transient=True):
        losses.append(step(model, optimizer, batch))
    losses = torch.stack(losses).tolist()
    return model, losses, time.perf_counter() - begin


@torch.no_grad()
def generate(model: Decoder, prompt: str, count: int, config: Config, device: str) -> str:
    """The prompt and `count` further bytes, each the likeliest."""
    tokens = torch.tensor([list(prompt.encode())], device=device)
    for _ in range(count):
        logits = model(tokens[:, -config.context :])
        tokens = torch.cat((tokens, logits[:, -1].argmax(-1, keepdim=True)), 1)
    return bytes(tokens[0].tolist()).decode(errors="replace")


def show_losses(console: Console, aten: list[float], gems: list[float]) -> float:
    """Prints the curves side by side; returns the largest relative difference."""
    table = Table("step", "loss, ATen", "loss, flag_gems", "difference", title="Loss")
    worst = max(abs(a - b) / abs(a) for a, b in zip(aten, gems, strict=True))
    marks = sorted({*range(0, len(aten), max(1, len(aten) // 10)), len(aten) - 1})
    for i in marks:
        table.add_row(str(i), f"{aten[i]:.5f}", f"{gems[i]:.5f}", f"{abs(aten[i] - gems[i]) / aten[i]:.1e}")
    console.print(table)
    console.print(f"largest relative difference of the losses: {worst:.1e}")
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    console, config = Console(), Config()
    device = flag_gems.device
    data = batches(config, read_text(), options.steps, device)
    weights = first_weights(config)

    model, aten, aten_seconds = train(config, weights, data, device, "ATen")
    parameters = sum(p.numel() for p in model.parameters())
    console.print(f"{parameters:,} parameters on {device}, {options.steps} steps of {data[0].numel():,} bytes")

    flag_gems.enable()
    flag_gems.reset_stats()
    model, gems, gems_seconds = train(config, weights, data, device, "flag_gems")
    worst = show_losses(console, aten, gems)
    console.print(f"seconds: ATen {aten_seconds:.1f}, flag_gems {gems_seconds:.1f} with compiling or loading kernels")

    console.rule("what it writes")
    print(generate(model, "The kernel ", 160, config, device))

    console.rule("who computed a training step")
    fresh, optimizer = make(config, weights, device)
    report = flag_gems.explain(step, fresh, optimizer, data[0])
    print(report)
    share = report.kernel_share
    console.print(f"{share:.1%} of the non-view aten calls ran in our kernels")
    if options.json:
        figures = {"device": device, "aten": aten, "flag_gems": gems, "difference": worst, "share": share}
        options.json.write_text(json.dumps(figures | {"seconds": [aten_seconds, gems_seconds]}))
    if not worst < 1e-3 or share < 0.9:
        raise SystemExit("the two runs disagree, or too few operators ran in our kernels")


if __name__ == "__main__":
    main()
