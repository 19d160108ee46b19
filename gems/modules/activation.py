"""Activations with two inputs."""

from __future__ import annotations

from torch import Tensor, nn

from .. import fused


def gems_silu_and_mul(x: Tensor, y: Tensor) -> Tensor:
    """silu(x) * y in one kernel."""
    return fused.silu_and_mul(x, y)


class GemsSiluAndMul(nn.Module):
    """silu(x) * y in one kernel: the gate of a feed-forward block."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return gems_silu_and_mul(x, y)
