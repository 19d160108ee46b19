"""The examples, in small configurations: what they say of the two libraries holds, and pages are kept rightly."""

from __future__ import annotations

import contextlib
import unittest.mock
from typing import Any

import pytest
import torch

import bert_classify
import llama_generate
import llava_describe
import serve_llama
import side_by_side
import tokens

SHARE = 0.95


def test_bert_classify() -> None:
    found = bert_classify.main(["--steps", "12"])
    assert found["difference"] < 1e-3 and found["same"] == 1
    assert found["share"] >= 0.9  # an optimizer reads its step counts


def test_llama_generate() -> None:
    found = llama_generate.main(["--tokens", "12", "--rounds", "1"])
    assert found["difference"] < 1e-5
    assert found["enable()"]["same"] and found["enable() and fused functions"]["same"]
    assert found["share"] >= SHARE


def test_llava_describe() -> None:
    found = llava_describe.main(["--tokens", "6", "--rounds", "1"])
    assert found["difference"] < 1e-5 and found["same"]
    assert found["share"] >= SHARE


@pytest.mark.parametrize("pages", [48, 11])
def test_serve_llama(pages: int) -> None:
    """With room for all, and with so little that requests are put back; each gets the tokens it gets alone."""
    given = ["--requests", "6", "--longest", "30", "--most", "5", "--page", "6", "--rounds", "1", "--layers", "2"]
    found = serve_llama.main([*given, "--pages", str(pages)])
    for functions in ("torch", "flag_gems"):
        run = found[functions]
        assert (run["same"], run["until"]) == (6, found["tokens"]), run
        assert run["at_once"] >= 3
        assert (run["put_back"] > 0) == (pages < 20)
    assert found["share"] >= SHARE


def test_pages_are_given_and_come_back() -> None:
    from transformers import LlamaForCausalLM

    given = serve_llama.parse(["--longest", "20", "--most", "3", "--page", "4", "--pages", "12"])
    model = side_by_side.made(LlamaForCausalLM, side_by_side.llama_config(False, 1), torch.float32).eval()
    server = serve_llama.Server(model, serve_llama.Gems, given)
    with pytest.raises(ValueError, match="41 tokens"):
        server.submit(serve_llama.Request([5] * 21, 20, 0))
    requests = [serve_llama.Request([5 + i] * length, 6, 0) for i, length in enumerate((3, 9, 4, 15))]
    for request in requests:
        server.submit(request)
    with torch.no_grad():
        server.step()  # takes three in: the fourth waits for a place
        assert server.running == requests[:3] and list(server.waiting) == requests[3:]
        # A token from the prompt, and one from a step, which needs the keys of all but itself.
        assert [len(r.made) for r in requests] == [2, 2, 2, 0]
        assert [len(r.pages) for r in requests] == [1, 3, 2, 0]
        taken = [page for r in requests for page in r.pages]
        assert len({*taken, *server.pages.free}) == 12 and len(taken) + len(server.pages.free) == 12
        while server.running or server.waiting:
            server.step()
    assert [len(r.made) for r in requests] == [6] * 4 and not any(r.pages for r in requests)
    assert sorted(server.pages.free) == list(range(12))


class FakeGraph:
    """A CUDA graph on a CPU: what was called while it recorded is called again, and the results copied to the first."""

    def __init__(self, step: serve_llama.Step) -> None:
        self.step = step

    def replay(self) -> None:
        self.step.next.copy_(self.step.call())


def test_a_recorded_step_gives_what_the_step_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import LlamaForCausalLM

    given = serve_llama.parse(["--longest", "20", "--most", "3", "--page", "4"])
    model = side_by_side.made(LlamaForCausalLM, side_by_side.llama_config(False, 1), torch.float32).eval()
    tokens = []
    for record in (False, True):
        server = serve_llama.Server(model, serve_llama.Gems, given, graphs=False)
        if record and serve_llama.DEVICE == "cuda":
            server.record = True
        elif record:
            recorded = serve_llama.Step.recorded

            def fake(step: serve_llama.Step, recorded: Any = recorded) -> Any:
                for name in ("Stream", "current_stream"):
                    monkeypatch.setattr(torch.cuda, name, unittest.mock.MagicMock())
                monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: FakeGraph(step))
                for name in ("stream", "graph"):
                    monkeypatch.setattr(torch.cuda, name, lambda _: contextlib.nullcontext())
                return recorded(step)

            monkeypatch.setattr(serve_llama.Step, "recorded", fake)
            server.record = True
        requests = [serve_llama.Request([5 + i] * length, 9 - i, i) for i, length in enumerate((3, 9, 4, 15))]
        server.serve(requests)
        assert all((step.graph is not None) == record for step in server.steps.values())
        tokens.append([request.made for request in requests])
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_benchmark_of_tokens_compares_like_with_like(dtype: torch.dtype) -> None:
    names = set()
    for case in tokens.cases(dtype):
        tokens.check(case)
        names.add(case.name)
    assert len(names) == 24
