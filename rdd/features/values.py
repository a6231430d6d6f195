"""The vectors in a binary column of features, looked at where they lie in Arrow's buffers."""

import numpy as np
import pyarrow as pa

_EXPONENTS = {2: ("<u2", 0x7C00), 4: ("<u4", 0x7F800000)}
"""By size of a float: the integer to look at it, and its bits that are all set in infinity and NaN, and in no other value."""


def lengths_of(column: pa.BinaryArray) -> np.ndarray:
    """``(n,)``: bytes of each value."""
    return np.diff(_offsets(column))


def values_of(column: pa.BinaryArray, dtype: np.dtype) -> np.ndarray:
    """The numbers in a binary column without nulls, end to end, without a copy."""
    offsets = _offsets(column)
    if not len(offsets) or offsets[-1] == offsets[0]:
        return np.empty(0, dtype=dtype)
    return np.frombuffer(column.buffers()[2], dtype=np.uint8)[offsets[0] : offsets[-1]].view(dtype)


def not_finite(values: np.ndarray) -> np.ndarray:
    """``(n,)`` bool: which values are NaN or infinite."""
    bits, exponent = _EXPONENTS[values.dtype.itemsize]
    return (values.view(bits) & exponent) == exponent


def _offsets(column: pa.BinaryArray) -> np.ndarray:
    """``(n + 1,)``: where each value begins, and the last one ends."""
    return np.frombuffer(column.buffers()[1], dtype=np.int32)[column.offset : column.offset + len(column) + 1]
