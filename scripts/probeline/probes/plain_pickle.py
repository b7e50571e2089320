"""Reading pickles of others without running anything in them.

A pickle is a program: it may name any function of any module and have it called. Here it can name the few of
`NAMES` only, and gets none of those: each stands for a constructor below, which takes plain values and
gives plain values. Whatever else it asks for is refused by name.
"""

import io
import pickle
import pickletools
import re
import reprlib
import stat
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from probeline.errors import ProbelineError

MOST_BYTES = 2**30
MOST_OPCODES = 2_000_000
MOST_NUMBERS = 2**27
MOST_TEXT = 2**24
MOST_COPIED = 4 * 2**30
MOST_IN_KEY = 1000
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
        if not isinstance(code, str):
            _refuse("an array of a type without a name")
        if not DTYPE.fullmatch(code):
            _refuse(f"an array of the type {code[:30]!a}")
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
    # A text times a length would be a text.
    if not all(type(number) is int and 0 <= number < 2**63 for number in (offset, *size, *stride)):
        _refuse("a tensor whose shape is not made of whole numbers")
    flat = torch.empty(0, dtype=storage.storage.dtype).set_(storage.storage)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 not in size and last >= flat.numel():
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
    data = _read_bytes(file)
    zipped, legacy = data.startswith(b"PK\x03\x04"), data.startswith(LEGACY)
    try:
        if zipped or legacy:
            content = _read_torch(data)
        else:
            _scan(io.BytesIO(data), NAMES.keys())
            content = _Unpickler(io.BytesIO(data)).load()
        form = "torch" if zipped else "torch, legacy" if legacy else "pickle"
        return _Plain(len(data)).value(content, "the file", 0), form
    except ProbelineError as error:
        raise ProbelineError(f"{file} was refused, and nothing in it was run: {error}") from error
    except Exception as error:
        # Bytes that are no pickle, or a damaged one, can raise anything.
        reason = printable(str(error).partition("\n")[0]) or type(error).__name__
        raise ProbelineError(
            f"{file} is no pickle and no file of torch.save, or a damaged one ({reason}). Nothing in it "
            "was run."
        ) from error


def _read_bytes(file: Path) -> bytes:
    """All of a file, unless it is a pipe or a device, or larger than any detector."""
    # Opening a pipe would wait for its other end.
    if not stat.S_ISREG(file.stat().st_mode):
        raise ProbelineError(f"{file} is not a regular file. Name one that pickle.dump or torch.save wrote.")
    with file.open("rb") as stream:
        data = stream.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ProbelineError(f"{file} is larger than {MOST_BYTES // 2**20} MiB: that is no detector.")
    return data


def _scan(stream: io.BytesIO, allowed: Iterable[str]) -> None:
    """Refuse a pickle before it is read: by the names in it, and by what it would cost."""
    sizes = _Sizes(len(stream.getbuffer()))
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if opcode.name in ("GLOBAL", "INST") and str(argument).replace(" ", ".", 1) not in allowed:
            _refuse(printable(str(argument).replace(" ", ".", 1)))
        if opcode.name in ("EMPTY_SET", "FROZENSET", "EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER"):
            _refuse(f"the operation {opcode.name}")
        # An index into the memo makes room for all below it.
        index = int(argument or 0) if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") else 0
        if max(count, index) > MOST_OPCODES:
            raise ProbelineError(TOO_MUCH)
        sizes.step(opcode, argument)


@dataclass(eq=False)
class _Cell:
    """What is known of a value that is not made.

    Attributes:
        size: its parts, characters and bytes, with all that it shares written out.
        name: a text, the name of a function, or what a tuple ends with.
        is_tuple: made by one of the operations for tuples.
        placed: is part of another, whose size would be wrong if this one grew.
    """

    size: int = 1
    name: str = ""
    is_tuple: bool = False
    placed: bool = False


