"""Pickles of arrays: all that numpy writes is read, and nothing that a pickle says is believed."""

import multiprocessing
import pickle
import struct
from collections import OrderedDict
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from samdetr.unpickling import load_arrays


def read(data, tmp_path):
    (tmp_path / "file.pkl").write_bytes(data)
    return load_arrays(tmp_path / "file.pkl")


class OfPython2(pickle._Pickler):
    """Writes bytes and OrderedDict as Python 2 does."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, data):
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(data)

    dispatch[bytes] = save_bytes

    def reducer_override(self, value):
        if isinstance(value, OrderedDict):
            return OrderedDict, ([list(item) for item in value.items()],)
        return NotImplemented


def of_python2(content):
    file = BytesIO()
    OfPython2(file, protocol=2).dump(content)
    return file.getvalue()


WRITERS = {
    **{f"protocol {x}": lambda value, x=x: pickle.dumps(value, protocol=x) for x in range(6)},
    "Python 2": of_python2,
}
DTYPES = st.one_of(
    arrays_of.boolean_dtypes(),
    arrays_of.integer_dtypes(endianness="?"),
    arrays_of.unsigned_integer_dtypes(endianness="?"),
    arrays_of.floating_dtypes(endianness="?", sizes=(16, 32, 64)),
    arrays_of.complex_number_dtypes(endianness="?", sizes=(64, 128)),
)
ORDERS = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "reversed": lambda x: x[::-1] if x.ndim else x,
    "of no order": lambda x: np.moveaxis(np.ascontiguousarray(x), 0, -1) if x.ndim else x,
}


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
@pytest.mark.parametrize("writer", WRITERS)
@given(data=st.data())
def test_arrays_of_numbers_are_what_they_were(writer, core, data, tmp_path):
    shape = arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    written = data.draw(arrays_of.arrays(DTYPES, shape))
    order = data.draw(st.sampled_from([*ORDERS]))
    written = ORDERS[order](written)
    text = WRITERS[writer]({"model": OrderedDict(x=written, again=written), "one": written[...]})
    text = text.replace(b"cnumpy.core.", b"c%b." % core.encode())
    text = text.replace(b"cnumpy._core.", b"c%b." % core.encode())

    found = read(text, tmp_path)

    tensor = found["model"]["x"]
    native = written.astype(written.dtype.newbyteorder("="))
    assert tensor.numpy().dtype == native.dtype and tuple(tensor.shape) == native.shape
    assert tensor.numpy().tobytes() == native.tobytes()  # in C's order, whatever the strides
    assert found["model"]["again"] is tensor
    assert found["one"].numpy().tobytes() == native.tobytes()
    tensor.zero_()  # its memory is its own


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("kind", ["?", "<i4", ">i8", "u1", "<f2", ">f4", "f8", "c8"])
def test_scalars_are_numbers(writer, kind, tmp_path):
    value = np.ones(1, kind)[0]
    found = read(WRITERS[writer]({"value": value, "text": "é", "list": [1, (2.5, None)]}), tmp_path)
    assert found == {"value": value.item(), "text": "é", "list": [1, (2.5, None)]}
    assert type(found["value"]) is type(value.item())


def test_containers_keep_what_is_shared_and_what_is_in_itself(tmp_path):
    array = np.arange(3)
    inside = {"array": array}
    content = {"list": [array, (array, inside)], "inside": inside}
    content["itself"] = content
    content["list"].append(content["list"])

    found = read(pickle.dumps(content), tmp_path)

    assert found["itself"] is found and found["list"][2] is found["list"]
    assert found["list"][1][1] is found["inside"]
    assert found["list"][0] is found["inside"]["array"] is found["list"][1][0]
    assert torch.equal(found["list"][0], torch.arange(3))


def test_two_entries_for_each_of_many_dicts_are_no_exponential_work(tmp_path):
    content = {"array": np.ones(1)}
    for _ in range(60):
        content = {"a": content, "b": content}
    found = read(pickle.dumps(content), tmp_path)
    for _ in range(60):
        assert found["a"] is found["b"]
        found = found["a"]
    assert torch.equal(found["array"], torch.ones(1, dtype=torch.float64))


def test_attributes_of_a_dict_are_left_out(tmp_path):
    weights = OrderedDict(x=np.ones(2))
    weights._metadata = weights.keys = 5
    found = read(pickle.dumps(weights), tmp_path)
    assert type(found) is dict and torch.equal(found["x"], torch.ones(2, dtype=torch.float64))


# Hostile pickles, by hand: parts push one value each.


def named(module, name):
    return f"c{module}\n{name}\n".encode()


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def whole(value):
    return b"L%dL\n" % value


def row(*parts):
    return b"(" + b"".join(parts) + b"t"


def called(part, *parts):
    return part + row(*parts) + b"R"


def built(part, state):
    return part + state + b"b"


def raw(data):
    return called(named("_codecs", "encode"), text(data), text("latin1"))


MULTIARRAY = "numpy.core.multiarray"
NDARRAY, DTYPE = named("numpy", "ndarray"), named("numpy", "dtype")
EMPTY = called(named(MULTIARRAY, "_reconstruct"), NDARRAY, row(whole(0)), text("b"))
FLOATS = called(DTYPE, text("f4"), b"\x89", b"\x88")
FROM_BUFFER = named("numpy.core.numeric", "_frombuffer")
ORDERED = named("collections", "OrderedDict")


def array(shape=None, dtype=FLOATS, fortran=b"\x89", data=None):
    shape, data = shape or row(whole(2)), data or raw("A" * 8)
    return built(EMPTY, row(whole(1), shape, dtype, fortran, data))


def fields(flags):
    """The state of a type whose bytes are pointers to objects."""
    objects = called(DTYPE, text("O"), b"\x89", b"\x88")
    inside = b"}" + text("a") + row(objects, whole(0)) + b"s"
    ends = [whole(8), whole(1), whole(flags)]
    return row(whole(3), text("|"), b"N", row(text("a")), inside, *ends)


CHANGED = b"N}" + text("__doc__") + text("changed") + text("_call") + text("changed") + b"u\x86"
HUGE = whole(2**62)
PARTS = [
    named("numpy", "ndarray"),
    named("numpy", "dtype"),
    named("_codecs", "encode"),
    named("__builtin__", "bytes"),
    ORDERED,
    FROM_BUFFER,
    named("numpy._core.multiarray", "scalar"),
    named(MULTIARRAY, "_reconstruct"),
]
HOSTILE = {
    "a type of pointers": array(dtype=called(DTYPE, text("O8"), b"\x89", b"\x88")),
    "a type with a state of pointers": array(
        dtype=built(called(DTYPE, text("V8"), b"\x89", b"\x88"), fields(1))
    ),
    "texts": array(dtype=called(DTYPE, text("U2"), b"\x89", b"\x88")),
    "dates": array(dtype=called(DTYPE, text("M8"), b"\x89", b"\x88")),
    "a type of a huge name": array(dtype=called(DTYPE, text("f8," * 10000), b"\x89", b"\x88")),
    "a type of a type": array(dtype=called(DTYPE, DTYPE)),
    "long doubles": array(dtype=called(DTYPE, text("f16"), b"\x89", b"\x88")),
    "an unknown order of bytes": built(FLOATS, row(whole(3), text("x"))),
    "a state that is a number": built(FLOATS, whole(3)),
    "a shape too large": array(shape=row(whole(3))),
    "a shape too small": array(shape=row(whole(1))),
    "a huge shape": array(shape=row(HUGE, HUGE)),
    "a huge shape without numbers": array(shape=row(whole(0), HUGE, HUGE), data=raw("")),
    "negative sizes": array(shape=row(whole(-1), whole(-2))),
    "sizes of text": array(shape=row(text("2"))),
    "a shape of shapes": array(shape=row(row(whole(2)))),
    "a shape that is a number": array(shape=whole(2)),
    "many dimensions": array(shape=row(*[whole(1)] * 33, whole(2))),
    "an order of text": array(fortran=text("x")),
    "no type": array(dtype=text("f4")),
    "no bytes": array(data=whole(8)),
    "objects in place of bytes": array(data=b"](NNe"),
    "other letters": array(data=text("字" * 8)),
    "no numbers": EMPTY,
    "room to be made": called(named(MULTIARRAY, "_reconstruct"), NDARRAY, row(HUGE), text("f8")),
    "a state of an array that is none": built(EMPTY, row(whole(1))),
    "a scalar of another size": called(named(MULTIARRAY, "scalar"), FLOATS, raw("A")),
    "a scalar of an object": called(named(MULTIARRAY, "scalar"), FLOATS, b"N"),
    "a buffer of an unknown order": called(
        FROM_BUFFER, raw("A" * 8), FLOATS, row(whole(2)), text("X")
    ),
    "axes that are none": called(
        FROM_BUFFER, raw("A" * 8), FLOATS, row(whole(2)), text("K"), row(whole(5))
    ),
    "too few arguments": called(FROM_BUFFER, raw("A")),
    "another encoding": called(named("_codecs", "encode"), text("字" * 9999), text("punycode")),
    "an encoding that is none": called(named("_codecs", "encode"), text("a"), b"N"),
    "bytes of a size": called(named("__builtin__", "bytes"), HUGE),
    "a dict of a number": called(ORDERED, whole(5)),
    "a type as such": DTYPE,
    "a type of floats as such": FLOATS,
    "an array as a key": b"}" + array() + b"Ns",
    "itself as a key": b"}p0\ng0\nNs",
    "an array that is called": called(array(), whole(1)),
    "an array that is a class": array() + row(whole(1)) + b"\x81",
    "more bytes than there are": b"\x8e" + struct.pack("<Q", 2**40) + b"A",
    "more text than there is": b"\x8d" + struct.pack("<Q", 2**40) + b"A",
    "more bytes to change than there are": b"\x96" + struct.pack("<Q", 2**62) + b"A",
    "a memory of a large index": b"]r\xff\xff\xff\x7fj\xff\xff\xff\x00",
    "a number of many digits": b"L" + b"9" * 100_000 + b"L\n",
    "an object from elsewhere": b"Pid\n",
    "an extension": b"\x82\x01",
    "depth": b"(" * 100_000 + b"l" * 50_000,
    "depth of dicts": b"N" + b"}X\1\0\0\0a" * 20_000 + b"N" + b"s" * 20_000,
    "the same bytes many times": b"](" + raw("A" * 50_000) + b"p0\n"
    + called(FROM_BUFFER, b"g0\n", FLOATS, row(whole(12_500)), text("C")) * 5_000 + b"e",
    "the same text encoded many times": text("A" * 50_000) + b"p0\n0]("
    + called(named("_codecs", "encode"), b"g0\n", text("latin1")) * 5_000 + b"e",
    "the same dict many times": b"](" + b"](" + row(whole(1), b"N") * 5_000 + b"ep0\n"
    + called(ORDERED, b"g0\n") * 50_000 + b"e",
    **{f"{part!r} is changed": built(part, CHANGED) for part in PARTS},
    **{f"{part!r} is a class": part + b")\x81" for part in PARTS},
    **{f"{part!r} has a state": built(part, b"}" + text("x") + b"Ns") for part in PARTS},
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_pickle_is_an_error(name, tmp_path):
    with pytest.raises(Exception) as error:
        read(b"\x80\x02" + HOSTILE[name] + b".", tmp_path)
    assert not isinstance(error.value, MemoryError)


def test_the_parts_of_hostile_pickles_are_harmless_as_such(tmp_path):
    """Were it not so, the test before would prove nothing."""
    found = read(b"\x80\x02(" + array() + FROM_BUFFER + row(
        raw("A" * 8), FLOATS, row(whole(2)), text("C")) + b"Rt.", tmp_path)  # fmt: skip
    assert torch.equal(*found) and found[0].numpy().tobytes() == b"A" * 8
    axes = row(whole(1), whole(0))
    shape = row(whole(1), whole(2))
    swapped = called(FROM_BUFFER, raw("A" * 4 + "B" * 4), FLOATS, shape, text("K"), axes)
    assert read(b"\x80\x02" + swapped + b".", tmp_path).shape == (2, 1)


@given(data=st.data())
def test_a_damaged_pickle_is_an_error_or_other_numbers(data, tmp_path):
    whole_file = pickle.dumps(
        {"model": OrderedDict(x=np.arange(3.0), y=np.ones((2, 2), ">i4")), "n": np.float32(1)},
        protocol=data.draw(st.integers(0, 5)),
    )
    damaged = bytearray(whole_file)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read(bytes(damaged), tmp_path)
    except Exception as error:
        assert not isinstance(error, MemoryError)
    else:
        assert "numpy" not in type(found).__module__


def test_a_pickle_of_pointers_does_not_end_the_process(tmp_path):
    """In a process of its own: numpy goes to where the numbers point when it drops the array."""
    pointers = called(DTYPE, text("V8"), b"\x89", b"\x88")
    hostile = array(shape=row(whole(8)), dtype=built(pointers, fields(1)), data=raw("A" * 64))
    (tmp_path / "file.pkl").write_bytes(b"\x80\x02" + hostile + b".")
    process = multiprocessing.get_context("fork").Process(target=read_and_drop, args=[tmp_path])
    process.start()
    process.join()
    assert process.exitcode == 0


def read_and_drop(folder):
    with pytest.raises(pickle.UnpicklingError, match="it holds an array of V8, expected numbers"):
        load_arrays(folder / "file.pkl")
