"""Small models of the transformers package: what they give, learn and say is as with ATen, from our kernels."""

from __future__ import annotations

import pytest
import torch

import models


@pytest.mark.parametrize("name", models.MODELS)
def test_trained_and_asked_for_tokens(name: str) -> None:
    found = models.compare(models.MODELS[name](False, None, torch.float32), 0, 8)
    assert found["output_difference"] < 1e-5 and found["loss_difference"] < 1e-5
    assert found["gradient_difference"] < 1e-4
    assert found["same_tokens"]
    assert found["kernel_share"] >= 0.95, (found["declined"], found["missing"])
