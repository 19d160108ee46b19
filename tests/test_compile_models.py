"""Compiled and exported models with operators enabled: ATen's results and gradients, and no graph break more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flag_gems
import pytest
import torch
from torch import Tensor

import models

pytestmark = pytest.mark.usefixtures("fresh_compiler")
DEVICE = flag_gems.device
SLOW = pytest.mark.slow


def subject(name: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    made = models.MODELS[name](False, None, torch.float32)
    if name == "llama":  # torch.export knows no cache among the results
        made.model.config.use_cache = False
    return made.model, made.batch


def learned(model: torch.nn.Module, call: Callable[..., Any], batch: dict[str, Any]) -> list[Tensor]:
    """Logits, loss and the gradients of all parameters."""
    model.zero_grad(set_to_none=True)
    found = call(**batch)
    found.loss.backward()
    return [found.logits.detach(), found.loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def breaks(model: torch.nn.Module, batch: dict[str, Any]) -> tuple[int, int]:
    torch.compiler.reset()
    found = torch._dynamo.explain(model)(**batch)
    return found.graph_count, found.graph_break_count


def kernels() -> int:
    return sum(counts["kernel"] for counts in flag_gems.stats().values())


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("llama", "aot_eager"),
        ("bert", "eager"),
        pytest.param("llama", "eager", marks=SLOW),
        pytest.param("bert", "aot_eager", marks=SLOW),
        pytest.param("llama", "inductor", marks=SLOW),
        pytest.param("bert", "inductor", marks=SLOW),
    ],
)
def test_compiled(name: str, backend: str) -> None:
    model, batch = subject(name)
    expected = learned(model, model, batch)
    flag_gems.enable()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for _ in range(2):
        torch.testing.assert_close(learned(model, compiled, batch), expected, rtol=1e-4, atol=1e-5)
    # inductor writes programs of its own for what is elementwise: products and attention are left.
    least = {"llama": 40, "bert": 30} if backend == "inductor" else {"llama": 250, "bert": 150}
    assert kernels() > least[name], flag_gems.stats()


@pytest.mark.parametrize("name", ["llama", pytest.param("bert", marks=SLOW)])
def test_no_graph_break_more(name: str) -> None:
    model, batch = subject(name)
    expected = breaks(model, batch)
    flag_gems.enable()
    assert breaks(model, batch) == expected == (1, 0)


@SLOW
def test_no_graph_break_more_where_there_are_some() -> None:
    """A Llava checks its image tokens by their values."""
    model, batch = subject("llava")
    breaks(model, batch)  # transformers prepares itself the first time, at which dynamo breaks too
    expected = breaks(model, batch)
    flag_gems.enable()
    assert breaks(model, batch) == expected
    assert expected[1] > 0


@pytest.mark.parametrize("name", ["bert", pytest.param("llama", marks=SLOW)])
def test_exported(name: str) -> None:
    """A program exported with operators enabled, of the same operators, run with and without them."""
    model, batch = subject(name)
    model.eval()
    plain = torch.export.export(model, (), batch)
    with torch.no_grad():
        expected = model(**batch).logits
        flag_gems.enable()
        program = torch.export.export(model, (), batch)
        flag_gems.reset_stats()
        result = program.module()(**batch).logits
        assert kernels() > 50
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)
        flag_gems.disable()
        torch.testing.assert_close(program.module()(**batch).logits, expected, rtol=1e-4, atol=1e-5)
    assert [str(node.target) for node in program.graph.nodes] == [str(node.target) for node in plain.graph.nodes]


@SLOW
def test_exported_with_a_dynamic_length() -> None:
    model, batch = subject("llama")
    model.eval()
    tokens = batch["input_ids"]
    flag_gems.enable()
    length = torch.export.Dim("length", min=2, max=60)
    program = torch.export.export(model, (), {"input_ids": tokens}, dynamic_shapes={"input_ids": {1: length}})
    for n in (5, 18):
        with torch.no_grad():
            found = program.module()(input_ids=tokens[:, :n]).logits
            flag_gems.disable()
            expected = model(input_ids=tokens[:, :n]).logits
            flag_gems.enable()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
