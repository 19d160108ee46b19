"""Rotary position embeddings: tables of cosines and sines, and the kernel over them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .. import fused


def gems_rope_forward(
    query: Tensor,
    key: Tensor,
    cos: Tensor,
    sin: Tensor,
    position_ids: Tensor | None = None,
    rotary_interleaved: bool = False,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """query and key turned by the angles of their positions, in one kernel (`flag_gems.apply_rotary_pos_emb`)."""
    return fused.apply_rotary_pos_emb(query, key, cos, sin, position_ids, rotary_interleaved, inplace)


def yarn_find_correction_dim(
    num_rotations: float, dim: int, base: float = 10000, max_position_embeddings: int = 2048
) -> float:
    """The dimension, as a real number, whose angle goes round so many times in a context of that length."""
    return dim * math.log(max_position_embeddings / (num_rotations * 2 * math.pi)) / (2 * math.log(base))


def yarn_find_correction_range(
    low_rot: float, high_rot: float, dim: int, base: float = 10000, max_position_embeddings: int = 2048
) -> tuple[int, int]:
    """The first and last dimension between those that are left as they are and those that are stretched."""
    low = math.floor(yarn_find_correction_dim(low_rot, dim, base, max_position_embeddings))
    high = math.ceil(yarn_find_correction_dim(high_rot, dim, base, max_position_embeddings))
    return max(low, 0), min(high, dim - 1)


def yarn_linear_ramp_mask(min: float, max: float, dim: int) -> Tensor:
    """0 up to min, 1 from max on, and a line between, as float32 [dim]."""
    if min == max:
        max += 0.001  # one step
    return ((torch.arange(dim, dtype=torch.float32) - min) / (max - min)).clamp(0, 1)


def yarn_get_mscale(scale: float = 1, mscale: float = 1) -> float:
    """What attention is scaled by for a context that is `scale` times as long."""
    return 1.0 if scale <= 1 else 0.1 * mscale * math.log(scale) + 1.0


class GemsRope(nn.Module):
    """Rotary position embedding.

    Parameters
    ----------
    rotary_dim : int
        Dimensions of a head that are turned, an even number; the rest of a longer head is kept.
    max_position_embeddings : int
        Positions that there are.
    base : float
        The longest wave has about 2 pi times as many positions.
    rotary_interleaved : bool
        Pairs are neighbours instead of an element of either half.
    dtype : torch.dtype
        Of the tables; they are computed in float32.
    device : torch.device

    Attributes
    ----------
    cos_cached, sin_cached : Tensor [max_position_embeddings, rotary_dim / 2]
        Buffers that are not saved.
    """

    cos_cached: Tensor
    sin_cached: Tensor

    def __init__(
        self,
        rotary_dim: int,
        max_position_embeddings: int,
        base: float,
        rotary_interleaved: bool,
        dtype: torch.dtype,
        device: torch.device | str | None,
    ) -> None:
        super().__init__()
        if rotary_dim < 2 or rotary_dim % 2:
            raise ValueError(f"rotary_dim is an even number from 2 on, not {rotary_dim}")
        self.rotary_dim = rotary_dim
        self.max_position_embeddings = max_position_embeddings
        self.base = base
        self.rotary_interleaved = rotary_interleaved
        angles = torch.outer(torch.arange(max_position_embeddings, dtype=torch.float32), self._frequencies())
        for name, table in (("cos_cached", angles.cos()), ("sin_cached", angles.sin())):
            scaled = (table * self._magnitude()).to(device=device, dtype=dtype)
            self.register_buffer(name, scaled, persistent=False)

    def _waves(self) -> Tensor:
        """The angle of one position back, by pair."""
        steps = torch.arange(0, self.rotary_dim, 2, dtype=torch.float32) / self.rotary_dim
        return self.base**steps

    def _frequencies(self) -> Tensor:
        return 1.0 / self._waves()

    def _magnitude(self) -> float:
        return 1.0

    def forward(
        self, query: Tensor, key: Tensor, position_ids: Tensor | None = None, inplace: bool = False
    ) -> tuple[Tensor, Tensor]:
        """query and key, [batch, sequence, heads, dim] or [tokens, heads, dim], turned; inplace: the same tensors."""
        return gems_rope_forward(
            query, key, self.cos_cached, self.sin_cached, position_ids, self.rotary_interleaved, inplace
        )

    def extra_repr(self) -> str:
        return (
            f"{self.rotary_dim}, max_position_embeddings={self.max_position_embeddings}, base={self.base}, "
            f"rotary_interleaved={self.rotary_interleaved}"
        )


class GemsDeepseekYarnRoPE(GemsRope):
    """Rotary position embedding for contexts longer than a model was trained on, as YaRN (arXiv 2309.00071) stretches
    it and DeepSeek's models have it.

    Parameters
    ----------
    rotary_dim, max_position_embeddings, base, rotary_interleaved, dtype, device
        As in `GemsRope`.
    scaling_factor : float
        How many times longer the context is.
    original_max_position_embeddings : int
        The length that the model was trained on.
    beta_fast, beta_slow : float
        Angles that go round more often than the first in the original context stay; those that do so less often than
        the second are stretched; in between both are mixed.
    mscale, mscale_all_dim : float
        The tables are scaled by the quotient of their attention scales.
    """

    yarn_find_correction_dim = staticmethod(yarn_find_correction_dim)
    yarn_find_correction_range = staticmethod(yarn_find_correction_range)
    yarn_linear_ramp_mask = staticmethod(yarn_linear_ramp_mask)
    yarn_get_mscale = staticmethod(yarn_get_mscale)

    def __init__(
        self,
        rotary_dim: int,
        max_position_embeddings: int = 2048,
        base: float = 10000,
        rotary_interleaved: bool = False,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
        scaling_factor: float = 1.0,
        original_max_position_embeddings: int = 4096,
        beta_fast: float = 32,
        beta_slow: float = 1,
        mscale: float = 1,
        mscale_all_dim: float = 0,
    ) -> None:
        self.scaling_factor = scaling_factor
        self.original_max_position_embeddings = original_max_position_embeddings
        self.beta_fast = beta_fast
        self.beta_slow = beta_slow
        self.mscale = mscale
        self.mscale_all_dim = mscale_all_dim
        super().__init__(rotary_dim, max_position_embeddings, base, rotary_interleaved, dtype, device)

    def _frequencies(self) -> Tensor:
        low, high = yarn_find_correction_range(
            self.beta_fast, self.beta_slow, self.rotary_dim, self.base, self.original_max_position_embeddings
        )
        stretched = yarn_linear_ramp_mask(low, high, self.rotary_dim // 2)
        plain, long = 1.0 / self._waves(), 1.0 / (self.scaling_factor * self._waves())
        return long * stretched + plain * (1 - stretched)

    def _magnitude(self) -> float:
        of = self.scaling_factor
        return yarn_get_mscale(of, self.mscale) / yarn_get_mscale(of, self.mscale_all_dim)


__all__ = [
    "GemsDeepseekYarnRoPE",
    "GemsRope",
    "gems_rope_forward",
    "yarn_find_correction_dim",
    "yarn_find_correction_range",
    "yarn_get_mscale",
    "yarn_linear_ramp_mask",
]
