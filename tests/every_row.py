"""Run as a program, in the cpu mode that the environment names: one call of every row, in two layouts, beside ATen.

Arguments: which part of the rows, and how many parts there are.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import flag_gems
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

import entry_args
from compare import Raised, assert_same, outcome
from layouts import LAYOUTS
from opinfo import RANDOM, rows

# A row is called in the first of these that it has.
DTYPES = (torch.float32, torch.int64, torch.bool, torch.int8, torch.float8_e4m3fn)
# Layouts in which ATen's kernel reads what does not belong to the tensor.
WRONG = {"_weight_norm_interface": ("transposed",)}


def fitting(name: str) -> list[Any] | None:
    """Arguments for operators whose shapes must fit each other; None for the others."""

    def x(*shape: int) -> Tensor:
        return entry_args.tensor("self", torch.float32, "cpu", shape)

    base, _, overload = name.partition(".")
    if base in ("linspace", "logspace") and "Tensor" in overload:
        return [2.5 if kind == "Scalar" else torch.tensor(1.5) for kind in overload.split("_")] + [9]
    target, plane = torch.arange(5) % 7, torch.arange(32).view(2, 4, 4) % 3
    stat = torch.ones(5, 1)
    repeated, along = torch.arange(40) % 7, torch.arange(200).view(5, 40) % 7
    three = [x(5, 7), x(5, 7), x(5, 7)]
    losses = {name: [*three, 1] for name in ("mse_loss_backward", "soft_margin_loss_backward")}
    losses["binary_cross_entropy_backward"] = [*three, None, 1]
    bent = {name: [*three, 1, 0.5] for name in ("smooth_l1_loss_backward", "huber_loss_backward")}
    return {
        "bernoulli": [x(5, 7) / 5],
        **losses,
        **bent,
        "glu": [x(5, 8), 1],
        "glu_backward": [x(5, 4), x(5, 8), 1],
        **{name: [x(5, 7), x(5, 7) / 2] for name in ("mse_loss", "smooth_l1_loss", "huber_loss")},
        "dot": [x(7), x(7)],
        "vdot": [x(7), x(7)],
        "addr": [x(5, 7), x(5), x(7)],
        "bincount": [repeated, x(40)],
        "histc": [x(5, 7), 6, 0, 4],
        "repeat_interleave.Tensor": [repeated],
        "mm": [x(5, 7), x(7, 6)],
        "_int_mm": [x(5, 7).to(torch.int8), x(7, 6).to(torch.int8)],
        "_scaled_mm": [
            x(5, 7).to(torch.float8_e4m3fn),
            x(7, 6).to(torch.float8_e4m3fn),
            x(1) * 4,
            x(1),
            None,
            None,
            torch.float32,
        ],
        "bmm": [x(3, 5, 7), x(3, 7, 6)],
        "addmm": [x(6), x(5, 7), x(7, 6)],
        "baddbmm": [x(3, 5, 6), x(3, 5, 7), x(3, 7, 6)],
        "mv": [x(5, 7), x(7)],
        "addmv": [x(5), x(5, 7), x(7)],
        "clamp.Tensor": [x(5, 7), x(7), x(5, 1)],
        "index_select": [x(5, 7), 1, torch.tensor([6, 0, 3])],
        "index.Tensor": [x(5, 7), [torch.tensor([[4, 0, 3], [-1, 2, 2]]), torch.tensor([6, -7, 3])]],
        "index_add": [x(5, 7), 1, repeated, x(5, 40)],
        "index_copy": [x(5, 7), 1, repeated, x(5, 40)],
        "index_reduce": [x(5, 7), 1, repeated, x(5, 40), "mean"],
        "index_fill.int_Scalar": [x(5, 7), 1, repeated, 2],
        "index_fill.int_Tensor": [x(5, 7), 1, repeated, torch.tensor(2.0)],
        "index_put": [x(5, 7), [repeated % 5, repeated], x(40), True],
        "_index_put_impl": [x(5, 7), [None, repeated], x(5, 40)],
        "scatter.src": [x(5, 7), 1, along, x(5, 40)],
        "scatter.value": [x(5, 7), 1, along, 2],
        "scatter.reduce": [x(5, 7), 1, along, x(5, 40)],
        "scatter.value_reduce": [x(5, 7), 1, along, 2],
        "scatter_reduce.two": [x(5, 7), 1, along, x(5, 40), "amin"],
        "embedding_dense_backward": [x(5, 7), torch.tensor([1, 3, 1, 8, 1]), 9, -1, False],
        "native_layer_norm_backward": [x(5, 7), x(5, 7), [7], stat, stat, x(7), x(7), [True, True, True]],
        "_fused_rms_norm_backward": [x(5, 7), x(5, 7), [7], stat, x(7), [True, True]],
        **norms(x),
        "nll_loss_forward": [x(5, 7), target, None, 1, -100],
        "nll_loss_backward": [x(1)[0], x(5, 7), target, None, 1, -100, torch.tensor(5.0)],
        "nll_loss2d_forward": [x(2, 3, 4, 4), plane, None, 1, -100],
        "nll_loss2d_backward": [x(1)[0], x(2, 3, 4, 4), plane, None, 1, -100, torch.tensor(32.0)],
        **moves(x),
        **windows(x),
        **attention(x),
    }.get(name)


def attention(x: Callable[..., Tensor]) -> dict[str, list[Any]]:
    """The same for attention. Scores are small, so that gradients are no differences of like numbers."""
    q, k, v = (t / 40 for t in (x(2, 3, 5, 8), x(2, 3, 9, 8), x(2, 3, 9, 8)))
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    inside, nothing = [x(2, n, 3, 8) / 40 for n in (5, 9, 9)], [None, None]
    return {
        "_scaled_dot_product_flash_attention_for_cpu": [q, k, v, 0.0, True],
        "_scaled_dot_product_flash_attention_for_cpu_backward": [q, q, k, v, out, lse, 0.0, False],
        "_flash_attention_forward": [*inside, None, None, 5, 9, 0.0, False, False],
        "_flash_attention_backward": [inside[0], *inside, inside[0], lse, *nothing, 5, 9, 0.0, False, *nothing],
        "_cudnn_attention_backward": [q, q, k, v, out, lse[..., None], *nothing, None, *nothing, 5, 9, 0.0, False],
        "_efficient_attention_forward": [*inside, None, *nothing, *nothing, 0.0, 1],
        "_efficient_attention_backward": [
            *(inside[0], *inside, None, inside[0], *nothing, 5, 9, lse, 0.0),
            *(torch.tensor(0), torch.tensor(0), 0, False),
        ],
        "_cudnn_attention_forward": [q, k, v, None, *nothing, 5, 9, True, 0.0, False, False],
    }


def norms(x: Callable[..., Tensor]) -> dict[str, list[Any]]:
    """The same for norms over channels."""
    data, channel, groups = x(3, 6, 4), x(6), torch.ones(3, 2)
    return {
        "_weight_norm_interface": [x(5, 7), x(5, 1), 0],
        "_weight_norm_interface_backward": [x(5, 7), x(5, 7), x(5, 1), x(5, 1) + 9, 0],
        "native_group_norm": [data, channel, channel, 3, 6, 4, 2, 1e-5],
        "native_group_norm_backward": [data, data, groups, groups, channel, 3, 6, 4, 2, [True, True, True]],
        "native_batch_norm": [data, channel, channel, x(6), x(6) + 9, True, 0.1, 1e-5],
        "_native_batch_norm_legit.no_stats": [data, channel, channel, True, 0.1, 1e-5],
        "_native_batch_norm_legit_no_training": [data, channel, channel, channel, channel + 9, 0.1, 1e-5],
        "native_batch_norm_backward": [data, data, channel, channel, channel, channel, channel, True, 1e-5, [True] * 3],
    }


def moves(x: Callable[..., Tensor]) -> dict[str, list[Any]]:
    """The same for index maps and copies of views."""
    pads = {1: [2, 1], 2: [1, 2, 2, 0], 3: [1, 0, 2, 1, 0, 1]}
    shapes = {1: (5, 7), 2: (2, 5, 7), 3: (2, 3, 5, 7)}
    padded = {1: (5, 10), 2: (2, 7, 10), 3: (2, 4, 8, 8)}
    return {
        **{f"{kind}_pad{n}d": [x(*shapes[n]), pads[n]] for kind in ("reflection", "replication") for n in pads},
        **{
            f"{kind}_pad{n}d_backward": [x(*padded[n]), x(*shapes[n]), pads[n]]
            for kind in ("reflection", "replication")
            for n in pads
        },
        "constant_pad_nd": [x(5, 7), [1, 2, -1, 1], 0],
        "flip": [x(5, 7), [0, 1]],
        "roll": [x(5, 7), [2, -3], [0, 1]],
        "diag_embed": [x(5, 7), 1],
        "diagonal_backward": [x(2, 5), [5, 2, 7], 1, 0, 2],
        "select_backward": [x(5, 7), [5, 3, 7], 1, 1],
        "slice_backward": [x(5, 3), [5, 7], 1, 0, 7, 3],
        "select_scatter": [x(5, 7), x(5), 1, 2],
        "slice_scatter": [x(5, 7), x(2, 7), 0, 1, 4, 2],
        "diagonal_scatter": [x(5, 7), x(4), -1],
        "repeat": [x(5, 7), [2, 3]],
        "pixel_shuffle": [x(8, 3, 5), 2],
        "pixel_unshuffle": [x(2, 6, 4), 2],
        "channel_shuffle": [x(2, 6, 5), 3],
        "as_strided_copy": [x(5, 7), [3, 4], [2, 3]],
        "expand_copy": [x(5, 7), [2, 5, 7]],
        "narrow_copy": [x(5, 7), 1, 2, 4],
        "permute_copy": [x(5, 7), [1, 0]],
        "select_copy.int": [x(5, 7), 1, 3],
        "squeeze_copy.dims": [x(5, 7), [0, 1]],
        "transpose_copy.int": [x(5, 7), 0, 1],
        "unfold_copy": [x(5, 7), 1, 3, 2],
        "view_copy": [x(5, 7), [7, 5]],
    }


def windows(x: Callable[..., Tensor]) -> dict[str, list[Any]]:
    """The same for pooling, resampling and convolution."""
    image, pooled = x(2, 3, 7, 6), x(2, 3, 3, 3)
    places = (
        torch.arange(54).view(2, 3, 3, 3) % 9 // 3 * 12 + torch.arange(54).view(2, 3, 3, 3) % 3 * 2
    )  # one in each window
    return {
        "avg_pool2d": [image, [3, 2], [2, 2], [1, 0]],
        "avg_pool2d_backward": [x(2, 3, 4, 3), image, [3, 2], [2, 2], [1, 0], False, True, None],
        "max_pool2d_with_indices": [image, [3, 2], [2, 2], [1, 0]],
        "max_pool2d_with_indices_backward": [pooled, image, [3, 2], [2, 2], [0, 0], [1, 1], False, places],
        "convolution": [image, x(4, 3, 3, 2), x(4), [2, 1], [1, 0], [1, 1], False, [0, 0], 1],
        "convolution_backward": [
            x(2, 4, 4, 5),
            image,
            x(4, 3, 3, 2),
            [4],
            [2, 1],
            [1, 0],
            [1, 1],
            False,
            [0, 0],
            1,
            [True] * 3,
        ],
        "_conv_depthwise2d": [image, x(3, 1, 3, 3), [3, 3], x(3), [1, 2], [1, 1], [1, 1]],
        **{name: [image, [9, 8]] for name in ("upsample_nearest2d", "_upsample_nearest_exact2d")},
        **{
            f"{name}_backward": [image, [7, 6], [2, 3, 5, 4]]
            for name in ("upsample_nearest2d", "_upsample_nearest_exact2d")
        },
        **{f"_upsample_{kind}2d_aa": [image, [4, 9], False] for kind in ("bilinear", "bicubic")},
        **{f"_upsample_{kind}2d_aa_backward": [image, [7, 6], [2, 3, 5, 9], False] for kind in ("bilinear", "bicubic")},
    }


def laid_out(value: Any, layout: str) -> Any:
    """An argument with every tensor in a layout; one that the layout does not concern stays."""

    def one(item: Any) -> Any:
        changed = LAYOUTS[layout](item) if isinstance(item, Tensor) else None
        return item if changed is None else changed

    return tree_map(one, value)


def work(part: int, parts: int) -> list[tuple[str, str, torch.dtype]]:
    """(overload, layout, dtype): the first overload of each row, in the first of the dtypes that it has.

    ATen's attention takes the last dimension for contiguous without a look.
    """
    found = []
    for row in list(rows())[part::parts]:
        layouts = ("contiguous",) if row["family"] == "attention" else ("contiguous", "transposed")
        dtype = next(d for d in DTYPES if str(d)[6:] in row["dtypes"])
        name = row["entries"][0]["name"]
        found += [(name, layout, dtype) for layout in layouts if layout not in WRONG.get(name, ())]
    return found


def run(name: str, layout: str, dtype: torch.dtype) -> Any:
    function, args, kwargs = entry_args.arguments(name, dtype, "cpu")
    args = fitting(name) or args
    return function(*laid_out(args, layout), **kwargs)


def main(part: int = 0, parts: int = 1) -> int:
    torch.set_num_threads(1)
    items = work(part, parts)
    expected = [outcome(lambda i=item: run(*i)) for item in items]
    wrong = []
    flag_gems.enable()
    with ThreadPoolExecutor(2) as pool:  # compiling runs beside
        ours = list(pool.map(lambda item: outcome(lambda: run(*item)), items))
    stats = flag_gems.stats()
    flag_gems.disable()
    not_run = sorted({name for name, _, _ in items if not stats.get(name, {}).get("kernel")})
    for item, result, wanted in zip(items, ours, expected, strict=True):
        if item[0].split(".")[0] in RANDOM:
            if isinstance(result, Raised):
                wrong.append(f"{item}: {result}")
            continue
        if isinstance(wanted, Raised) and not isinstance(result, Raised):
            continue  # ATen has no kernel of its own for it on a CPU
        try:
            assert_same(result, wanted, None, str(item))
        except AssertionError as error:
            wrong.append(f"{item}: {error}")
    print("\n".join(wrong), file=sys.stderr)
    print(f"{len(items)} calls, {len(wrong)} wrong, not run: {not_run}, {flag_gems._C.jit_stats()}")
    return 1 if wrong or not_run else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
