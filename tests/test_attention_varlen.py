"""Attention of packed sequences and of pages of keys beside float64, and over a latent cache."""

from __future__ import annotations

from typing import Any

import flag_gems
import pytest
import torch

from attention_cases import DEVICE, check_latent, check_packed, close, draw, of_sequence

DTYPES = [torch.float32, torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)]
QUERIES, KEYS = [5, 0, 17, 1, 40], [9, 4, 33, 20, 0]


@pytest.mark.parametrize("page", [0, 16, 7])
@pytest.mark.parametrize("dtype", DTYPES)
def test_packed(dtype: torch.dtype, page: int) -> None:
    """Sequences of length 0 and 1, of more queries than keys, windows on both sides, pages out of order."""
    check_packed(dtype, (4, 2), (32, 32), QUERIES, KEYS, page)
    check_packed(dtype, (4, 1), (64, 64), QUERIES, KEYS, page, causal=True)
    check_packed(dtype, (2, 2), (40, 24), QUERIES, KEYS, page, causal=True, window=(7, -1))
    check_packed(dtype, (16, 1), (64, 64), QUERIES, KEYS, page, window=(7, 5))
    check_packed(dtype, (3, 3), (5, 5), [130], [301], page, window=(0, 0))


@pytest.mark.parametrize("page", [0, 16])
@pytest.mark.parametrize("dtype", DTYPES)
def test_softcap_and_alibi(dtype: torch.dtype, page: int) -> None:
    check_packed(dtype, (4, 2), (64, 64), [20, 40], [35, 60], page, window=(7, 5), softcap=3.0)
    check_packed(dtype, (4, 2), (64, 64), [20, 40], [35, 60], page, causal=True, alibi=True)
    check_packed(dtype, (4, 2), (64, 64), [1, 2], [35, 60], page, causal=True, alibi=True, softcap=3.0)


@pytest.mark.parametrize("splits", [0, 1, 3, 100])
@pytest.mark.parametrize("dtype", DTYPES)
def test_decoding(dtype: torch.dtype, splits: int) -> None:
    """Few queries and many keys, in parts that are merged in order."""
    check_packed(dtype, (8, 1), (64, 64), [1, 1, 2], [1500, 64, 700], 16, causal=True, num_splits=splits)
    check_packed(dtype, (4, 4), (128, 96), [3], [2000], num_splits=splits)


def packed(**options: Any) -> Any:
    q, k, v = draw(7, 4, 16), draw(9, 2, 16, seed=1), draw(9, 2, 16, seed=2)
    cu_q, cu_k = (torch.tensor(n, device=DEVICE, dtype=torch.int32) for n in ([0, 3, 7], [0, 4, 9]))
    given = {"max_seqlen_q": 4, "cu_seqlens_q": cu_q, "max_seqlen_k": 5, "cu_seqlens_k": cu_k, **options}
    return flag_gems.flash_attn_varlen_func(q, k, v, **given)


def test_arguments() -> None:
    out = packed()
    assert isinstance(out, torch.Tensor)
    given = torch.empty_like(out)
    assert packed(out=given) is given and torch.equal(given, out)
    both = packed(out=given, return_softmax_lse=True)
    assert both[0] is given and both[1].shape == (4, 7)
    ones = torch.ones(2, 2, device=DEVICE)
    assert torch.equal(packed(deterministic=True, q_descale=ones, k_descale=ones, v_descale=ones, fa_version=3), out)
    assert torch.equal(packed(softmax_scale=0.25), out)
    used = torch.tensor([2, 0], device=DEVICE, dtype=torch.int32)
    less = packed(seqused_k=used)
    close(
        less[:3],
        of_sequence(draw(7, 4, 16)[:3], *(draw(9, 2, 16, seed=i)[:2] for i in (1, 2)), False, (-1, -1), 0, None)[0],
    )
    assert not less[3:].any()


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"q_v": torch.ones(1)}, NotImplementedError, "q_v"),
        ({"dropout_p": 0.1}, NotImplementedError, "dropout_p"),
        ({"return_attn_probs": True}, NotImplementedError, "return_attn_probs"),
        ({"cu_seqlens_k": None}, ValueError, "cu_seqlens_k or seqused_k"),
        ({"block_table": torch.zeros(2, 1).int()}, ValueError, "seqused_k"),
        ({"cu_seqlens_q": torch.tensor([0, 3, 7])}, RuntimeError, "int32"),
        ({"softcap": -1.0}, RuntimeError, "softcap"),
        ({"alibi_slopes": torch.ones(3)}, RuntimeError, "alibi_slopes"),
    ],
)
def test_refused(options: dict[str, Any], error: type[Exception], text: str) -> None:
    options = {name: value.to(DEVICE) if isinstance(value, torch.Tensor) else value for name, value in options.items()}
    with pytest.raises(error, match=text):
        packed(**options)


def test_under_torch_ops() -> None:
    op = torch.ops.flag_gems.flash_attn_varlen_func
    q = draw(7, 2, 8)
    cu = torch.tensor([0, 3, 7], device=DEVICE, dtype=torch.int32)
    out, lse = op(q, q, q, 4, cu, 4, cu, causal=True, window_size=[2, -1])
    expected = flag_gems.flash_attn_varlen_func(
        q, q, q, 4, cu, 4, cu, causal=True, window_size=(2, -1), return_softmax_lse=True
    )
    assert torch.equal(out, expected[0]) and torch.equal(lse, expected[1])
    with pytest.raises(NotImplementedError, match="s_aux"):
        op(q, q, q, 4, cu, 4, cu, s_aux=q)
    for name, args in (
        ("attention_varlen", (q, q, q, cu, cu, None, None, None, 4, 4, 0.3, True, -1, -1)),
        ("attention_forward", (draw(2, 3, 5, 8),) * 3),
    ):
        torch.library.opcheck(getattr(torch.ops.flag_gems, name).default, args)


@pytest.mark.parametrize("dtype", DTYPES)
def test_latent_cache(dtype: torch.dtype) -> None:
    check_latent(dtype, 1, 16, [70, 1, 33])
    check_latent(dtype, 2, 4, [300, 20], 96, 64)


def test_metadata_of_the_scheduler() -> None:
    used = torch.tensor([5, 300, 100000], device=DEVICE, dtype=torch.int32)
    made = flag_gems.get_scheduler_metadata(3, 1, 100000, 8, 2, 64, 64, torch.float16, used)
    assert made.dtype == torch.int32 and made.device == used.device and made.tolist() == [0, 1, 2, 32]
    less = flag_gems.get_scheduler_metadata(3, 1, 100000, 8, 2, 64, 64, torch.float16, used, num_splits=4)
    assert less.tolist() == [0, 1, 2, 4]
