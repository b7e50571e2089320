"""A safetensors file that is written row by row, so that a shard never has to fit into memory.

The format (a length, a JSON header, the tensor's bytes) is that of https://github.com/huggingface/safetensors;
its own library writes whole tensors only.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

# The header's length is settled before the number of rows is known; the rest of it is blank, as the format
# allows.
HEADER_BYTES = 248
LENGTH_BYTES = 8
TYPES = {"float32": "F32", "float16": "F16"}


class TensorFile:
    """One tensor of a safetensors file; rows are appended until it is closed.

    Args:
        path: the file to write.
        name: the tensor's name.
        row_shape: shape of one row.
        dtype: `float32` or `float16`.

    Attributes:
        row_shape: shape of one row.
    """

    def __init__(self, path: Path, name: str, row_shape: Sequence[int], dtype: str) -> None:
        self._path = path
        self._name = name
        self.row_shape = tuple(row_shape)
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._rows = 0
        self._file = path.open("wb")
        self._file.seek(LENGTH_BYTES + HEADER_BYTES)

    def append(self, rows: np.ndarray) -> tuple[int, int]:
        """Write rows [any, *row_shape]; where in the file they lie, as offset and length."""
        if rows.shape[1:] != self.row_shape:
            raise ValueError(f"rows of shape {rows.shape[1:]} in {self._path}, not {self.row_shape}")
        data = np.ascontiguousarray(rows, dtype=self._dtype).tobytes()
        offset = self._file.tell()
        self._file.write(data)
        self._rows += len(rows)
        return offset, len(data)

    def __enter__(self) -> "TensorFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._file:
            if error is None:
                length = self._file.tell() - LENGTH_BYTES - HEADER_BYTES
                tensor = {
                    "dtype": TYPES[self._dtype.name],
                    "shape": [self._rows, *self.row_shape],
                    "data_offsets": [0, length],
                }
                header = json.dumps({self._name: tensor}).encode().ljust(HEADER_BYTES)
                self._file.seek(0)
                self._file.write(len(header).to_bytes(LENGTH_BYTES, "little") + header)
