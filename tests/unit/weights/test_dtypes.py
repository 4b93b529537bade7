"""Conversions to float32."""

import numpy as np
import pytest

from cellfm.errors import WeightsError
from cellfm.weights.dtypes import name_of, to_float32, widen_bfloat16


def test_bfloat16_is_exact_for_every_bit_pattern() -> None:
    import torch

    bits = np.arange(1 << 16, dtype="<u2")
    expected = torch.from_numpy(bits.view("<i2").copy()).view(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(widen_bfloat16(bits).view("<u4"), expected.view("<u4"))


def test_float16_and_float64() -> None:
    half = np.array([1.5, np.inf, 6e-8], "f2")
    np.testing.assert_array_equal(to_float32("w", half), half.astype("f4"))
    double = np.array([0.1, np.nan, -np.inf])
    np.testing.assert_array_equal(to_float32("w", double), double.astype("f4"))


def test_refusals() -> None:
    with pytest.raises(
        WeightsError,
        match=r"The tensor w holds int8; weights are floating-point numbers .* quantised",
    ):
        to_float32("w", np.zeros(1, "i1"))
    with pytest.raises(
        WeightsError, match="The float64 tensor w holds numbers beyond the range of float32"
    ):
        to_float32("w", np.array([1e39]))


def test_names() -> None:
    assert [name_of(np.dtype(code)) for code in ("u2", ">f4", "?")] == ["UInt16", "Float32", "Bool"]
