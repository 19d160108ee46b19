"""What the examples share: models of the transformers package with random weights, and what is told of two runs."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import flag_gems
import torch
from rich.console import Console
from torch import Tensor, nn

DEVICE = flag_gems.device


def llama_config(full: bool, layers: int | None = None) -> Any:
    """Llama-2-7b's configuration, or a small one."""
    from transformers import LlamaConfig

    size = {} if full else {
        "vocab_size": 512, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    }  # fmt: skip
    return with_layers(LlamaConfig(**size, pad_token_id=0, bos_token_id=1, eos_token_id=None), layers)


def with_layers(config: Any, layers: int | None) -> Any:
    if layers:
        config.num_hidden_layers = layers
    return config


def made(kind: Any, config: Any, dtype: torch.dtype) -> nn.Module:
    """A model of the configuration on the device, with the same random weights in every call."""
    torch.manual_seed(20)
    with torch.device(DEVICE):
        return kind(config).to(dtype)


def parser(description: str | None, full: str) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--full", action="store_true", help=full)
    found.add_argument("--layers", type=int, help="fewer layers")
    found.add_argument("--dtype", default="float32")
    found.add_argument("--rounds", type=int, default=3, help="that are timed")
    found.add_argument("--threads", type=int, default=1, help="on a CPU: small models gain nothing by more")
    return found


def parsed(options: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    given = options.parse_args(arguments)
    torch.set_num_threads(given.threads)
    return given


def clock() -> float:
    """Seconds; with one thread on a CPU those that the process has had, which other programs do not lengthen."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.process_time() if DEVICE == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


def seconds(call: Callable[[], Any]) -> float:
    begin = clock()
    call()
    return clock() - begin


def timed(call: Callable[[], Any], rounds: int) -> tuple[Any, float]:
    """What the first call gives, which compiles, and the median of the seconds that `rounds` further ones take."""
    result = call()
    return result, statistics.median(seconds(call) for _ in range(rounds)) if rounds else float("nan")


def both(call: Callable[[], Any], rounds: int) -> tuple[tuple[Any, float], tuple[Any, float]]:
    """`timed` with ATen's kernels, and with ours behind `torch.*`; the rounds of the two take turns."""
    aten = call()
    with flag_gems.use_gems():
        ours = call()
    found: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        found[0].append(seconds(call))
        with flag_gems.use_gems():
            found[1].append(seconds(call))
    of_aten, of_ours = (statistics.median(times) if times else float("nan") for times in found)
    return (aten, of_aten), (ours, of_ours)


def difference(ours: Tensor, atens: Tensor) -> float:
    """The largest difference by the largest value."""
    return float((ours.double() - atens.double()).abs().max() / atens.double().abs().max())


def tell_model(console: Console, name: str, model: nn.Module, dtype: str) -> None:
    threads = torch.get_num_threads()
    chip = torch.cuda.get_device_name() if DEVICE == "cuda" else f"cpu with {threads} thread{'s' * (threads > 1)}"
    parameters = sum(p.numel() for p in model.parameters())
    where = f"{dtype}, {chip}, torch {torch.__version__}"
    console.print(f"{name} of {parameters:,} parameters with random weights; {where}")


MOVES = ("copy_", "_to_copy", "is_pinned", "_pin_memory")  # ATen's where they go between the host and a GPU


def tell_share(console: Console, call: Callable[[], Any]) -> float:
    """Says which share of the calls of operators ran in our kernels, and what did not.

    Views, and on a GPU what moves between it and the host, are left out.
    """
    lines = [
        line
        for line in flag_gems.explain(call)
        if line.ran == "kernel" or DEVICE == "cpu" or line.operator not in MOVES
    ]
    ours = sum(line.calls for line in lines if line.ran == "kernel")
    share = ours / sum(line.calls for line in lines)
    console.print(f"{share:.1%} of the calls of operators ran in our kernels", highlight=False)
    for line in lines:
        if line.ran != "kernel":
            console.print(f"    {line.calls} x {line.operator}: {line.ran}", highlight=False)
    return share
