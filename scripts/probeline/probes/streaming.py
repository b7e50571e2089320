"""Rows of activations in memory or on disk, gone through in blocks of bounded size."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from probeline.activations.store import MEANS, shard_facts
from probeline.errors import ProbelineError, near_misses
from probeline.files import MANIFEST, read_json

Block = npt.NDArray[np.floating[Any]]

BLOCK_BYTES = 32 * 2**20  # of a file that are read at once, while the block before is worked on
CACHED_NUMBERS = 2**18  # 1 MB of float32: what is widened stays in the processor's cache
TYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
LARGEST_HEADER = 100 * 2**20

FORMATS = "an .npy file, a .safetensors file or a folder of activations (a shard)"


@dataclass(frozen=True)
class _Stored:
    """Numbers of one file that are rows of features.

    Attributes:
        path: the file.
        dtype: of its numbers, little-endian.
        rows: their number.
        offset: of the first row, in bytes.
        row: numbers in a whole row.
        columns: (first, count) of the numbers that are wanted of each row.
    """

    path: Path
    dtype: np.dtype[Any]
    rows: int
    offset: int
    row: int
    columns: tuple[tuple[int, int], ...]

    @property
    def features(self) -> int:
        return sum(count for _, count in self.columns)

    def read(self, start: int, out: Block) -> Block:
        """Fill `out` [rows, features] with the rows from `start` on; also returned."""
        size = self.dtype.itemsize
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            first = self.offset + start * self.row * size
            if self.features == self.row:
                self._fill(descriptor, first, out.data.cast("B"))
                return out
            for number, target in enumerate(out):
                done = 0
                for column, count in self.columns:
                    place = first + (number * self.row + column) * size
                    self._fill(descriptor, place, target[done : done + count].data.cast("B"))
                    done += count
            return out
        finally:
            os.close(descriptor)

    def _fill(self, descriptor: int, place: int, target: memoryview) -> None:
        while len(target):
            count = os.preadv(descriptor, [target], place)
            if not count:
                raise ProbelineError(f"{self.path} ends too early: it was cut off. Make it again.")
            place, target = place + count, target[count:]


class ActivationDataset:
    """Rows of features with their labels; on disk, they stay there until they are asked for.

    Item i is (features, label), so that torch's DataLoader takes it, too.

    Args:
        X: an array [n, width] or [n, layers, width]; or a path or a list of paths, one after the other: .npy
            and .safetensors files of float16, float32 or float64 in the same shapes, and folders of
            activations as `extract_activations` makes them, whose rows are those of their index.parquet.
        y: labels [n] of 0 and 1, or None.
        layer: which layers of the folders, in this order; may be left out where they hold one only.
        tensor: name of the tensor in the .safetensors files; may be left out where they hold one only.

    Attributes:
        y: the labels, or None.
        layers: number of layers in a row.
        width: features of one layer.
        layer: the layers by name, where that is known.
        in_memory: whether X is an array.

    Raises:
        ProbelineError: a file that is missing, cut off or of another kind, or files that do not fit together.
    """

    def __init__(
        self,
        X: Any,
        y: Any = None,
        *,
        layer: int | Sequence[int] | None = None,
        tensor: str | None = None,
    ) -> None:
        self.y = None if y is None else np.asarray(y)
        self.layer: list[int] | None = None
        if layer is not None:
            self.layer = [layer] if isinstance(layer, int) else list(layer)
        paths = _paths(X)
        self.in_memory = paths is None
        self._files: list[_Stored] = []
        if paths is None:
            self._array = _as_rows(X)
            self._n, self.layers, self.width = self._array.shape
        else:
            self._open(paths, tensor)
        if self.layer is not None and len(self.layer) != self.layers:
            raise ProbelineError(f"layer names {len(self.layer)} layers, but the rows hold {self.layers}.")
        if self.y is not None and self.y.shape != (self._n,):
            raise ProbelineError(f"There are {self._n} rows, but labels of shape {self.y.shape}.")

    def _open(self, paths: list[Path], tensor: str | None) -> None:
        shards = [path for path in paths if path.is_dir()]
        if shards:
            self.layer = shard_facts(shards, self.layer).layers
        opened = []
        for path in paths:
            if path in shards:
                opened.append(_open_shard(path, self.layer or []))
            elif path.suffix == ".npy":
                opened.append(_open_npy(path))
            else:
                opened.append(_open_safetensors(path, tensor))
        shape = opened[0][1]
        for file, other in opened:
            if other != shape:
                raise ProbelineError(
                    f"Rows that do not fit together: [layers, width] is {list(other)} in {file.path}, but "
                    f"{list(shape)} in {opened[0][0].path}."
                )
        self._files = [file for file, _ in opened]
        self._n = sum(file.rows for file in self._files)
        self.layers, self.width = shape

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> tuple[Block, Any]:
        if not -self._n <= index < self._n:
            raise IndexError(f"row {index} of {self._n}")
        index %= self._n
        label = None if self.y is None else self.y[index]
        if self.in_memory:
            return self._array[index].ravel(), label
        for file in self._files:
            if index < file.rows:
                return file.read(index, np.empty((1, file.features), file.dtype))[0], label
            index -= file.rows
        raise IndexError(index)

    @property
    def features(self) -> int:
        """Numbers in a row, all layers together."""
        return self.layers * self.width

    @property
    def precision(self) -> np.dtype[Any]:
        """The number type that its rows are computed in: float64 if they are, else float32."""
        types = [self._array.dtype] if self.in_memory else [file.dtype for file in self._files]
        return np.dtype(np.float64 if np.float64 in types else np.float32)

    def one_layer(self, position: int) -> "ActivationDataset":
        """The same rows with one of their layers only."""
        if self.layers == 1:
            return self
        other = object.__new__(ActivationDataset)
        other.__dict__ |= self.__dict__ | {"layers": 1, "layer": self.layer and [self.layer[position]]}
        if self.in_memory:
            other._array = self._array[:, position : position + 1]
        start, stop = position * self.width, (position + 1) * self.width
        other._files = [replace(file, columns=_between(file.columns, start, stop)) for file in self._files]
        return other

    def side_by_side(self) -> "ActivationDataset":
        """The same rows with the features of all their layers as those of one."""
        other = object.__new__(ActivationDataset)
        other.__dict__ |= self.__dict__ | {"layers": 1, "width": self.features, "layer": None}
        if self.in_memory:
            other._array = self._array.reshape(self._n, 1, self.features)
        return other

    def array(self) -> Block:
        """All rows [n, features] in memory; only for those that are there already."""
        return self._array.reshape(self._n, self.features)

    def blocks(self, rows: int) -> Iterator[tuple[int, Block]]:
        """Go through all rows in order: the number of the first, and at most `rows` of them.

        What comes from disk lies in buffers that are used again: a block is valid until the next is taken.
        One thread reads ahead. Reads are bounded and not mapped, so that memory is.
        """
        if self.in_memory:
            for start in range(0, self._n, rows):
                yield start, self._array[start : start + rows].reshape(-1, self.features)
            return
        reads = self._reads(rows)
        size = max(
            (len(wanted) * self.features * file.dtype.itemsize for _, file, wanted in reads), default=0
        )
        buffers = [np.empty(size, np.uint8) for _ in range(2)]

        def start_read(number: int) -> Callable[[], Block]:
            _, file, wanted = reads[number]
            count = len(wanted) * self.features * file.dtype.itemsize
            out = buffers[number % 2][:count].view(file.dtype).reshape(len(wanted), self.features)
            return partial(file.read, wanted.start, out)

        with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
            ahead = reader.submit(start_read(0)) if reads else None
            for number, (first, _, _) in enumerate(reads):
                assert ahead is not None
                block = ahead.result()
                if number + 1 < len(reads):
                    ahead = reader.submit(start_read(number + 1))
                yield first, block

    def _reads(self, rows: int) -> list[tuple[int, _Stored, range]]:
        """What is read at once: the number of its first row, the file, and which of its rows."""
        reads, first = [], 0
        for file in self._files:
            most = max(1, min(rows, BLOCK_BYTES // (file.features * file.dtype.itemsize)))
            for start in range(0, file.rows, most):
                wanted = range(start, min(start + most, file.rows))
                reads.append((first + start, file, wanted))
            first += file.rows
        return reads


def cached_rows(features: int) -> int:
    """How many rows of so many features fit into the processor's cache."""
    return max(1, min(4096, CACHED_NUMBERS // features))


def centred(block: Block, mean: Block, out: Block) -> Block:
    """`block` minus `mean` in the number type of `out`, which is filled and returned."""
    out = out[: len(block)]
    if block.dtype == np.float16 and out.dtype == np.float32:
        _widen(block, out)
        return np.subtract(out, mean, out=out)
    return np.subtract(block, mean, out=out)


def _widen(half: Block, out: npt.NDArray[Any]) -> None:
    """Float16 as float32, exactly, six times as fast as numpy's own conversion.

    The bits of a half are those of a float32 whose exponent is 112 too small, three places further right.
    """
    if (half.view(np.uint16) & 0x7FFF).max(initial=0) >= 0x7C00:  # infinite or NaN
        np.copyto(out, half)
        return
    bits = out.view(np.int32)
    bits[...] = half.view(np.int16)  # the sign fills the upper half
    np.left_shift(bits, 13, out=bits)
    np.bitwise_and(bits, np.int32(-0x70002000), out=bits)
    np.multiply(out, np.float32(2.0**112), out=out)


def _paths(X: Any) -> list[Path] | None:
    """The paths that X consists of, or None if it is an array."""
    if isinstance(X, str | Path):
        return [Path(X)]
    if isinstance(X, list | tuple) and X and all(isinstance(part, str | Path) for part in X):
        return [Path(part) for part in X]
    return None


def _as_rows(X: Any) -> Block:
    """An array as [n, layers, width] of floats."""
    array = np.asarray(X)
    if array.ndim not in (2, 3) or array.dtype.kind not in "fiub" or 0 in array.shape[1:]:
        raise ProbelineError(
            f"X is {array.dtype} of shape {list(array.shape)}. Expected numbers [samples, width] or "
            f"[samples, layers, width]; or a list of paths, each of {FORMATS}."
        )
    if array.dtype not in TYPES.values():
        array = array.astype(np.float64)
    return array if array.ndim == 3 else array[:, None]


def _between(columns: tuple[tuple[int, int], ...], start: int, stop: int) -> tuple[tuple[int, int], ...]:
    """The part of the wanted numbers from `start` to `stop`, counted in their own order."""
    found, done = [], 0
    for first, count in columns:
        low, high = max(start - done, 0), min(stop - done, count)
        if low < high:
            found.append((first + low, high - low))
        done += count
    return tuple(found)


def _open_shard(folder: Path, layers: list[int]) -> tuple[_Stored, tuple[int, int]]:
    """The means of a shard of activations, only the layers asked for."""
    manifest = read_json(folder / MANIFEST)
    file, (depth, width) = _open_safetensors(folder / MEANS, "mean")
    if (depth, width) != (len(manifest["layers"]), manifest["hidden_size"]):
        raise ProbelineError(
            f"{file.path} is not what its manifest says. Delete {folder} to have it made again."
        )
    columns = tuple((manifest["layers"].index(layer) * width, width) for layer in layers)
    return replace(file, columns=columns), (len(layers), width)


def _open_npy(path: Path) -> tuple[_Stored, tuple[int, int]]:
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = (
                np.lib.format.read_array_header_1_0
                if version[0] == 1
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, dtype = read(file)
            offset = file.tell()
    except FileNotFoundError as error:
        raise ProbelineError(f"{path} does not exist.") from error
    except (ValueError, OSError) as error:
        raise ProbelineError(f"{path} is no .npy file: {error}. Expected {FORMATS}.") from error
    if fortran:
        raise ProbelineError(f"{path} is stored column by column. Save np.ascontiguousarray(X) instead.")
    return _stored(path, dtype, shape, offset)


def _open_safetensors(path: Path, tensor: str | None) -> tuple[_Stored, tuple[int, int]]:
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > LARGEST_HEADER:
                raise ValueError("its header is too long")
            header = orjson.loads(file.read(length))
        tensors = {name: value for name, value in header.items() if name != "__metadata__"}
        if tensor is None and len(tensors) == 1:
            (tensor,) = tensors
        if tensor not in tensors:
            raise ProbelineError(
                f"{path} holds no tensor {tensor!r}. {near_misses(str(tensor), tensors)}"
                if tensor
                else f"{path} holds several tensors. Name one: ActivationDataset(paths, tensor=...). "
                f"{near_misses('', tensors)}"
            )
        found = tensors[tensor]
        if found["dtype"] not in TYPES:
            raise ProbelineError(
                f"{tensor} in {path} is {found['dtype']}. Save it as float16 or float32: {', '.join(TYPES)}."
            )
        begin, _ = map(int, found["data_offsets"])
        shape = tuple(map(int, found["shape"]))
    except FileNotFoundError as error:
        raise ProbelineError(f"{path} does not exist. Expected {FORMATS}.") from error
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise ProbelineError(f"{path} is no .safetensors file: {error}. Expected {FORMATS}.") from error
    return _stored(path, np.dtype(TYPES[found["dtype"]]), shape, 8 + length + begin)


def _stored(
    path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int
) -> tuple[_Stored, tuple[int, int]]:
    """A file's rows, and [layers, width] of each; refuses what is no rows, or not all there."""
    if len(shape) not in (2, 3) or min(shape[1:]) < 1 or min(shape) < 0:
        raise ProbelineError(
            f"{path} holds an array of shape {list(shape)}. Expected [samples, width] or "
            "[samples, layers, width]."
        )
    if dtype not in TYPES.values():
        raise ProbelineError(f"{path} holds {dtype}. Save it as float16 or float32.")
    layers, width = (1, shape[1]) if len(shape) == 2 else (shape[1], shape[2])
    if offset < 0 or path.stat().st_size < offset + shape[0] * layers * width * dtype.itemsize:
        raise ProbelineError(f"{path} ends too early: it was cut off. Make it again.")
    row = layers * width
    return _Stored(path, dtype, shape[0], offset, row, ((0, row),)), (layers, width)
