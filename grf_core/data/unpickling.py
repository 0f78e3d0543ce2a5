"""Pickles of NumPy arrays written by strangers, read without running anything they name.

Datasets are handed around as pickles, and a pickle is a program. Of that program only the opcodes that build plain
values are carried out, and the few globals that NumPy's arrays need stand for functions of this file. NumPy's own
reconstruction is not among them: it believes what it is told (the flags of a dtype decide whether bytes are taken for
pointers), so dtypes and arrays are put together here, from parts that were checked.

Admitted: None, bool, numbers, text, bytes, lists, tuples, dicts keyed by text, bytes or whole numbers, NumPy scalars,
and arrays of numbers, text, bytes or objects of these kinds; of Python 2 and 3, protocols 0 to 5, any NumPy. Everything
else is refused. Time and memory are bounded by a small multiple of the file's size, which `max_bytes` bounds.
"""

from __future__ import annotations

import math
import mmap
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
DEFAULT_MAX_BYTES = 4 << 30
MAX_DEPTH = 32
"""Of containers in containers."""
MAX_DIMENSIONS = 16
BYTES_PER_PICKLED_BYTE = 8
"""The densest honest case: an object array of None is one byte an element in the file and eight in memory."""

GLOBALS = {
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    ("builtins", "bytes"): "no_bytes",
    ("__builtin__", "bytes"): "no_bytes",
} | {
    (f"numpy.{core}.{module}", name): name.lstrip("_")
    for core in ("core", "_core")
    for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
}
"""What a pickle may name, and what stands for it here."""
OPCODES = """
    PROTO FRAME STOP MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT
    BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES
    BINBYTES8 BYTEARRAY8 EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM
    SETITEMS PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD
"""
"""Left out: instances of classes, persistent ids, extension codes, sets, and buffers that are not in the file."""
DTYPE_NAME = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f[248]|O[48]?|[SU][1-9][0-9]{0,5})")
NDARRAY = object()
"""Stands for the class `numpy.ndarray`, which is only ever handed to `_reconstruct`."""


class UnpicklingRefused(ValueError):
    """Not a pickle, or one that holds more than arrays and plain values; the text names what."""


def unpickle_file(path: Path | str, max_bytes: int = DEFAULT_MAX_BYTES) -> object:
    """The value pickled in a file of at most `max_bytes`. Arrays may be read-only."""
    size_bytes = Path(path).stat().st_size
    if not 1 <= size_bytes <= max_bytes:
        raise UnpicklingRefused(f"{path} has {size_bytes} bytes; 1 to {max_bytes} are read")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        return _load(mapped, size_bytes)


class _Readable(Protocol):
    def read(self, n: int, /) -> bytes: ...
    def readline(self) -> bytes: ...


def _load(file: _Readable, size_bytes: int) -> object:
    try:
        return _Settling().settle(_Unpickler(file, size_bytes).load(), 0)
    except UnpicklingRefused:
        raise
    except Exception as error:  # a malformed pickle may make the unpickler raise nearly anything
        raise UnpicklingRefused(f"not a pickle of arrays: {type(error).__name__}: {error!s:.200}") from None


class _Dtype:
    """A dtype on its way: named by one opcode, given its byte order by a later one."""

    __slots__ = ("dtype",)

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.dtype = dtype

    def set_state(self, state: tuple[Any, ...]) -> None:
        _version, order, subdtype, names, fields, item_bytes, *_ = state
        if not (subdtype is None and names is None and fields is None):
            raise UnpicklingRefused("a structured dtype")
        if item_bytes not in (-1, self.dtype.itemsize) or order not in ("<", ">", "|", "="):
            raise UnpicklingRefused(f"dtype {self.dtype.str} with {item_bytes!r:.20} bytes in order {order!r:.20}")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """An array on its way: an object array's items may still be on theirs."""

    __slots__ = ("array", "items")

    def __init__(self, array: Array | None = None) -> None:
        self.array = array
        self.items: list[object] | None = None


class _Dispatch(dict[int, Callable[[Any], None]]):
    def __missing__(self, opcode: int) -> Callable[[Any], None]:
        raise UnpicklingRefused(f"opcode {bytes([opcode])!r}, which arrays and plain values do not need")


