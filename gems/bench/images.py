"""Arguments of rows over images, of attention and of weight_norm, by the row's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten
FAMILIES = ("attention", "convolution", "pool", "resample", "weight_norm")


def arguments(name: str, tensor: Callable[..., Tensor], n: int, columns: int) -> tuple[str, list[Any]]:
    """The shape, and the arguments of a call: about n elements, `columns` of them in a row of weight_norm."""
    side, channels = (64, 64) if n >= 1 << 20 else (16, 4)
    image = (max(1, n // (channels * side * side)), channels, side, side)
    rows = max(1, n // columns)
    length, width = (1024, 64) if n >= 1 << 20 else (16, 16)
    heads = (max(1, n // (8 * length * width)), 8, length, width)

    def window(*more: Any) -> list[Any]:
        return [[3, 3], [2, 2], [1, 1], *more]

    def grad(half: bool) -> Tensor:
        return tensor(*image[:2], *((side // 2,) * 2 if half else (2 * side,) * 2))

    def largest() -> list[Any]:
        x = tensor(*image)
        places = aten.max_pool2d_with_indices(x, *window([1, 1], False))[1]
        return [grad(True), x, *window([1, 1], False), places]

    def convolved(*more: Any) -> list[Any]:
        return [tensor(*image), tensor(channels, channels, 3, 3), *more, [1, 1], [1, 1], [1, 1], False, [0, 0], 1]

    def attended() -> list[Any]:
        q, k, v = (tensor(*heads) for _ in range(3))
        return [tensor(*heads), q, k, v, *aten._scaled_dot_product_flash_attention_for_cpu(q, k, v), 0.0, False]

    def flash_backward() -> list[Any]:
        inside = [tensor(*heads).transpose(1, 2) for _ in range(5)]
        lse = torch.zeros(*heads[:3], device=inside[0].device)
        return [*inside, lse, None, None, length, length, 0.0, False, None, None]

    def cudnn_backward() -> list[Any]:
        lse = torch.zeros(*heads[:3], 1, device=tensor(1).device)
        return [*(tensor(*heads) for _ in range(5)), lse, *[None] * 5, length, length, 0.0, False]

    def efficient_backward() -> list[Any]:
        grad, q, k, v, out, lse, *_ = flash_backward()
        rest = (lse, 0.0, torch.tensor(0), torch.tensor(0), 0, False)
        return [grad, q, k, v, None, out, None, None, length, length, *rest]

    larger = [2 * side, 2 * side]
    made: dict[str, Callable[[], list[Any]]] = {
        "avg_pool2d": lambda: [tensor(*image), *window(False, True, None)],
        "avg_pool2d_backward": lambda: [grad(True), tensor(*image), *window(False, True, None)],
        "max_pool2d_with_indices": lambda: [tensor(*image), *window([1, 1], False)],
        "max_pool2d_with_indices_backward": largest,
        "convolution": lambda: convolved(tensor(channels)),
        "convolution_backward": lambda: [tensor(*image), *convolved([channels]), [True] * 3],
        "_conv_depthwise2d": lambda: [tensor(*image), tensor(channels, 1, 3, 3), [3, 3], None, [1, 1], [1, 1], [1, 1]],
        "_weight_norm_interface": lambda: [tensor(rows, columns), tensor(rows, 1), 0],
        "_weight_norm_interface_backward": lambda: [
            *(tensor(rows, columns) for _ in range(2)),
            *(tensor(rows, 1) for _ in range(2)),
            0,
        ],
        "_scaled_dot_product_flash_attention_for_cpu": lambda: [tensor(*heads) for _ in range(3)],
        "_scaled_dot_product_flash_attention_for_cpu_backward": attended,
        "_flash_attention_forward": lambda: [
            *(tensor(*heads).transpose(1, 2) for _ in range(3)),
            *(None, None, length, length, 0.0, False, False),
        ],
        "_flash_attention_backward": flash_backward,
        "_cudnn_attention_backward": cudnn_backward,
        "_efficient_attention_forward": lambda: [
            *(tensor(*heads).transpose(1, 2) for _ in range(3)),
            *(None, None, None, None, None, 0.0, 0),
        ],
        "_efficient_attention_backward": efficient_backward,
        "_cudnn_attention_forward": lambda: [
            *(tensor(*heads) for _ in range(3)),
            *(None, None, None, length, length, True, 0.0, False, False),
        ],
    }
    for kind in ("upsample_nearest2d", "_upsample_nearest_exact2d"):
        made[kind] = lambda: [tensor(*image), larger, None, None]
        made[f"{kind}_backward"] = lambda: [grad(False), larger, [*image], None, None]
    for kind in ("bilinear", "bicubic"):
        made[f"_upsample_{kind}2d_aa"] = lambda: [tensor(*image), larger, False, None, None]
        made[f"_upsample_{kind}2d_aa_backward"] = lambda: [grad(False), larger, [*image], False, None, None]
    args = made[name]()
    return "x".join(map(str, args[0].shape)), args
