"""What each of several processes does: trains a small decoder that is shared out, with ATen and with our kernels."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flag_gems
import torch
import torch.distributed as dist
import torch.nn.functional as F
from flag_gems.modules import GemsRMSNorm
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

WIDTH, HEADS, HIDDEN, WORDS = 32, 4, 48, 50


class RMSNorm(nn.RMSNorm):
    def __init__(self) -> None:
        super().__init__(WIDTH, eps=1e-6)


class Block(nn.Module):
    """A decoder's layer. `fused`: with this package's modules and functions, which keep gradients without enable()."""

    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.fused = fused
        self.first, self.second = ((GemsRMSNorm(WIDTH) if fused else RMSNorm()) for _ in range(2))
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4))
        self.gate, self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        q, k, v = (part(h).unflatten(-1, (-1, WIDTH // HEADS)).transpose(1, 2) for part in (self.q, self.k, self.v))
        attend = flag_gems.scaled_dot_product_attention if self.fused else F.scaled_dot_product_attention
        x = x + self.o(attend(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        h = self.second(x)
        gate, up = self.gate(h), self.up(h)
        return x + self.down(flag_gems.silu_and_mul(gate, up) if self.fused else F.silu(gate) * up)


class Decoder(nn.Module):
    def __init__(self, fused: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.blocks = nn.ModuleList(Block(fused) for _ in range(2))
        self.norm, self.head = RMSNorm(), nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)) * 1  # FSDP2 warns of results that are views


def alone(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return model


def ddp(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    return nn.parallel.DistributedDataParallel(model, device_mesh=mesh, gradient_as_bucket_view=True)


def fsdp(model: Any, mesh: DeviceMesh) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def fsdp_in_halves(model: Any, mesh: DeviceMesh) -> nn.Module:
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    return fully_shard(model, mesh=mesh, mp_policy=policy)


def tensor_parallel(model: Any, mesh: DeviceMesh) -> nn.Module:
    """Heads and hidden units shared out; each process has all of the rest."""
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    for block in model.blocks:
        plan = {name: ColwiseParallel() for name in ("q", "k", "v", "gate", "up")}
        parallelize_module(block, mesh, {**plan, "o": RowwiseParallel(), "down": RowwiseParallel()})
    return model


def sequence_parallel(model: Any, mesh: DeviceMesh) -> nn.Module:
    """The same, and each process has a part of the sequence between the products; embedding and head are shared out."""
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        SequenceParallel,
        parallelize_module,
    )

    for block in model.blocks:
        whole = {"input_layouts": Shard(1), "use_local_output": True}
        plan = {name: ColwiseParallel(**whole) for name in ("q", "k", "v", "gate", "up")}
        parts = {name: RowwiseParallel(output_layouts=Shard(1), use_local_output=False) for name in ("o", "down")}
        norms = {name: SequenceParallel() for name in ("first", "second")}
        parallelize_module(block, mesh, {**plan, **parts, **norms})
    return parallelize_module(
        model,
        mesh,
        {
            "embedding": RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1), use_local_output=False),
            "norm": SequenceParallel(),
            "head": ColwiseParallel(input_layouts=Shard(1), output_layouts=Replicate()),
        },
    )


def loss_parallel(model: Any, mesh: DeviceMesh) -> nn.Module:
    """Tensor parallel, and each process has the logits of a part of the words."""
    from torch.distributed.tensor import Shard
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    head = ColwiseParallel(output_layouts=Shard(-1), use_local_output=False)
    return parallelize_module(tensor_parallel(model, mesh), mesh, {"head": head})


KINDS = {
    "alone": alone,
    "ddp": ddp,
    "fsdp": fsdp,
    "fsdp_in_halves": fsdp_in_halves,
    "tensor_parallel": tensor_parallel,
    "sequence_parallel": sequence_parallel,
    "loss_parallel": loss_parallel,
}
# In these every process sees the same batch.
OF_ONE_BATCH = ("tensor_parallel", "sequence_parallel", "loss_parallel")


def whole(t: Tensor) -> Tensor:
    """A tensor with what the other processes have of it."""
    from torch.distributed.tensor import DTensor

    return (t.full_tensor() if isinstance(t, DTensor) else t).detach().clone().cpu()


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1).float(), tokens[:, 1:].flatten())


def batch(kind: str, mesh: DeviceMesh) -> Tensor:
    """What a process trains on; alone it is the batches of all together."""
    seeds = range(mesh.size()) if kind == "alone" else [0 if kind in OF_ONE_BATCH else mesh.get_rank()]
    return torch.cat([torch.randint(WORDS, (3, 9), generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def trained(kind: str, model: nn.Module, tokens: Tensor, mesh: DeviceMesh, compiled: bool) -> dict[str, Any]:
    """Loss and gradients of a first step, and weights after two steps of AdamW with clipped gradients."""
    from torch.distributed.tensor.parallel import loss_parallel as losses

    names = [name for name, _ in model.named_parameters()]
    model = KINDS[kind](model, mesh)
    parameters = list(model.parameters())
    if compiled:
        torch.compiler.reset()
        model = torch.compile(model, backend="aot_eager")
    # torch takes no lists of tensors, and no norm of them, of which some are shared out and some are not.
    mixed = kind in ("tensor_parallel", "loss_parallel")
    optimizer = torch.optim.AdamW(parameters, lr=1e-2, foreach=False if mixed else None)
    found: dict[str, Any] = {}
    for _ in range(2):
        optimizer.zero_grad()
        with losses() if kind == "loss_parallel" else contextlib.nullcontext():
            loss = loss_of(model, tokens)
            loss.backward()
        if not found:
            gradients = {name: whole(p.grad) for name, p in zip(names, parameters, strict=True)}
            found = {"loss": float(whole(loss)), "gradients": gradients}
        if not mixed:
            torch.nn.utils.clip_grad_norm_(parameters, 0.5)
        optimizer.step()
    found["weights"] = {name: whole(p) for name, p in zip(names, parameters, strict=True)}
    return found


def compared(kind: str, fused: bool, mesh: DeviceMesh, device: str, compiled: bool) -> dict[str, Any]:
    # ATen's generator of a CPU gives other numbers than ours: both runs get the same weights.
    torch.manual_seed(0)
    plain, other = Decoder(False), Decoder(fused)
    other.load_state_dict(plain.state_dict())
    tokens = batch(kind, mesh).to(device)
    flag_gems.reset_stats()
    aten = trained(kind, plain.to(device), tokens, mesh, compiled)
    with flag_gems.use_gems():
        ours = trained(kind, other.to(device), tokens, mesh, compiled)
    return {"aten": aten, "ours": ours, "stats": flag_gems.stats()}


def own_calls() -> dict[str, Callable[..., Tensor]]:
    """Explicit and own functions of two matrices and a row."""
    cubic = flag_gems.pointwise("a * a * a + b", grad="auto", name="cubic_of_shared")
    return {
        "mm": lambda a, b, w: flag_gems.ops.mm(a, flag_gems.ops.add(b, 1.0).t()),
        "silu_and_mul": lambda a, b, w: flag_gems.silu_and_mul(a, b),
        "gelu_and_mul, a row": lambda a, b, w: flag_gems.gelu_and_mul(a, w, "tanh"),
        "cubic": lambda a, b, w: cubic(a, b),
        "skip_layer_norm": lambda a, b, w: flag_gems.skip_layer_norm(a, b, [8], w, w),
        "fused_add_rms_norm": lambda a, b, w: flag_gems.fused_add_rms_norm(a + 0, b + 0, [8], w)[0],
        "cross_entropy_loss": lambda a, b, w: flag_gems.cross_entropy_loss(a, b.softmax(1)),
    }


def explicit(mesh: DeviceMesh, device: str) -> dict[str, Any]:
    """Explicit and own functions of tensors that are shared out in several ways, beside whole ones."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    generator = torch.Generator().manual_seed(1)
    whole_ones = [torch.randn(*shape, generator=generator).to(device) for shape in ((4, 8), (4, 8), (8,))]
    found: dict[str, Any] = {}
    flag_gems.reset_stats()
    for name, call in own_calls().items():
        one = [t.clone().requires_grad_() for t in whole_ones]
        result = call(*one)
        result.square().sum().backward()
        expected = [whole(result), *(whole(t.grad) for t in one if t.grad is not None)]
        for first, second in ((Shard(0), Shard(0)), (Shard(1), Shard(0)), (Shard(1), Replicate())):
            placements = [first], [second], [Replicate()]
            pairs = zip(whole_ones, placements, strict=True)
            parts = [distribute_tensor(t.clone(), mesh, p).requires_grad_() for t, p in pairs]
            result = call(*parts)
            result.square().sum().backward()
            given = [whole(result), *(whole(t.grad) for t in parts if t.grad is not None)]
            with torch.no_grad():
                given.append(whole(call(*parts)))
            found[f"{name} {first} {second}"] = given, [*expected, expected[0]]
    return {"calls": found, "stats": flag_gems.stats()}


def work(rank: int, size: int, backend: str, folder: str, names: tuple[str, ...], compiled: bool) -> None:
    """Writes what each of `names` gave, or the text of its error, to `folder`/`rank`.pt."""
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    device = "cuda" if backend == "nccl" else "cpu"
    if device == "cuda":
        torch.cuda.set_device(rank)
    store = dist.FileStore(str(Path(folder, "store")), size)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    mesh = init_device_mesh(device, (size,))
    found: dict[str, Any] = {}
    for name in names:
        kind, _, fused = name.partition(" ")
        try:
            if kind == "explicit":
                found[name] = explicit(mesh, device)
            else:
                found[name] = compared(kind, bool(fused), mesh, device, compiled)
        except Exception:
            found[name] = traceback.format_exc()
    torch.save(found, Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()
