"""Functions that serve a mixture of experts: which experts a token has, and the tokens of each expert in blocks."""

from __future__ import annotations

from typing import Any

from . import ops, own

_topk_softmax = own.function("topk_softmax")
_align = own.function("moe_align_block_size")


def topk_softmax(topk_weights: Any, topk_indices: Any, token_expert_indices: Any, gating_output: Any) -> None:
    """The experts of each token: the k largest of the softmax of its logits, which is computed in float32.

    The largest comes first, of equal ones the first expert; the weights are not normalised again.

    Parameters
    ----------
    topk_weights : Tensor [tokens, k]
        Written: the probabilities. float32, float16 or bfloat16.
    topk_indices : Tensor [tokens, k]
        Written: the experts. int32, int64 or uint32.
    token_expert_indices : Tensor [tokens, k]
        Written: i * tokens + t for the i-th expert of token t. Of the same dtypes.
    gating_output : Tensor [tokens, experts]
        The logits, float32, float16 or bfloat16; at most 4096 experts.

    Raises
    ------
    DeclinedError
        For other shapes or dtypes.
    """
    k = topk_weights.shape[-1]
    _topk_softmax(gating_output, k, out0=topk_weights, out1=topk_indices, out2=token_expert_indices)


def moe_align_block_size(
    topk_ids: Any,
    block_size: int,
    num_experts: int,
    expert_map: Any = None,
    pad_sorted_ids: bool = False,
) -> tuple[Any, Any, Any]:
    """Puts the tokens of each expert together, each expert's part padded to a multiple of `block_size`.

    Parameters
    ----------
    topk_ids : Tensor [tokens, k]
        The experts of each token, of an integer dtype. What is no number of an expert is left out.
    block_size : int
    num_experts : int
        At most 1024 on a GPU.
    expert_map : Tensor [num_experts], optional
        Other numbers for the experts, int32 or int64: `expert_ids` are given by these.
    pad_sorted_ids : bool
        Makes the size of `sorted_ids` a multiple of `block_size`.

    Returns
    -------
    sorted_ids : Tensor, int32
        Places in the flat `topk_ids` by expert, ascending within each; `topk_ids.numel()` where there is padding. Its
        size, topk_ids.numel() + num_experts * (block_size - 1), is enough for any ids.
    expert_ids : Tensor, int32 or the map's dtype
        The expert of each block; the first one for blocks that are not in use.
    num_tokens_post_pad : Tensor [1], int32
        How many of the places are in use.

    Raises
    ------
    DeclinedError
        For other dtypes, or numbers out of range.
    """
    return _align(topk_ids, num_experts, block_size, expert_map, pad_sorted_ids)


def moe_align_block_size_triton(
    topk_ids: Any,
    num_experts: int,
    block_size: int,
    sorted_token_ids: Any,
    expert_ids: Any,
    num_tokens_post_pad: Any,
) -> None:
    """`moe_align_block_size` into tensors that are given, all int32; every place and every block is written.

    Parameters
    ----------
    topk_ids : Tensor [tokens, k]
    num_experts, block_size : int
    sorted_token_ids : Tensor [places]
    expert_ids : Tensor [blocks]
    num_tokens_post_pad : Tensor [1]

    Raises
    ------
    DeclinedError
        For other dtypes, or numbers out of range.
    """
    _align(topk_ids, num_experts, block_size, out0=sorted_token_ids, out1=expert_ids, out2=num_tokens_post_pad)


def moe_sum(input: Any, output: Any) -> None:
    """Writes the sum of a token's experts: `input` [tokens, k, width] over k, to `output` [tokens, width].

    Halves are added in float32 and rounded once.
    """
    ops.sum_dim_out(input, [1], out=output)


def _topk_shapes(gating_output: Any, topk: int) -> tuple[Any, Any, Any]:
    import torch

    size = (gating_output.shape[0], topk)
    return tuple(gating_output.new_empty(size, dtype=d) for d in (torch.float32, torch.int32, torch.int32))  # type: ignore


def _align_shapes(
    topk_ids: Any, num_experts: int, block_size: int, expert_map: Any = None, pad_sorted_ids: bool = False
) -> tuple[Any, Any, Any]:
    import torch

    places = topk_ids.numel() + num_experts * (block_size - 1)
    blocks = (places + block_size - 1) // block_size
    places = blocks * block_size if pad_sorted_ids else places
    of = torch.int32 if expert_map is None else expert_map.dtype
    return tuple(topk_ids.new_empty(n, dtype=d) for n, d in ((places, torch.int32), (blocks, of), (1, torch.int32)))  # type: ignore


SHAPES = {"topk_softmax": _topk_shapes, "moe_align_block_size": _align_shapes}

__all__ = ["moe_align_block_size", "moe_align_block_size_triton", "moe_sum", "topk_softmax"]
