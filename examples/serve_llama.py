"""Serves a Llama: a cache of keys and values in pages, requests that come and go, a graph for the decoding step.

    python examples/serve_llama.py                                # a small configuration with random weights
    python examples/serve_llama.py --full --dtype bfloat16        # Llama-2-7b's configuration: a large GPU
    python examples/serve_llama.py --pages 10                     # little memory: requests are put back and resumed

Each request brings a prompt at some step and leaves when it has its tokens; the others do not wait for it. A step takes
in what has come (the prompts packed one behind another, in one pass), then gives every running request one more token.
Keys and values lie in pages of 16 tokens that requests take as they grow and give back when they leave; when none is
left the request that came last is put back to the queue and starts again later with the tokens that it has.

The layers are a transformers model's own; what lies between the matrix products are six functions, given twice: by
this library (`Gems`: one kernel each) and by operators of torch (`Plain`). Both serve the same requests, and the tokens
are those that the model's own `generate` gives to each request alone. On a GPU the decoding step is recorded in CUDA
graphs, one for each of a few numbers of requests (which has not run there yet); on a CPU it runs as it is.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from random import Random
from typing import Any

import flag_gems
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from side_by_side import DEVICE, clock, llama_config, made, parsed, parser, tell_model, tell_share


@dataclass
class Lengths:
    """Where the sequences of a step lie: int32 on the device, and the largest lengths as numbers."""

    starts: Tensor  # [sequences + 1]: of their queries, packed
    used: Tensor  # [sequences]: keys that each sees
    table: Tensor | None  # [sequences, pages]: None while all keys of a sequence are in the step itself
    most_queries: int
    most_keys: int


class Gems:
    """What a layer does besides its matrix products, each in one kernel."""

    name = "flag_gems"

    @staticmethod
    def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return flag_gems.ops.rms_norm(x, list(weight.shape), weight, eps)

    @staticmethod
    def add_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        return flag_gems.fused_add_rms_norm(x, residual, weight.shape, weight, eps)

    @staticmethod
    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        return flag_gems.apply_rotary_pos_emb(q, k, cos, sin, positions, inplace=True)

    @staticmethod
    def store(k: Tensor, v: Tensor, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        flag_gems.reshape_and_cache_flash(k, v, keys, values, slots, "auto", None, None)

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, at: Lengths) -> Tensor:
        packed = at.table is None
        return flag_gems.flash_attn_varlen_func(
            q, k, v, at.most_queries, at.starts, at.most_keys, at.starts if packed else None,
            None if packed else at.used, causal=True, block_table=at.table,
        )  # fmt: skip

    @staticmethod
    def gate(gate: Tensor, up: Tensor) -> Tensor:
        return flag_gems.silu_and_mul(gate, up)


class Plain:
    """The same by operators of torch. Nothing is read back to the host, so that a graph can record a decoding step."""

    name = "torch"

    @staticmethod
    def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, eps)

    @staticmethod
    def add_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        total = x + residual
        return F.rms_norm(total, weight.shape, weight, eps), total

    @staticmethod
    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        c, s = cos[positions].unsqueeze(1), sin[positions].unsqueeze(1)

        def turned(x: Tensor) -> Tensor:
            a, b = x.float().chunk(2, -1)
            return torch.cat((a * c - b * s, b * c + a * s), -1).to(x.dtype)

        return turned(q), turned(k)

    @staticmethod
    def store(k: Tensor, v: Tensor, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        # A token without a slot goes to the last one, which belongs to the page that no request is given.
        places = torch.where(slots < 0, keys.shape[0] * keys.shape[1] - 1, slots).long()
        keys.flatten(0, 1).index_copy_(0, places, k)
        values.flatten(0, 1).index_copy_(0, places, v)

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor, at: Lengths) -> Tensor:
        if at.table is None:
            parts = zip(*(t.split(at.starts.diff().tolist()) for t in (q, k, v)), strict=True)
            return torch.cat([Plain._attend(*(t.transpose(0, 1) for t in part), causal=True) for part in parts])
        k, v = (t[at.table].flatten(1, 2).transpose(1, 2) for t in (k, v))
        seen = torch.arange(k.shape[2], device=q.device) < at.used[:, None]
        # A sequence that is none sees the first key, whose weight is then not 0 / 0.
        seen[:, 0] = True
        return Plain._attend(q.unsqueeze(2), k, v, mask=seen[:, None, None]).flatten(0, 1)

    @staticmethod
    def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, enable_gqa=True).transpose(-3, -2)

    @staticmethod
    def gate(gate: Tensor, up: Tensor) -> Tensor:
        return F.silu(gate) * up


class Model:
    """A LlamaForCausalLM over packed tokens and a paged cache, by the functions of `Gems` or `Plain`."""

    def __init__(self, model: Any, functions: Any, pages: int, page: int) -> None:
        config = model.config
        self.body, self.head, self.functions = model.model, model.lm_head, functions
        self.eps, self.heads = config.rms_norm_eps, config.num_attention_heads
        self.kv_heads = config.num_key_value_heads
        self.dim = config.hidden_size // self.heads
        places = torch.arange(config.max_position_embeddings, device=DEVICE)
        angles = torch.outer(places.float(), self.body.rotary_emb.inv_freq.float())
        self.cos, self.sin = angles.cos(), angles.sin()
        # One page more than requests are given: see Plain.store.
        shape = (pages + 1, page, self.kv_heads, self.dim)
        self.keys = [torch.zeros(shape, dtype=model.dtype, device=DEVICE) for _ in self.body.layers]
        self.values = [torch.zeros_like(k) for k in self.keys]

    def __call__(self, tokens: Tensor, positions: Tensor, slots: Tensor, at: Lengths) -> Tensor:
        """The likeliest next token of each sequence, int64 [sequences]; the step's keys and values go to the cache.

        tokens, positions and slots are int32 [total]; a slot below 0 is none.
        """
        do, residual = self.functions, None
        x = self.body.embed_tokens(tokens)
        for i, layer in enumerate(self.body.layers):
            x, residual = self.normed(layer.input_layernorm, x, residual)
            own = layer.self_attn
            q = own.q_proj(x).view(-1, self.heads, self.dim)
            k = own.k_proj(x).view(-1, self.kv_heads, self.dim)
            v = own.v_proj(x).view(-1, self.kv_heads, self.dim)
            q, k = do.rotate(q, k, self.cos, self.sin, positions)
            do.store(k, v, self.keys[i], self.values[i], slots)
            found = do.attend(q, k, v, at) if at.table is None else do.attend(q, self.keys[i], self.values[i], at)
            x, residual = self.normed(layer.post_attention_layernorm, own.o_proj(found.flatten(1)), residual)
            x = layer.mlp.down_proj(do.gate(layer.mlp.gate_proj(x), layer.mlp.up_proj(x)))
        x, _ = self.normed(self.body.norm, x, residual)
        return self.head(x[at.starts[1:] - 1]).argmax(-1)

    def normed(self, norm: nn.Module, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        if residual is None:
            return self.functions.norm(x, norm.weight, self.eps), x
        return self.functions.add_norm(x, residual, norm.weight, self.eps)


class Pages:
    """The pages that are free."""

    def __init__(self, count: int) -> None:
        self.count, self.free = count, list(range(count))[::-1]

    def take(self, count: int) -> list[int]:
        return [self.free.pop() for _ in range(count)]

    def give_back(self, pages: list[int]) -> None:
        self.free += pages[::-1]
        pages.clear()


@dataclass
class Request:
    prompt: list[int]
    count: int  # tokens that it wants
    arrives: int  # the step at which it comes
    made: list[int] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)  # where its keys lie, in their order
    put_back: int = 0

    @property
    def tokens(self) -> list[int]:
        return self.prompt + self.made

    def slot(self, place: int, page: int) -> int:
        return self.pages[place // page] * page + place % page


class Step:
    """What a decoding step of `size` requests reads, in one tensor that a copy fills, and its graph on a GPU."""

    def __init__(self, model: Model, size: int, pages: int, page: int, record: bool) -> None:
        self.model, self.size, self.page = model, size, page
        words = torch.zeros(size * (4 + pages), dtype=torch.int32)
        self.host = words.pin_memory() if DEVICE == "cuda" else words
        self.words = self.host.to(DEVICE, copy=True)
        self.at = Lengths(
            torch.arange(size + 1, dtype=torch.int32, device=DEVICE), *self.parts(self.words)[3:], 1, pages * page
        )
        self.fill([])
        self.graph = self.recorded() if record else None

    def parts(self, words: Tensor) -> list[Tensor]:
        """Tokens, positions, slots, lengths and pages as views."""
        *four, table = words.split([self.size] * 4 + [words.numel() - 4 * self.size])
        return [*four, table.view(self.size, -1)]

    def fill(self, requests: list[Request]) -> None:
        """The last token of each request; what is left of the step is no sequence."""
        tokens, positions, slots, used, table = self.parts(self.host)
        for t, nothing in ((tokens, 0), (positions, 0), (slots, -1), (used, 0), (table, 0)):
            t.fill_(nothing)
        for i, request in enumerate(requests):
            place = len(request.tokens) - 1
            tokens[i], positions[i], used[i] = request.tokens[-1], place, place + 1
            slots[i] = request.slot(place, self.page)
            table[i, : len(request.pages)] = torch.tensor(request.pages, dtype=torch.int32)
        self.words.copy_(self.host, non_blocking=True)

    def call(self) -> Tensor:
        tokens, positions, slots, _, _ = self.parts(self.words)
        return self.model(tokens, positions, slots, self.at)

    def recorded(self) -> torch.cuda.CUDAGraph:
        """A graph of the step. It ran before: kernels are not compiled while a stream is captured."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.call()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.next = self.call()  # where each replay leaves the tokens
        return graph

    def __call__(self, requests: list[Request]) -> list[int]:
        self.fill(requests)
        if self.graph is None:
            return self.call()[: len(requests)].tolist()
        self.graph.replay()
        return self.next[: len(requests)].tolist()