class _Sizes:
    """Goes through a pickle with sizes in place of values.

    A few bytes can share a value so often that to hash it, to show it in an error or to hand it to a function
    takes all time or memory there is.
    """

    def __init__(self, length: int) -> None:
        self._stack: list[_Cell | None] = []  # None is a mark
        self._memo: dict[int, _Cell] = {}
        self._called = 0
        # What a tensor in a plain pickle holds is handed on four times.
        self._most = min(8 * length, MOST_COPIED) + MOST_TEXT

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Do to the sizes what the operation would do to the values."""
        name = opcode.name
        if name == "MARK":
            self._stack.append(None)
        elif name == "POP":
            self._stack.pop()
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if name == "MEMOIZE" else argument] = self._top()
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[argument])
        elif name == "DUP":
            self._stack.append(self._top())
        else:
            made = self._made(name, argument, self._taken(opcode))
            self._called += made.size if name in CALLS else 0
            if max(made.size, self._called) > self._most:
                raise ProbelineError(TOO_MUCH)
            self._stack += [made] * len(opcode.stack_after)

    def _top(self) -> _Cell:
        top = self._stack[-1]
        if top is None:
            raise ValueError("a mark in the place of a value")
        return top

    def _taken(self, opcode: pickletools.OpcodeInfo) -> list[_Cell]:
        """What an operation takes from the stack, the lowest first."""
        taken = []
        below = len(opcode.stack_before)
        if pickletools.markobject in opcode.stack_before:
            below = opcode.stack_before.index(pickletools.markobject)
            while (cell := self._stack.pop()) is not None:
                taken.append(cell)
        for _ in range(below):
            taken.append(self._top())
            self._stack.pop()
        return taken[::-1]

    def _made(self, name: str, argument: Any, taken: list[_Cell]) -> _Cell:
        size = sum(cell.size for cell in taken)
        if name in ("SETITEM", "SETITEMS", "DICT", "BINPERSID"):
            keys = taken[name.startswith("SET") :: 2]
            if any(key.size > MOST_IN_KEY for key in keys):
                raise ProbelineError(TOO_MUCH)
        if name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS"):
            whole, *parts = taken
            for part in parts:
                part.placed = True
            if whole.placed:
                raise ProbelineError("a list or a dict in it grows after it was put into another.")
            whole.size = size
            return whole
        if name == "BUILD":
            self._called += taken[1].size
            return taken[0]
        if name == "REDUCE":
            _check_call(*taken)
        for cell in taken:
            cell.placed = True
        if isinstance(argument, str | bytes | bytearray):
            size += len(argument)
        elif type(argument) is int:
            size += argument.bit_length() // 8
        if name.startswith("TUPLE"):
            return _Cell(1 + size, taken[-1].name if taken else "", is_tuple=True)
        return _Cell(1 + size, str(argument) if name in NAMED else "", is_tuple=name == "EMPTY_TUPLE")


CALLS = {"REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX"}
NAMED = {
    *("GLOBAL", "STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
}


def _check_call(function: _Cell, arguments: _Cell) -> None:
    """Torch itself calls these two with any arguments."""
    if not arguments.is_tuple:
        _refuse("a call without a tuple of arguments")
    if function.name == "_codecs encode" and arguments.name != "latin1":
        _refuse("_codecs.encode for something else than bytes")
    if function.name == "collections OrderedDict" and arguments.size > 1:
        _refuse("collections.OrderedDict with arguments")


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
            if sum(entry.file_size for entry in entries) > len(data):
                raise ProbelineError("its parts together are larger than the file.")
            contents = [(entry.filename, archive.read(entry)) for entry in entries]
        data = _checked_archive(contents, allowed)
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


def _checked_archive(contents: list[tuple[str, bytes]], allowed: Iterable[str]) -> bytes:
    """An archive of those files, written anew: what torch finds in it is what was looked at.

    Torch's own reader finds other files in some archives than Python's, and takes DATA.PKL for data.pkl.
    """
    names = [name.lower() for name, _ in contents]
    programs = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
    if len(programs) != 1 or len(set(names)) < len(names):
        raise ProbelineError(f"it holds data.pkl {len(programs)} times, or another file twice.")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in contents:
            if name.lower().endswith(".pkl"):
                _scan(io.BytesIO(content), allowed)
            archive.writestr(name, content)
    return buffer.getvalue()


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
    """Copies what was read into plain values, of a bounded number of parts, characters and numbers.

    What the file shares counts each time that it is used, and an expanded tensor as all of its numbers.
    """

    def __init__(self, length: int) -> None:
        self.parts = self.characters = self.numbers = 0
        # A number takes a byte at least; some may be shared.
        self.most_numbers = min(length + 2**20, MOST_NUMBERS)

    def value(self, value: Any, place: str, depth: int) -> Any:
        """The plain value of what was read at a place, for example `the file[directions]`."""
        self._count(parts=1, characters=len(value) if type(value) is str else 0)
        if depth > DEEPEST or _is_huge(value):
            raise ProbelineError(TOO_MUCH)
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, dict):
            if not all(type(key) in (str, int) for key in value):
                _refuse(f"keys in {place} that are neither strings nor whole numbers")
            if any(map(_is_huge, value)):
                raise ProbelineError(TOO_MUCH)
            self._count(characters=sum(len(key) for key in value if type(key) is str))
            return {
                key: self.value(inner, printable(f"{place}[{str(key)[:40]}]"), depth + 1)
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

    def _count(self, parts: int = 0, characters: int = 0, numbers: int = 0) -> None:
        self.parts += parts
        self.characters += characters
        self.numbers += numbers
        # What was written out cannot have more parts than the pickle has operations.
        large = self.parts > MOST_OPCODES or self.characters > MOST_TEXT
        if large or self.numbers > self.most_numbers:
            raise ProbelineError(TOO_MUCH)


def _is_huge(value: Any) -> bool:
    return type(value) is int and abs(value) >= 2**63


def printable(text: str) -> str:
    """The text without what could steer a terminal, and not too much of it."""
    return text[:200].encode("ascii", "backslashreplace").decode("ascii").translate(CONTROLS)[:200]


def shown(value: Any) -> str:
    """A few words on a value of any size, for an error: its beginning, at most 60 characters."""
    if isinstance(value, np.ndarray):
        return f"an array of the shape {list(value.shape)}"[:60]
    return printable(reprlib.repr(value))[:60]


CONTROLS = dict.fromkeys([*range(32), 127], "?")
