"""pointwise_dynamic: the interface that FlagGems' users know."""

from __future__ import annotations

from typing import Any

import flag_gems
import pytest
import torch
from flag_gems import ExpressionError
from flag_gems.utils import pointwise_dynamic

from expressions import draw

DEVICE = flag_gems.device


def test_pointwise_dynamic() -> None:
    gate = pointwise_dynamic("x * sigmoid(y)", promotion_methods=[(0, 1, "DEFAULT")])
    x, y = draw("real", 4, 3, dtype=torch.float32), draw("real", 3, dtype=torch.float32, seed=1)
    torch.testing.assert_close(gate(x, y), x * torch.sigmoid(y))
    out = torch.empty(4, 3, device=DEVICE)
    assert gate(x, y, out0=out) is out

    @pointwise_dynamic(num_inputs=3, promotion_methods=[(1, 2, "NO_OPMATH")])
    def pick(condition: str, x: str, y: str) -> str:
        return "condition ? x : y"

    torch.testing.assert_close(pick(x > 0, x, y), torch.where(x > 0, x, y))
    added = pointwise_dynamic(
        lambda x, y, alpha: "x + alpha * y",
        is_tensor=[True, True, False],
        dtypes=[None, None, float],
        promotion_methods=[(0, 1, "DEFAULT")],
    )
    torch.testing.assert_close(added(x, y, 0.5), x + 0.5 * y)


@pytest.mark.parametrize(
    ("kind", "text", "reference"),
    [
        ("DEFAULT", "x * y", torch.mul),
        ("NO_OPMATH", "x > y ? x : y", torch.maximum),
        ("INT_TO_FLOAT", "x / y", torch.div),
        ("ALWAYS_BOOL", "x <= y", torch.le),
        ("COMPLEX_TO_FLOAT", "abs(x) + 0 * y", lambda x, y: x),
        ("BOOL_TO_LONG", "x + y", lambda x, y: (x.long() if x.dtype == torch.bool else x) + y),
    ],
)
@pytest.mark.parametrize(
    "dtype",
    [torch.float16, torch.bool, *(pytest.param(d, marks=pytest.mark.slow) for d in (torch.float32, torch.int32))],
)
def test_promotion_kinds(kind: str, text: str, reference: Any, dtype: torch.dtype) -> None:
    operator = pointwise_dynamic(text, promotion_methods=[(0, 1, kind)])
    x = torch.tensor([1, 2, 3, 4, 0]).to(dtype).to(DEVICE)
    y = torch.tensor([2, 1, 3, 1, 1]).to(dtype).to(DEVICE)
    result, expected = operator(x, y), reference(x, y)
    assert result.dtype == expected.dtype
    torch.testing.assert_close(result, expected)


def test_a_triton_function_gets_an_error_that_names_the_form() -> None:
    class JITFunction:
        def __call__(self, x: Any, y: Any) -> Any: ...

    def over_blocks(x: Any, y: Any) -> Any:
        return x.to(float) * y

    for source in (JITFunction(), over_blocks):
        with pytest.raises(NotImplementedError, match=r'pointwise_dynamic\("x \* sigmoid\(y\)"'):
            pointwise_dynamic(source, promotion_methods=[(0, 1, "DEFAULT")])  # type: ignore[arg-type]
    with pytest.raises(ExpressionError, match="2 arguments"):
        pointwise_dynamic("x + y", num_inputs=3)
    with pytest.raises(ExpressionError, match="1 output, not 2"):
        pointwise_dynamic("x + y", num_outputs=2)
