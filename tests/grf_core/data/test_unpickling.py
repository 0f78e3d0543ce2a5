from __future__ import annotations

import os
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from grf_core.data.unpickling import MAX_DEPTH, UnpicklingRefused, unpickle_file

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.binary() | st.integers(), inner)
    ),
    max_leaves=20,
)
ARRAYS = arrays.arrays(
    st.sampled_from(["<f4", ">f8", "<i8", "|b1", "|u1", "<f2", "|S3", "<U4", ">U4"]),
    arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
OBJECTS = np.array([[b"03bSnISJMiM_11", "é"], [None, [np.float32(2.5), (1, np.arange(3))]]], dtype=object)
EVIL_CALLS: list[tuple[str, str, tuple[object, ...]]] = [
    ("os", "system", ("true",)),
    ("builtins", "eval", ("1",)),
    ("builtins", "getattr", ("", "upper")),
    ("builtins", "bytearray", (1 << 40,)),
    ("numpy", "load", ("model.npy",)),
    ("numpy", "save", ("model.npy", 1)),
    ("numpy", "fromfile", ("/etc/passwd",)),
    ("numpy", "core.os.system", ("true",)),
    ("numpy.testing._private.utils", "runstring", ("1", {})),
    ("numpy.core.multiarray", "fromfile", ("/etc/passwd",)),
    ("numpy._core.multiarray", "_reconstruct.__globals__", ()),
    ("codecs", "decode", ("", "rot13")),
    ("grf_core.data.unpickling", "unpickle_file", ("x",)),
]


class Calls:
    """Pickles itself as the call of a function."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def call(module: str, name: str, arguments: tuple[object, ...]) -> bytes:
    """A pickle of protocol 4 that calls what it names, whether that exists or not."""
    return (
        pickle.dumps(module, 4)[:-1]
        + pickle.dumps(name, 4)[2:-1]
        + pickle.STACK_GLOBAL
        + pickle.dumps(arguments, 4)[2:-1]
        + pickle.REDUCE
        + pickle.STOP
    )


@pytest.fixture
def unpickle(tmp_path: Path) -> Any:
    def from_a_file(pickled: bytes) -> Any:
        path = tmp_path / "some.pkl"
        path.write_bytes(pickled)
        return unpickle_file(path)

    return from_a_file


@pytest.fixture(scope="module")
def pickle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pickles") / "some.pkl"


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(theirs, np.ndarray):
        return bool(
            isinstance(ours, np.ndarray)
            and ours.dtype == theirs.dtype
            and ours.shape == theirs.shape
            and all(same(*pair) for pair in zip(ours.ravel().tolist(), theirs.ravel().tolist(), strict=True))
        )
    if isinstance(theirs, list | tuple):
        return type(ours) is type(theirs) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    return type(ours) is type(theirs) and (ours == theirs or (ours != ours and theirs != theirs))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(value=PLAIN | ARRAYS)
def test_plain_values_and_arrays_come_back_from_every_protocol(pickle_path: Path, protocol: int, value: object) -> None:
    pickle_path.write_bytes(pickle.dumps(value, protocol))
    assert same(unpickle_file(pickle_path), value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_object_arrays_scalars_and_orders_come_back_from_every_protocol(unpickle: Any, protocol: int) -> None:
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    for value in (OBJECTS, np.asfortranarray(OBJECTS), fortran, np.float64(0.1), np.int64(-3), np.str_("é")):
        assert same(unpickle(pickle.dumps(value, protocol)), value)


@pytest.mark.parametrize("protocol", [0, 1, 2, 3])
@pytest.mark.parametrize("value", [np.arange(3.0), OBJECTS, np.float32(2)])
def test_arrays_of_the_old_numpy_come_back(unpickle: Any, protocol: int, value: object) -> None:
    pickled = pickle.dumps(value, protocol)
    assert b"numpy._core.multiarray" in pickled
    assert same(unpickle(pickled.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")), value)


def test_arrays_of_python_2_come_back_with_bytes_above_127(unpickle: Any) -> None:
    raw = np.array([-1.5, 3.0e30], "<f4").tobytes()
    assert max(raw) > 127
    head = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03"
    dtype = b"cnumpy\ndtype\nq\x04U\x02f4K\x00K\x01\x87Rq\x05(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = head + b"(K\x01K\x02\x85" + dtype + b"\x89U\x08" + raw + b"tb."
    assert unpickle(array).tolist() == [-1.5, float(np.float32(3.0e30))]
    in_text = array.replace(b"U\x08" + raw, b"S" + repr(raw)[1:].encode() + b"\n")
    assert unpickle(in_text).tolist() == [-1.5, float(np.float32(3.0e30))]


def test_an_array_met_twice_is_one_array(unpickle: Any) -> None:
    array = np.arange(3)
    first, second = unpickle(pickle.dumps([array, array]))
    assert first is second


@pytest.mark.parametrize(("module", "name", "arguments"), EVIL_CALLS)
def test_whatever_else_a_pickle_names_is_refused_by_name(
    unpickle: Any, module: str, name: str, arguments: tuple[object, ...]
) -> None:
    with pytest.raises(UnpicklingRefused, match=f"names {module}.{name}, which is not read"):
        unpickle(call(module, name, arguments))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_call_is_refused_wherever_it_hides_and_never_made(unpickle: Any, protocol: int, tmp_path: Path) -> None:
    evil = Calls(os.mkdir, str(tmp_path / "made"))
    hidden_in_objects = np.array([1, evil], dtype=object)
    hidden_in_a_dtype = Calls(np.dtype, evil)
    for value in (evil, [evil], {"train": {"id": evil}}, hidden_in_objects, hidden_in_a_dtype, Calls(bytes, evil)):
        with pytest.raises(UnpicklingRefused, match=r"names [a-z]+\.mkdir"):
            unpickle(pickle.dumps(value, protocol))
    assert not (tmp_path / "made").exists()


def test_instances_of_classes_are_refused(unpickle: Any) -> None:
    for value in (Path("x"), ValueError("x"), np.random.default_rng(0), np.ma.zeros(2), {1, 2}, 1j):
        for protocol in PROTOCOLS:
            with pytest.raises(UnpicklingRefused):
                unpickle(pickle.dumps(value, protocol))


def test_dtypes_beyond_numbers_text_and_objects_are_refused(unpickle: Any) -> None:
    structured = np.zeros(2, [("a", "f4"), ("b", "O")])
    for value in (structured, np.array(["2020-01-01"], "M8[D]"), np.zeros(2, "V4"), np.zeros(2, np.complex64)):
        with pytest.raises(UnpicklingRefused, match="dtype"):
            unpickle(pickle.dumps(value))


def test_bytes_are_never_taken_for_pointers_to_objects(unpickle: Any) -> None:
    """NumPy's own reconstruction believes the flags in the pickle and reads the bytes as addresses."""
    honest = pickle.dumps(np.array([None, None], dtype=object), 2)
    items = b"]q\x11(NNe"
    assert honest.count(items) == 1
    forged = honest.replace(items, pickle.SHORT_BINBYTES + b"\x10" + 16 * b"\x41")
    assert b"K?" in forged
    for pickled in (forged, forged.replace(b"K?", b"K\x00")):
        with pytest.raises(UnpicklingRefused, match="without its 2 items"):
            unpickle(pickled)


def test_an_array_whose_bytes_do_not_fill_its_shape_is_refused(unpickle: Any) -> None:
    honest = pickle.dumps(np.zeros(3, np.uint8), 2)
    shape = b"K\x03\x85"
    assert shape in honest
    for forged in (b"K\x04\x85", b"K\x02\x85", b"J\xff\xff\xff\xff\x85", b"U\x013\x85", b"K\x03K\x01\x86"):
        pickled = honest.replace(shape, forged)
        if forged == b"K\x03K\x01\x86":
            assert unpickle(pickled).shape == (3, 1)
        else:
            with pytest.raises(UnpicklingRefused):
                unpickle(pickled)


def test_state_is_set_on_nothing_but_arrays_and_dtypes(unpickle: Any) -> None:
    for target in (b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"c_codecs\nencode\n", b"}", b"]", b"N"):
        with pytest.raises(UnpicklingRefused, match="state for"):
            unpickle(b"\x80\x02" + target + b"}X\x01\x00\x00\x00aK\x01s" + b"b.")


def test_a_global_alone_is_no_value(unpickle: Any) -> None:
    for module, name in (("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")):
        with pytest.raises(UnpicklingRefused, match="as a value"):
            unpickle(f"c{module}\n{name}\n.".encode())


def test_a_huge_memo_index_costs_nothing(unpickle: Any) -> None:
    tracemalloc.start()
    assert unpickle(b"\x80\x02Nr\xff\xff\xff\x7f.") is None
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("opcode", [pickle.BINBYTES8, pickle.BINUNICODE8, pickle.BYTEARRAY8, pickle.FRAME])
def test_a_length_beyond_the_file_costs_nothing(unpickle: Any, opcode: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(UnpicklingRefused):
        unpickle(b"\x80\x05" + opcode + struct.pack("<Q", 1 << 40) + b"abc.")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_text_unpacked_again_and_again_is_refused(unpickle: Any) -> None:
    text = b"X" + struct.pack("<I", 100_000) + 100_000 * b"a" + b"q\x00"
    again = b"c_codecs\nencode\n" + b"h\x00" + b"X\x06\x00\x00\x00latin1\x86R"
    with pytest.raises(UnpicklingRefused, match="far more than its size"):
        unpickle(b"\x80\x02](" + text + 1_000 * again + b"e.")


def test_keys_whose_hash_would_take_for_ever_are_refused(unpickle: Any) -> None:
    doubled = b")" + b"".join(b"q\x000h\x00h\x00\x86" for _ in range(60))
    for pickled in (b"}" + doubled + b"Ns.", b"}(" + doubled + b"Nu.", b"(" + doubled + b"Nd."):
        with pytest.raises(UnpicklingRefused, match="a dict key that is a tuple"):
            unpickle(b"\x80\x02" + pickled)


def test_tuples_that_share_their_halves_are_settled_once(unpickle: Any) -> None:
    value: Any = ()
    for _ in range(MAX_DEPTH - 2):
        value = (value, value)
    left, right = unpickle(pickle.dumps(value))
    assert left is right


def test_what_contains_itself_or_too_much_is_refused(unpickle: Any) -> None:
    endless: list[object] = []
    endless.append(endless)
    itself = np.empty(1, object)
    itself[0] = itself
    for value in (endless, itself):
        with pytest.raises(UnpicklingRefused, match="contains itself"):
            unpickle(pickle.dumps(value))
    with pytest.raises(UnpicklingRefused, match="containers in one another"):
        unpickle(b"\x80\x02" + 100_000 * b"]" + 99_999 * b"a" + b".")


def test_files_above_the_limit_and_empty_ones_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "some.pkl"
    path.write_bytes(b"")
    with pytest.raises(UnpicklingRefused, match="0 bytes"):
        unpickle_file(path)
    path.write_bytes(pickle.dumps(np.zeros(100)))
    with pytest.raises(UnpicklingRefused, match="1 to 500 are read"):
        unpickle_file(path, max_bytes=500)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_pickle_cut_short_anywhere_is_refused(pickle_path: Path, protocol: int) -> None:
    whole = pickle.dumps({"train": [np.arange(3.0), OBJECTS]}, protocol)
    for length in range(1, len(whole)):
        pickle_path.write_bytes(whole[:length])
        with pytest.raises(UnpicklingRefused):
            unpickle_file(pickle_path)


@given(noise=st.binary(min_size=1, max_size=60))
def test_arbitrary_bytes_give_a_value_or_a_refusal(pickle_path: Path, noise: bytes) -> None:
    _value_or_refusal(pickle_path, noise)


@given(st.data(), st.sampled_from(PROTOCOLS))
def test_a_damaged_pickle_gives_a_value_or_a_refusal(pickle_path: Path, data: st.DataObject, protocol: int) -> None:
    pickled = bytearray(pickle.dumps({"id": OBJECTS, "text": np.arange(3.0)}, protocol))
    for _ in range(3):
        pickled[data.draw(st.integers(0, len(pickled) - 1))] = data.draw(st.integers(0, 255))
    _value_or_refusal(pickle_path, bytes(pickled))


def _value_or_refusal(path: Path, pickled: bytes) -> None:
    path.write_bytes(pickled)
    try:
        value = unpickle_file(path)
    except UnpicklingRefused:
        return
    assert value is None or isinstance(value, int | float | str | bytes | list | tuple | dict | np.ndarray | np.generic)
