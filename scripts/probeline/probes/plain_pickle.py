"""Reading pickles of others without running anything in them.

A pickle is a program: it may name any function of any module and have it called. Here it can name the few of
`NAMES` only, and gets none of those: each stands for a constructor below, which takes plain values and
gives plain values. Whatever else it asks for is refused by name.
"""

import io
import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from probeline.errors import ProbelineError

MOST_BYTES = 2**30
MOST_OPCODES = 2_000_000
MOST_TUPLES = 30_000  # hashing a deeper nest of tuples overflows the stack
MOST_NUMBERS = 2**27
MOST_COPIED = 4 * 2**30  # a call can copy the largest text that the pickle holds
DEEPEST = 20
TOO_MUCH = "it has more or larger parts than a detector can have."

LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # torch.save before 1.6 begins so
LEGACY_HEADERS = 3  # pickles before the one that holds the object
DTYPE = re.compile(r"[fiu][248]|[iu]1|b1")
ACCEPTED = "Only tensors, arrays, numbers, strings, lists and dicts are accepted."

Numbers = npt.NDArray[np.floating[Any] | np.integer[Any] | np.bool_]


class _Dtype:
    """A numeric type of numpy's: `f8`, and which byte comes first."""

    def __init__(self, code: Any, align: Any = False, copy: Any = True) -> None:
        if not (isinstance(code, str) and DTYPE.fullmatch(code)):
            _refuse(f"an array of the type {ascii(code)[:40]}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order, *fields = state[1:5]
        if any(field is not None for field in fields) or order not in ("<", ">", "|", "="):
            _refuse("an array with fields")
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array or a tensor whose numbers are still to come, or are there."""

    def __init__(self, values: Any = None) -> None:
        self.values = values

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.values = _numbers(data, dtype, shape, "F" if fortran else "C")


class _Storage:
    """The numbers under a tensor."""

    def __init__(self, storage: Any) -> None:
        self.storage = storage


class _Constructor:
    """What a pickle gets in place of a function that it names; it cannot be changed by the pickle."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __call__(self, *arguments: Any) -> Any:
        return self._make(*arguments)

    def __setstate__(self, state: Any) -> None:
        _refuse("to change a function")


def _refuse(what: str) -> NoReturn:
    raise ProbelineError(f"it asks for {what}. {ACCEPTED}")


def _numbers(data: Any, dtype: Any, shape: Any, order: str) -> Numbers:
    if not isinstance(data, bytes | bytearray) or not isinstance(dtype, _Dtype):
        _refuse("an array of objects")
    return np.frombuffer(bytes(data), dtype.dtype).reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not NAMES["numpy.ndarray"]:
        _refuse("a subclass of numpy.ndarray")
    return _Array()


def _ndarray(*arguments: Any) -> NoReturn:
    _refuse("a call of numpy.ndarray")


def _scalar(dtype: Any, data: Any) -> Any:
    return _numbers(data, dtype, (), "C").item()


def _frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    return _Array(_numbers(data, dtype, shape, order))


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How pickles of protocol 2 hold bytes."""
    if encoding != "latin1" or not isinstance(text, str):
        _refuse("_codecs.encode for something else than bytes")
    return text.encode("latin1")


def _empty(*arguments: Any) -> bytes:
    if arguments:
        _refuse("builtins.bytes with arguments")
    return b""


def _ordered(*arguments: Any) -> dict[Any, Any]:
    if arguments:
        _refuse("collections.OrderedDict with arguments")
    return {}


def _load_from_bytes(data: Any) -> _Storage:
    """The storage of a tensor in a plain pickle: a file of torch's inside it."""
    import torch

    loaded = _read_torch(data)
    if not isinstance(loaded, torch.storage.TypedStorage):
        _refuse(f"a tensor whose storage is {type(loaded).__name__}")
    return _Storage(loaded)


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> _Array:
    import torch

    if not isinstance(storage, _Storage):
        _refuse("a tensor without a storage")
    flat = torch.empty(0, dtype=storage.storage.dtype).set_(storage.storage)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if min(0, offset, *size, *stride) < 0 or (0 not in size and last >= flat.numel()):
        raise ProbelineError("it holds a tensor that reaches beyond its storage.")
    return _Array(flat.as_strided(tuple(size), tuple(stride), offset))


def _rebuild_parameter(data: Any, *rest: Any) -> Any:
    return data


NAMES = {
    "numpy.ndarray": _Constructor(_ndarray),
    "numpy.dtype": _Constructor(_Dtype),
    "numpy.core.multiarray._reconstruct": _Constructor(_reconstruct),
    "numpy._core.multiarray._reconstruct": _Constructor(_reconstruct),
    "numpy.core.multiarray.scalar": _Constructor(_scalar),
    "numpy._core.multiarray.scalar": _Constructor(_scalar),
    "numpy.core.numeric._frombuffer": _Constructor(_frombuffer),
    "numpy._core.numeric._frombuffer": _Constructor(_frombuffer),
    "_codecs.encode": _Constructor(_encode),
    "builtins.bytes": _Constructor(_empty),
    "__builtin__.bytes": _Constructor(_empty),
    "collections.OrderedDict": _Constructor(_ordered),
    "torch.storage._load_from_bytes": _Constructor(_load_from_bytes),
    "torch._utils._rebuild_tensor_v2": _Constructor(_rebuild_tensor),
    "torch._utils._rebuild_parameter": _Constructor(_rebuild_parameter),
}
"""All that a pickle may name, and what it gets instead."""

STORAGES = {
    f"torch.{kind}Storage"
    for kind in ("Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
}
"""What a file of torch's may name beside that; torch.load takes them for the types of its tensors."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in NAMES:
            _refuse(printable(f"{module}.{name}"))
        return NAMES[f"{module}.{name}"]


def read_plain(file: Path) -> tuple[Any, str]:
    """What a pickle or a file of torch's holds, as dicts, lists, strings, numbers and arrays.

    Args:
        file: made by pickle.dump or by torch.save, of any age.

    Returns:
        The value, and which of `pickle`, `torch` and `torch, legacy` the file is.

    Raises:
        ProbelineError: anything else in it, named; too large, damaged, or neither kind of file. Nothing that
            the file asks for is run.
    """
    if file.stat().st_size > MOST_BYTES:
        raise ProbelineError(f"{file} is larger than {MOST_BYTES // 2**20} MiB: that is no detector.")
    data = file.read_bytes()
    zipped, legacy = data.startswith(b"PK\x03\x04"), data.startswith(LEGACY)
    try:
        if zipped or legacy:
            content = _read_torch(data)
        else:
            _scan(io.BytesIO(data), NAMES.keys())
            content = _Unpickler(io.BytesIO(data)).load()
        form = "torch" if zipped else "torch, legacy" if legacy else "pickle"
        return _Plain().value(content, "the file", 0), form
    except ProbelineError as error:
        raise ProbelineError(f"{file} was refused, and nothing in it was run: {error}") from error
    except Exception as error:
        # Bytes that are no pickle, or a damaged one, can raise anything.
        reason = printable(str(error).partition("\n")[0]) or type(error).__name__
        raise ProbelineError(
            f"{file} is no pickle and no file of torch.save, or a damaged one ({reason}). Nothing in it "
            "was run."
        ) from error


def _scan(stream: io.BytesIO, allowed: Any) -> None:
    """Refuse a pickle before it is read: by the names in it, and by what it would cost."""
    tuples = calls = largest = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if opcode.name in ("GLOBAL", "INST") and str(argument).replace(" ", ".", 1) not in allowed:
            _refuse(printable(str(argument).replace(" ", ".", 1)))
        if opcode.name in ("EMPTY_SET", "FROZENSET", "EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER"):
            _refuse(f"the operation {opcode.name}")
        tuples += opcode.name.startswith("TUPLE")
        calls += opcode.name in ("REDUCE", "INST", "OBJ")
        largest = max(largest, len(argument) if isinstance(argument, str | bytes | bytearray) else 0)
        # An index into the memo makes room for all below it.
        index = int(argument or 0) if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") else 0
        if max(count, index) > MOST_OPCODES or tuples > MOST_TUPLES or calls * largest > MOST_COPIED:
            raise ProbelineError(TOO_MUCH)


def _read_torch(data: Any) -> Any:
    """A file of torch.save: its names are looked at first, then torch reads it with `weights_only`."""
    import torch

    allowed = {name for name in NAMES if not name.endswith((".bytes", "._load_from_bytes"))} | STORAGES
    if not isinstance(data, bytes):
        _refuse("torch.storage._load_from_bytes for something else than bytes")
    if data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ProbelineError("it is a compressed archive, which torch.save never makes.")
            if sum(entry.file_size for entry in entries) > MOST_BYTES:
                raise ProbelineError("its parts together are larger than the file.")
            programs = [name for name in archive.namelist() if name.endswith(".pkl")]
            for name in programs:
                _scan(io.BytesIO(archive.read(name)), allowed)
    elif not data.startswith(LEGACY):
        _refuse("torch.storage._load_from_bytes for bytes that torch.save did not write")
    else:
        stream = io.BytesIO(data)
        for _ in range(LEGACY_HEADERS + 1):
            _scan(stream, allowed)
    ours = [(made, name) for name, made in NAMES.items() if name.startswith("numpy")]
    kinds: list[Any] = [_Dtype, _Array]  # so that their __setstate__ may be called
    with torch.serialization.safe_globals(ours + kinds):
        return torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")


def tensor_numbers(tensor: Any) -> Numbers:
    """The numbers of a tensor; half precision as float32.

    Raises:
        ProbelineError: not a dense tensor of real numbers in the processor's memory.
    """
    import torch

    real = tensor.dtype.is_floating_point or tensor.dtype in (
        *(torch.int64, torch.int32, torch.int16),
        *(torch.int8, torch.uint8, torch.bool),
    )
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or not real or tensor.layout != torch.strided:
        _refuse(f"a tensor of {tensor.dtype}, {tensor.layout}")
    if tensor.device.type != "cpu":
        _refuse(f"a tensor on {tensor.device.type}")
    half = tensor.dtype.is_floating_point and tensor.dtype != torch.float64
    return np.array((tensor.float() if half else tensor).detach().numpy())


class _Plain:
    """Copies what was read into plain values, of a bounded number of parts and numbers."""

    def __init__(self) -> None:
        self.parts = self.numbers = 0

    def value(self, value: Any, place: str, depth: int) -> Any:
        """The plain value of what was read at a place, for example `the file[directions]`."""
        huge = type(value) is int and abs(value) >= 2**63
        self._count(parts=1)
        if depth > DEEPEST or huge:
            raise ProbelineError(TOO_MUCH)
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, dict):
            if not all(type(key) in (str, int) for key in value):
                _refuse(f"keys in {place} that are neither strings nor whole numbers")
            return {
                key: self.value(inner, printable(f"{place}[{key}]"), depth + 1)
                for key, inner in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.value(inner, place, depth + 1) for inner in value]
        return self._array(value, place)

    def _array(self, value: Any, place: str) -> Numbers:
        import torch

        held = value.values if isinstance(value, _Array) else value
        if isinstance(held, torch.Tensor):
            self._count(numbers=held.numel())
            return tensor_numbers(held)
        if isinstance(held, np.ndarray):
            self._count(numbers=held.size)
            return held.copy()  # what lies over the file's bytes cannot be written to
        kind = next((name for name, made in NAMES.items() if made is value), type(value).__name__)
        _refuse(f"{kind} at {place}")

    def _count(self, parts: int = 0, numbers: int = 0) -> None:
        self.parts += parts
        self.numbers += numbers
        # What was written out cannot have more parts than the pickle has operations.
        if self.parts > MOST_OPCODES or self.numbers > MOST_NUMBERS:
            raise ProbelineError(TOO_MUCH)


def printable(text: str) -> str:
    """The text without what could steer a terminal, and not too much of it."""
    return text.encode("ascii", "backslashreplace").decode("ascii").translate(CONTROLS)[:200]


CONTROLS = dict.fromkeys([*range(32), 127], "?")
