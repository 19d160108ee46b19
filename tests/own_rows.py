"""Run as a program, in the cpu mode that the environment names: own rows beside what they are composed of."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from flag_gems import own
from torch import Tensor

from compare import tensors
from layouts import LAYOUTS


def x(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def grads(*shape: int) -> list[Tensor]:
    """Gradients of three results."""
    return [x(*shape, seed=seed) for seed in range(4, 7)]


def calls() -> dict[str, list[list[Any]]]:
    """Arguments of calls of each row; lengths that a warp takes, a block, and one that is kept in shared memory."""
    classes, image = torch.arange(5) % 7, torch.arange(32).view(2, 4, 4) % 3
    classes[2] = -100
    share = x(5, 7, seed=1).softmax(1)
    losses = [
        [x(5, 7), classes],
        [x(5, 7), classes, x(7, seed=2).abs(), 0, -100, 0.1],
        [x(5, 7), share, x(7, seed=2).abs(), 2, -100, 0.1],
        [x(3, 1100), torch.tensor([3, 1099, 0])],
        [x(2, 3, 4, 4), image],
        [x(2, 3, 4, 4), x(2, 3, 4, 4, seed=1).softmax(1), None, 0],
        [x(2, 3, 4, 4).to(memory_format=torch.channels_last), image, None, 2, -100, 0.2],
    ]
    return {
        "skip_layer_norm": [
            [x(5, 7), x(5, 7, seed=1), [7], x(7, seed=2), x(7, seed=3)],
            [x(3, 1028), x(3, 1028, seed=1), [1028], None, None],
            [x(2, 40000), x(2, 40000, seed=1), [40000], None, None],
        ],
        "fused_add_rms_norm": [
            [x(5, 7), x(5, 7, seed=1), x(7, seed=2), 1e-5],
            [x(3, 1028), x(3, 1028, seed=1), x(1028, seed=2), 1e-5],
        ],
        "rms_norm": [[x(5, 7), x(7, seed=2), 1e-5]],
        "rwkv_ka_fusion": [[x(5, 12), x(12, seed=1), x(5, 12, seed=2), x(12, seed=3), 3, 4]],
        "skip_layer_norm_backward": [
            [x(5, 7, seed=4), x(5, 7), x(5, 7, seed=1), x(7, seed=2), x(7, seed=3), [7]],
            [x(3, 1028, seed=4), x(3, 1028), x(3, 1028, seed=1), x(1028, seed=2), None, [1028]],
            [x(2, 9000, seed=4), x(2, 9000), x(2, 9000, seed=1), None, None, [9000]],
        ],
        "rms_norm_backward": [
            [x(5, 7, seed=1), x(5, 7), x(7, seed=2), 1e-5],
            [x(150, 1028, seed=1), x(150, 1028), x(1028, seed=2), 1e-5],
        ],
        "rwkv_ka_fusion_backward": [
            [*grads(70, 12), x(70, 12), x(12, seed=1), x(70, 12, seed=2), x(12, seed=3), 3, 4],
            [*grads(2, 3, 14), x(2, 3, 14), x(14, seed=1), x(2, 3, 14, seed=2), x(14, seed=3), 2, 7],
        ],
        "cross_entropy": losses,
    }


def laid_out(args: list[Any], layout: str) -> list[Any]:
    """Copies of the arguments, the tensors in a layout where that keeps their shape."""
    found = []
    for arg in args:
        changed = arg
        if isinstance(arg, Tensor):
            with torch.no_grad():
                other = LAYOUTS[layout](arg)
            changed = arg.clone() if other is None or other is arg or other.shape != arg.shape else other
        found.append(changed)
    return found


def gradients(function: Any, args: list[Any]) -> Any:
    """Results of a loss and the gradient of its logits."""
    logits = args[0].detach().requires_grad_()
    loss = function(logits, *args[1:])[0]
    return [loss.detach(), torch.autograd.grad(loss, logits, torch.ones_like(loss))[0].contiguous()]


def check(item: tuple[str, list[Any], str]) -> str:
    name, args, layout = item
    function, composed = own.function(name), own.COMPOSED[name]
    mine, theirs = laid_out(args, layout), laid_out(args, "contiguous")
    try:
        if name == "cross_entropy":
            ours, expected = gradients(function, mine), gradients(composed, theirs)
        else:
            ours, expected = function(*mine), composed(*theirs)
        if ours is None:  # written in place
            ours, expected = tensors(mine), tensors(theirs)
            ours = [t.contiguous() for t in ours]
        for a, b in zip(tensors(ours), tensors(expected), strict=True):
            torch.testing.assert_close(a, b.contiguous(), rtol=1e-5, atol=1e-5)
    except Exception as error:
        return f"{name} {layout} {[tuple(t.shape) for t in tensors(args)]}: {type(error).__name__} {error}"
    return ""


def main() -> int:
    torch.set_num_threads(1)
    import flag_gems

    found = calls()
    layouts = ("contiguous", "offset", "stepped")
    work = [(name, args, layout) for name in found for args in found[name] for layout in layouts]
    with ThreadPoolExecutor(2) as pool:
        wrong = [text for text in pool.map(check, work) if text]
    stats = flag_gems.stats()
    wrong += [f"{name} was declined: {stats.get(f'flag_gems::{name}')}" for name in found if fell_back(stats, name)]
    print("\n".join(wrong), file=sys.stderr)
    print(f"{len(work)} calls, {len(wrong)} wrong")
    return 1 if wrong else 0


def fell_back(stats: dict[str, Any], name: str) -> bool:
    counted = stats.get(f"flag_gems::{name}", {"kernel": 0, "fallback": 0})
    return not counted["kernel"] or bool(counted["fallback"])


if __name__ == "__main__":
    sys.exit(main())
