"""Models shared out over processes: what they learn with our kernels is what they learn with ATen's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

import two_processes

# Two processes on the CPU everywhere; on GPUs one or two.
BACKENDS = ["gloo", pytest.param("nccl", marks=pytest.mark.gpu)]
# Rows that a decoder's training runs, and those of its fused functions.
ROWS = ("mm", "embedding", "embedding_dense_backward", "_log_softmax", "nll_loss_backward")
FUSED = ("flag_gems::silu_and_mul", "flag_gems::silu_and_mul_backward", "flag_gems::attention_forward")


def run(backend: str, folder: Path, names: list[str], compiled: bool = False) -> list[dict[str, Any]]:
    """What each process found."""
    size = 2 if backend == "gloo" else min(2, torch.cuda.device_count())
    with pytest.MonkeyPatch.context() as patch:
        if backend == "gloo":
            patch.setenv("GEMS_VENDOR", "cpu")
        mp.spawn(two_processes.work, (size, backend, str(folder), tuple(names), compiled), nprocs=size)
    return [torch.load(folder / f"{rank}.pt") for rank in range(size)]


@pytest.fixture(scope="module", params=BACKENDS)
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    kinds = list(two_processes.KINDS)
    names = [*kinds, *(f"{kind} fused" for kind in kinds), "explicit"]
    return run(request.param, tmp_path_factory.mktemp(request.param), names)


@pytest.mark.parametrize("fused", ["", " fused"])
@pytest.mark.parametrize("kind", two_processes.KINDS)
def test_gradients_and_weights(kind: str, fused: str, found: list[dict[str, Any]]) -> None:
    halves = "halves" in kind
    for result in found:
        run = result[kind + fused]
        assert isinstance(run, dict), run
        ours, aten, stats = run["ours"], run["aten"], run["stats"]
        near = {"rtol": 2e-2, "atol": 2e-3} if halves else {"rtol": 1e-4, "atol": 1e-6}
        torch.testing.assert_close(ours["loss"], aten["loss"], **near)
        torch.testing.assert_close(ours["gradients"], aten["gradients"], **near)
        # Adam divides by the gradient's size: where that is near 0, a weight's step is what rounding says.
        close = {name: (w - aten["weights"][name]).abs() for name, w in ours["weights"].items()}
        assert all((d < 1e-4).float().mean() > (0.5 if halves else 0.99) for d in close.values())
        # There the loss is taken apart into other operators.
        rows = [name for name in ROWS if kind != "loss_parallel" or name not in ("_log_softmax", "nll_loss_backward")]
        for name in (*rows, *(FUSED if fused else ())):
            assert stats[name]["kernel"] and not stats[name]["fallback"], (name, stats)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_as_one_process(kind: str, found: list[dict[str, Any]]) -> None:
    """The gradients are those of one process that has all batches."""
    for result in found:
        one, ours = result["alone"]["aten"], result[kind]["ours"]
        torch.testing.assert_close(ours["gradients"], one["gradients"], rtol=1e-4, atol=1e-6)


def test_processes_agree(found: list[dict[str, Any]]) -> None:
    for kind in two_processes.KINDS:
        for part in ("gradients", "weights"):
            for other in found[1:]:
                torch.testing.assert_close(
                    other[kind]["ours"][part], found[0][kind]["ours"][part], rtol=0, atol=0, msg=f"{kind} {part}"
                )


def test_own_functions_of_shared_tensors(found: list[dict[str, Any]]) -> None:
    """They are shared out as torch's are, or done by operators of torch."""
    for result in found:
        run = result["explicit"]
        assert isinstance(run, dict), run
        assert len(run["calls"]) == 21
        for name, (ours, expected) in run["calls"].items():
            torch.testing.assert_close(
                ours, expected, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )
        for name in ("mm", "add.Tensor", *(f"flag_gems::{n}" for n in ("silu_and_mul_backward", "cubic_of_shared"))):
            assert run["stats"][name]["kernel"] >= 4, (name, run["stats"])


@pytest.mark.slow
def test_compiled(tmp_path: Path) -> None:
    """The same models under torch.compile."""
    names = ["ddp", "fsdp fused", "tensor_parallel"]
    for result in run("gloo", tmp_path, names, True):
        for name in names:
            assert isinstance(result[name], dict), result[name]
            ours, aten = result[name]["ours"], result[name]["aten"]
            torch.testing.assert_close(ours["gradients"], aten["gradients"], rtol=1e-4, atol=1e-6)
            assert sum(counts["kernel"] for counts in result[name]["stats"].values()) > 500
