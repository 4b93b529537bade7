"""Element types of the file formats, and the exact way to float32."""

import numpy as np
from numpy.typing import NDArray

from cellfm.errors import WeightsError

NUMPY_OF = {
    "Bool": np.dtype(np.bool_),
    "Int8": np.dtype("<i1"),
    "UInt8": np.dtype("<u1"),
    "Int16": np.dtype("<i2"),
    "UInt16": np.dtype("<u2"),
    "Int32": np.dtype("<i4"),
    "UInt32": np.dtype("<u4"),
    "Int64": np.dtype("<i8"),
    "UInt64": np.dtype("<u8"),
    "Float16": np.dtype("<f2"),
    "Float32": np.dtype("<f4"),
    "Float64": np.dtype("<f8"),
    "BFloat16": np.dtype("<u2"),
}
"""numpy type of the stored bytes of each MindSpore type; numpy has no bfloat16, so its bits come as uint16."""

TEXT = "str"
"""MindSpore's type of a string: UTF-32 little-endian, without dimensions."""

FLOATING = ("BFloat16", "Float16", "Float32", "Float64")


def name_of(dtype: np.dtype) -> str:
    """Return MindSpore's name of a numpy type."""
    little = dtype.newbyteorder("<")
    for name, stored in NUMPY_OF.items():
        if stored == little and name != "BFloat16":
            return name
    msg = f"A tensor of type {dtype} cannot be written; MindSpore files hold {', '.join(NUMPY_OF)}. Convert it to one of these."
    raise WeightsError(msg)


def widen_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return the float32 numbers of bfloat16 bits: the same upper half, so the value is exact."""
    wide = bits.astype("<u4")
    wide <<= 16
    return wide.view("<f4")


def to_float32(name: str, array: NDArray[np.generic]) -> NDArray[np.float32]:
    """Convert the floating-point tensor `name` to float32; refuse integers and overflow."""
    if array.dtype.kind != "f":
        msg = (
            f"The tensor {name} holds {array.dtype}; weights are floating-point numbers "
            f"({', '.join(FLOATING)}). The file belongs to another model or is quantised. Give the checkpoint of this model as it was trained."
        )
        raise WeightsError(msg)
    with np.errstate(over="ignore"):
        single = array.astype("<f4", copy=False)
    if array.dtype.itemsize > 4 and not np.array_equal(np.isinf(single), np.isinf(array)):
        msg = f"The float64 tensor {name} holds numbers beyond the range of float32 (3.4e38); it cannot be converted. Store it as float32 before the conversion."
        raise WeightsError(msg)
    return single