class _Unpickler(pickle._Unpickler):
    """The unpickler in Python, not the one in C: that one takes its memo's size from the file, and its BUILD and
    SETITEM cannot be replaced."""

    dispatch: ClassVar = _Dispatch(
        {getattr(pickle, name)[0]: pickle._Unpickler.dispatch[getattr(pickle, name)[0]] for name in OPCODES.split()}
    )
    stack: list[Any]
    read: Callable[[int], bytes]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, file: _Readable, size_bytes: int) -> None:
        super().__init__(file, encoding="latin1")
        self._budget_bytes = BYTES_PER_PICKLED_BYTE * size_bytes

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in GLOBALS:
            raise UnpicklingRefused(f"the pickle names {module!s:.100}.{name!s:.100}, which is not read")
        meaning = GLOBALS[module, name]
        return NDARRAY if meaning == "ndarray" else getattr(self, f"_{meaning}")

    def load_build(self) -> None:
        state = self.stack.pop()
        match self.stack[-1]:
            case _Dtype() as dtype:
                dtype.set_state(state)
            case _Array() as array:
                self._set_array_state(array, *state[-4:])
            case other:
                raise UnpicklingRefused(f"state for a {type(other).__name__}")

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self._fill(items)

    def load_setitem(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self._fill([key, value])

    def load_setitems(self) -> None:
        self._fill(self.pop_mark())

    def load_bytearray8(self) -> None:
        self.stack.append(self.read(int.from_bytes(self.read(8), "little")))

    dispatch |= {
        pickle.BUILD[0]: load_build,
        pickle.DICT[0]: load_dict,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }

    def _fill(self, items: list[Any]) -> None:
        """Keys are plain: the hash of tuples in tuples can be made to take for ever."""
        mapping = self.stack[-1]
        if type(mapping) is not dict:
            raise UnpicklingRefused(f"items for a {type(mapping).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | bytes | int):
                raise UnpicklingRefused(f"a dict key that is a {type(key).__name__}")
            mapping[key] = value

    def _dtype(self, name: object, *_align_and_copy: object) -> _Dtype:
        if not isinstance(name, str) or not DTYPE_NAME.fullmatch(name):
            raise UnpicklingRefused(f"dtype {name!r:.60}")
        return _Dtype(np.dtype(object) if "O" in name else np.dtype(name))

    def _reconstruct(self, kind: object, *_of_the_empty_array: object) -> _Array:
        if kind is not NDARRAY:
            raise UnpicklingRefused("an array of another class than numpy.ndarray")
        return _Array()

    def _frombuffer(self, buffer: object, dtype: object, shape: object, order: object) -> _Array:
        """Protocol 5."""
        array = _Array()
        self._set_array_state(array, shape, dtype, order == "F", buffer)
        if array.items is not None:
            raise UnpicklingRefused("an object array in a buffer")
        return array

    def _scalar(self, dtype: object, data: object) -> np.generic:
        array = _Array()
        self._set_array_state(array, (1,), dtype, False, data)
        if array.array is None:
            raise UnpicklingRefused("an object scalar")
        scalar: np.generic = array.array[0]
        return scalar

    def _encode(self, text: object, encoding: object) -> bytes:
        """How Python 3 writes bytes in protocols 0 to 2."""
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise UnpicklingRefused("bytes that are not latin-1 text")
        self._spend(len(text))
        return text.encode("latin-1")

    def _no_bytes(self) -> bytes:
        return b""

    def _set_array_state(self, array: _Array, shape: Any, dtype: Any, fortran: object, data: object) -> None:
        if not isinstance(dtype, _Dtype):
            raise UnpicklingRefused("an array without a dtype")
        if not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS or not all(_is_size(size) for size in shape):
            raise UnpicklingRefused(f"an array of shape {shape!r:.60}")
        elements = math.prod(shape)
        if dtype.dtype.hasobject:
            if not isinstance(data, list) or len(data) != elements:
                raise UnpicklingRefused(f"an object array of shape {shape} without its {elements} items")
            self._spend(8 * elements)
            array.array, array.items = np.empty(shape, object), data
            return
        if isinstance(data, str):
            data = self._encode(data, "latin1")
        if not isinstance(data, bytes) or len(data) != elements * dtype.dtype.itemsize:
            raise UnpicklingRefused(f"{dtype.dtype.str} array of shape {shape} without its bytes")
        array.array = np.ndarray(shape, dtype.dtype, data, order="F" if fortran else "C")

    def _spend(self, size_bytes: int) -> None:
        """A short pickle may name the same long text again and again."""
        self._budget_bytes -= size_bytes
        if self._budget_bytes < 0:
            raise UnpicklingRefused("a pickle that unpacks to far more than its size")


class _Settling:
    """What was on its way takes its place: arrays for `_Array`. Each object once, however often it is met."""

    def __init__(self) -> None:
        self._settled: dict[int, object] = {}

    def settle(self, value: object, depth: int) -> object:
        if value is None or isinstance(value, int | float | str | bytes | np.generic):
            return value
        if id(value) not in self._settled:
            if depth == MAX_DEPTH:
                raise UnpicklingRefused(f"more than {MAX_DEPTH} containers in one another")
            self._settled[id(value)] = _Settling
            self._settled[id(value)] = self._settle_new(value, depth + 1)
        elif self._settled[id(value)] is _Settling:
            raise UnpicklingRefused("a container that contains itself")
        return self._settled[id(value)]

    def _settle_new(self, value: object, depth: int) -> object:
        match value:
            case dict():
                return {key: self.settle(item, depth) for key, item in value.items()}
            case list():
                return [self.settle(item, depth) for item in value]
            case tuple():
                return tuple(self.settle(item, depth) for item in value)
            case _Array(array=np.ndarray() as array, items=items):
                for position, item in zip(np.ndindex(array.shape), items or (), strict=False):
                    array[position] = self.settle(item, depth)
                return array
        raise UnpicklingRefused(f"a {type(value).__name__.strip('_')} as a value")


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 48