class Server:
    """Requests through a model, step by step.

    Parameters
    ----------
    model : LlamaForCausalLM
    functions : type
        `Gems` or `Plain`.
    given : Namespace
        pages, page: pages of the cache, and tokens of a page. most: requests that run at the same time. longest: the
        tokens of the longest prompt, and that are wanted at most.
    graphs : bool
        Whether decoding steps are recorded, on a GPU.
    """

    def __init__(self, model: Any, functions: Any, given: argparse.Namespace, graphs: bool = True) -> None:
        self.model, self.page = Model(model, functions, given.pages, given.page), given.page
        self.pages, self.most, self.longest = Pages(given.pages), given.most, 2 * given.longest
        self.record = graphs and DEVICE == "cuda"
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.steps: dict[int, Step] = {}
        self.taken = self.most_running = 0

    def submit(self, request: Request) -> None:
        longest = len(request.prompt) + request.count
        if longest > min(self.longest, self.pages.count * self.page):
            raise ValueError(f"a request of {longest} tokens, which the cache does not have")
        self.waiting.append(request)

    def step(self) -> None:
        """Takes in what fits, then gives each running request a token; those that have all leave."""
        self.taken += 1
        came = list(self.admitted())
        if came:
            self.prefill(came)
            self.running += came
            self.leave()
        self.grow()
        if self.running:
            self.most_running = max(self.most_running, len(self.running))
            for request, token in zip(self.running, self.decoding()(self.running), strict=True):
                request.made.append(token)
            self.leave()

    def admitted(self) -> Iterator[Request]:
        free_places = self.most - len(self.running)
        while self.waiting and free_places and self.needed(self.waiting[0]) <= len(self.pages.free):
            request = self.waiting.popleft()
            request.pages += self.pages.take(self.needed(request))
            free_places -= 1
            yield request

    def needed(self, request: Request) -> int:
        """Pages for the tokens that it has."""
        return -(-len(request.tokens) // self.page)

    def prefill(self, requests: list[Request]) -> None:
        """One pass over all their tokens; each gets its next one."""
        lengths = [len(r.tokens) for r in requests]
        tokens = [t for r in requests for t in r.tokens]
        positions = [p for n in lengths for p in range(n)]
        slots = [r.slot(p, self.page) for r, n in zip(requests, lengths, strict=True) for p in range(n)]
        starts = [sum(lengths[:i]) for i in range(len(lengths) + 1)]
        words = [torch.tensor(w, dtype=torch.int32, device=DEVICE) for w in (tokens, positions, slots, starts, lengths)]
        at = Lengths(words[3], words[4], None, max(lengths), max(lengths))
        for request, token in zip(requests, self.model(*words[:3], at).tolist(), strict=True):
            request.made.append(token)

    def grow(self) -> None:
        """A page to each request whose tokens fill its own; the last ones are put back where there is none."""
        for request in list(self.running):
            while request in self.running and self.needed(request) > len(request.pages):
                if self.pages.free:
                    request.pages += self.pages.take(1)
                else:
                    last = self.running.pop()
                    self.pages.give_back(last.pages)
                    last.put_back += 1
                    self.waiting.appendleft(last)

    def decoding(self) -> Step:
        """The step for the least power of two of requests, or for `most`."""
        size = min(1 << (len(self.running) - 1).bit_length(), self.most)
        if size not in self.steps:
            self.steps[size] = Step(self.model, size, -(-self.longest // self.page), self.page, self.record)
        return self.steps[size]

    def leave(self) -> None:
        for request in self.running:
            if len(request.made) == request.count:
                self.pages.give_back(request.pages)
        self.running = [r for r in self.running if r.pages]

    @torch.no_grad()
    def serve(self, requests: list[Request]) -> float:
        """All requests, each from the step on at which it comes; the seconds that it took."""
        coming = deque(sorted(requests, key=lambda r: r.arrives))
        first, begin = self.taken, clock()
        while coming or self.waiting or self.running:
            while coming and coming[0].arrives <= self.taken - first:
                self.submit(coming.popleft())
            self.step()
        return clock() - begin


def drawn(given: argparse.Namespace, vocabulary: int) -> list[Request]:
    """Requests of several lengths that come one after another; the same in every call."""
    random = Random(20)

    def length() -> int:
        return random.randint(given.shortest, given.longest)

    return [
        Request([random.randrange(3, vocabulary) for _ in range(length())], length(), arrives=2 * i)
        for i in range(given.requests)
    ]


@torch.no_grad()
def alone(model: Any, request: Request) -> list[int]:
    """What the model's own generate gives to a request."""
    prompt = torch.tensor([request.prompt], device=DEVICE)
    count = request.count
    found = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=count, min_new_tokens=count, do_sample=False
    )
    return found[0, len(request.prompt) :].tolist()


def served(server: Server, given: argparse.Namespace, vocabulary: int) -> tuple[list[Request], float]:
    """The requests with their tokens, and tokens a second in the fastest of the rounds after the first."""
    best = float("inf")
    for round_ in range(given.rounds + 1):
        requests = drawn(given, vocabulary)
        seconds = server.serve(requests)
        if round_:
            best = min(best, seconds)
    assert len(server.pages.free) == server.pages.count, "every page came back"
    return requests, sum(len(r.made) for r in requests) / best


def agreeing(ours: list[Request], wanted: list[list[int]]) -> tuple[int, int]:
    """Requests with exactly these tokens, and tokens before the first that differs."""
    pairs = [(r.made, w) for r, w in zip(ours, wanted, strict=True)]
    until = [next((i for i, (a, b) in enumerate(zip(*p, strict=True)) if a != b), len(p[0])) for p in pairs]
    return sum(a == b for a, b in pairs), sum(until)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    options = parser(__doc__, "Llama-2-7b's configuration")
    options.add_argument("--requests", type=int, default=10)
    options.add_argument("--shortest", type=int, default=5, help="tokens of a prompt, and tokens wanted")
    options.add_argument("--longest", type=int, default=60)
    options.add_argument("--most", type=int, default=8, help="requests that run at the same time")
    options.add_argument("--pages", type=int, help="default: enough for all")
    options.add_argument("--page", type=int, default=16, help="tokens of a page")
    given = parsed(options, arguments)
    given.each = -(-2 * given.longest // given.page)
    given.pages = given.pages or given.most * given.each
    return given


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    from transformers import LlamaForCausalLM

    given = parse(arguments)
    config = llama_config(given.full, given.layers)
    model = made(LlamaForCausalLM, config, getattr(torch, given.dtype)).eval()
    console = Console(width=120)
    tell_model(console, "Llama", model, given.dtype)
    wanted = [alone(model, r) for r in drawn(given, config.vocab_size)]
    count = sum(map(len, wanted))
    console.print(f"{given.pages} pages of {given.page} tokens; {given.requests} requests, {count} tokens wanted")
    table = Table("functions", "steps", "at once", "put back", "same requests", "tokens until one differs", "tokens/s")
    found: dict[str, Any] = {"tokens": count, "requests": given.requests}
    for functions in (Plain, Gems):
        server = Server(model, functions, given)
        with flag_gems.use_gems() if functions is Gems else nullcontext():
            requests, speed = served(server, given, config.vocab_size)
        same, until = agreeing(requests, wanted)
        back = sum(r.put_back for r in requests)
        steps = server.taken // (given.rounds + 1)
        found[functions.name] = {"same": same, "until": until, "tokens_per_second": speed, "put_back": back}
        found[functions.name] |= {"steps": steps, "at_once": server.most_running, "graphs": sorted(server.steps)}
        table.add_row(
            functions.name, str(steps), str(server.most_running), str(back), f"{same} of {given.requests}",
            f"{until} of {count}", f"{speed:.1f}",
        )  # fmt: skip
    console.print(table)
    console.print("beside the tokens that the model's own generate gives to each request alone")
    speeds = [found[f.name]["tokens_per_second"] for f in (Gems, Plain)]
    graphs = f"decoding in graphs of {found['flag_gems']['graphs']} requests" if DEVICE == "cuda" else "no graph"
    console.print(f"{speeds[0] / speeds[1]:.2f} times the speed of torch's operators; {graphs}")
    server = Server(model, Gems, given, graphs=False)
    found["share"] = tell_share(console, lambda: server.serve(drawn(given, config.vocab_size)))
    return found


if __name__ == "__main__":
    main()
