"""The pickle machine: what pickles of every protocol come out as, opcode by opcode."""

import argparse
import collections
import datetime
import enum
import functools
import io
import pathlib
import pickle
import pickletools
import struct
import types
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.errors import FormatError
from dovetail.store.torchfile.pickle import machine as pickle_machine
from dovetail.store.torchfile.pickle.opcodes import HANDLERS, STOP
from dovetail.store.torchfile.pickle.pickled import Global, Opaque, Storage, TensorRecord
from dovetail.store.torchfile.pickle.unpickle import MAX_PICKLE, Unpickled, unpickle

PROTOCOLS = range(6)


class Colour(enum.Enum):
    RED = "red"
    PAIR = (1, 2)


class Config:
    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class Slotted:
    __slots__ = ("depth", "width")


class Bag(dict):  # type: ignore[type-arg]
    pass


class Row(list):  # type: ignore[type-arg]
    pass


class Named:
    def __new__(cls, *, size: int) -> "Named":
        return super().__new__(cls)

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, int]]:
        return (), {"size": 3}


def value_of(data: bytes) -> Any:
    return unpickle(data).value


def both(value: Any, protocol: int) -> Any:
    return value_of(pickle.dumps(value, protocol=protocol))


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 200), 1 << 200)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])) | st.integers(-99, 99), inner)
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(value=PLAIN, protocol=st.sampled_from(PROTOCOLS))
def test_plain_values_come_out_as_they_went_in(value: Any, protocol: int) -> None:
    assert both(value, protocol) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({1, "a"}, {1, "a"}),
        (frozenset(["a"]), frozenset(["a"])),
        (bytearray(b"\0\xff"), b"\0\xff"),
        (b"", b""),
        (1.5 - 2j, 1.5 - 2j),
        (range(2, 8, 3), "range(2, 8, 3)"),
        (slice(None, 3), "slice(None, 3, None)"),
        (collections.OrderedDict(a=[1]), {"a": [1]}),
        (collections.defaultdict(list, a=[1]), {"a": [1]}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.deque([1, 2], maxlen=5), [1, 2]),
        (argparse.Namespace(lr=0.1, names=["a"]), {"lr": 0.1, "names": ["a"]}),
        (types.SimpleNamespace(lr=0.1), {"lr": 0.1}),
        (pathlib.PurePosixPath("/data/run/1"), "/data/run/1"),
        (pathlib.PurePosixPath("run/1"), "run/1"),
        (pathlib.PurePosixPath(), "."),
        (pathlib.PureWindowsPath("C:/data/run"), "C:\\data\\run"),
        (datetime.date(2024, 5, 6), datetime.date(2024, 5, 6)),
        (datetime.timedelta(hours=30), datetime.timedelta(hours=30)),
        (
            datetime.datetime(2024, 5, 6, 7, 8, tzinfo=datetime.UTC),
            datetime.datetime(2024, 5, 6, 7, 8, tzinfo=datetime.UTC),
        ),
        (torch.Size([2, 3]), (2, 3)),
        (torch.device("cuda", 1), "cuda:1"),
        (torch.device("cpu"), "cpu"),
        (torch.bfloat16, Global("torch", "bfloat16")),
        (torch.strided, "torch.strided"),
        (np.float32(1.5), 1.5),
        (np.int64(-3), -3),
        (np.bool_(True), True),
        (np.complex64(1 + 2j), 1 + 2j),
        (np.str_("h\xe9"), "h\xe9"),
        ({(0, "a"): 1}, {"(0, 'a')": 1}),
        (int, Global("builtins", "int")),
    ],
)
def test_known_classes_become_plain_values(value: Any, expected: Any, protocol: int) -> None:
    found = unpickle(pickle.dumps(value, protocol=protocol))
    assert (found.value, found.opaque) == (expected, ())
    assert isinstance(found.value, type(expected))


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.arange(6, dtype=">i4").reshape(2, 3), [[0, 1, 2], [3, 4, 5]]),
        (np.array(2.5), 2.5),
        (np.zeros(0), []),
        (np.array([1 + 2j]), [1 + 2j]),
        (np.asfortranarray(np.ones((2, 2))), "numpy array of 'f8', shape (2, 2)"),
        (np.zeros((100, 100), np.float16), "numpy array of 'f2', shape (100, 100)"),
        (np.array(["a", None], dtype=object), "numpy array of 'O8', shape (2,)"),
        (np.zeros((0, 3)), "numpy array of 'f8', shape (0, 3)"),
    ],
)
def test_numpy_arrays_become_lists_or_words(array: Any, expected: Any, protocol: int) -> None:
    assert both(array, protocol).plain() == expected


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_objects_of_other_classes_become_records(protocol: int) -> None:
    slotted = Slotted()
    slotted.depth = 4  # type: ignore[attr-defined]
    held = (
        [{"a": 1}, {"elements": [1, 2]}]
        if protocol >= 2
        else [{"arguments": ({"a": 1},)}, {"arguments": ([1, 2],)}]
    )
    cases: list[tuple[Any, Any]] = [
        (Config(depth=4), {"depth": 4}),
        (Colour.RED, "red"),
        (Colour.PAIR, {"arguments": ((1, 2),)}),
        (Bag(a=1), held[0]),
        (Row([1, 2]), held[1]),
    ]
    cases += [(slotted, {"depth": 4})] if protocol >= 2 else []
    cases += [(Named(size=3), {"size": 3})] if protocol >= 4 else []
    found = unpickle(pickle.dumps([value for value, _ in cases], protocol=protocol))
    assert [type(item) for item in found.value] == [Opaque] * len(cases)
    assert [item.content for item in found.value] == [content for _, content in cases]
    classes = dict.fromkeys(f"{Config.__module__}.{type(value).__name__}" for value, _ in cases)
    assert found.opaque == tuple(classes)


def test_partial_keeps_its_parts_and_names_its_function() -> None:
    found = unpickle(pickle.dumps(functools.partial(torch.optim.AdamW, lr=0.1)))
    adam = Global("torch.optim.adamw", "AdamW")
    assert found.opaque == ("torch.optim.adamw.AdamW",)
    assert found.value.content == {"arguments": (adam,), "state": (adam, (), {"lr": 0.1}, None)}


def test_pydantic_and_omegaconf_give_their_fields() -> None:
    model = Opaque("my.Config", state={"__dict__": {"depth": 4}, "__pydantic_fields_set__": {"depth"}})
    node = Opaque("omegaconf.nodes.AnyNode", state={"_metadata": None, "_parent": None, "_val": 3})
    tree = Opaque("omegaconf.dictconfig.DictConfig", state={"_parent": None, "_content": {"a": node}})
    assert (model.content, tree.content, node.content) == ({"depth": 4}, {"a": node}, 3)


def test_every_opcode_of_pickletools_has_a_handler() -> None:
    unknown = HANDLERS[0xFF]
    codes = {ord(opcode.code) for opcode in pickletools.opcodes}
    assert {code for code in range(256) if HANDLERS[code] is not unknown} | {STOP} == codes


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"I01\n.", True),
        (b"I00\n.", False),
        (b"I-12\n.", -12),
        (b"L123L\n.", 123),
        (b"F-1.5e3\n.", -1500.0),
        (b"S'abc'\n.", "abc"),
        (b'S"it\'s"\n.', "it's"),
        (b"Vh\xe9\\u20ac\n.", "h\xe9\u20ac"),
        (b"U\x02ab.", "ab"),
        (b"U\x01\xff.", b"\xff"),
        (b"T\x02\0\0\0ab.", "ab"),
        (b"(K\1K\2l.", [1, 2]),
        (b"(K\1K\2d.", {1: 2}),
        (b"(K\1K\2t.", (1, 2)),
        (b"(NNK\x050t0K\1.", 1),
        (b"(N1K\1.", 1),
        (b"(0K\1.", 1),
        (b"K\1p7\n0g7\n.", 1),
        (b"K\1q\x070h\x07.", 1),
        (b"K\1r\xff\xff\xff\xff0j\xff\xff\xff\xff.", 1),
        (b"\x80\x04K\1\x94K\2\x940h\x01\x86.", (1, 2)),
        (b"K\x012\x86.", (1, 1)),
        (b"\x8f(K\1K\2\x90.", {1, 2}),
        (b"(K\1\x91.", frozenset([1])),
        (b"\x8b\x02\0\0\0\xff\xff.", -1),
        (b"\x8a\0.", 0),
        (b"\x8c\x01a.", "a"),
        (b"\x8d\x01\0\0\0\0\0\0\0a.", "a"),
        (b"C\x01a.", b"a"),
        (b"B\x01\0\0\0a.", b"a"),
        (b"\x8e\x01\0\0\0\0\0\0\0a.", b"a"),
        (b"\x96\x01\0\0\0\0\0\0\0a.", b"a"),
        (b"\x80\x04\x95\x03\0\0\0\0\0\0\0K\1.", 1),
        (b"]K\1a.", [1]),
        (b"](K\1K\2e.", [1, 2]),
        (b"}K\1K\2s.", {1: 2}),
        (b"}(K\1K\2u.", {1: 2}),
        (b"c__builtin__\nlong\n.", Global("builtins", "int")),
        (b"\x80\x04\x8c\x01a\x8c\x03B.c\x93.", Global("a", "B.c")),
    ],
)
def test_opcode(data: bytes, expected: Any) -> None:
    assert value_of(data) == expected


@pytest.mark.parametrize("protocol", range(2, 6))
def test_numpy_values_that_struct_cannot_read_are_kept_in_words(protocol: int) -> None:
    day = both(np.datetime64("2024-05-06"), protocol)
    assert (day.class_name, day.content) == ("numpy.M8", (19849).to_bytes(8, "little"))
    days = both(np.array(["2024-05-06"], dtype="M8[D]"), protocol)
    assert days.plain() == "numpy array of 'M8', shape (1,)"
    assert str(both(np.dtype(">f4"), protocol)) == "numpy.f4"


def test_object_with_named_arguments_and_without_keeps_both() -> None:
    assert value_of(b"\x80\x04cmy\nC\n(K\1K\2t}\x92.").content == {"arguments": (1, 2)}
    assert value_of(b"\x80\x04cmy\nC\n(K\1K\2t}X\1\0\0\0aK\3s\x92.").content == {"arguments": (1, 2), "a": 3}


def test_same_object_stays_the_same() -> None:
    shared = [1]
    first, second = both([shared, shared], 2)
    assert first is second


def test_dict_key_of_a_class_or_enum_member_is_kept() -> None:
    found = both({Colour.RED: 1, int: 2}, 2)
    (member, kind), values = zip(*found.items(), strict=True)
    assert (member.content, kind, values) == ("red", Global("builtins", "int"), (1, 2))


# Tensors


class _Pickler(pickle.Pickler):
    """What torch.save does with storages."""

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, torch.UntypedStorage):
            return ("storage", torch.UntypedStorage, "7", "cpu", value.nbytes())
        if isinstance(value, torch.storage.TypedStorage):
            return ("storage", getattr(torch, value._pickle_storage_type()), "7", "cpu", value._size())
        return None


def saved(value: Any, protocol: int = 2) -> Unpickled:
    out = io.BytesIO()
    _Pickler(out, protocol).dump(value)
    return unpickle(out.getvalue())


def test_storage_key_may_be_a_number_as_litgpt_writes_it() -> None:
    by_text, by_number = (unpickle(_view_of(key)).value for key in (b"X\1\0\0\x007", b"K\7"))
    assert by_number == by_text == TensorRecord(Storage("7", "F32", 6), "F32", 0, (6,), (1,))


def _view_of(key: bytes) -> bytes:
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\n" + key + b"X\3\0\0\0cpuK\6tQ"
    return b"\x80\2ctorch._utils\n_rebuild_tensor\n(" + storage + b"K\0K\6\x85K\1\x85tR."


def float_view(
    *, offset: int = 0, shape: tuple[int, ...], strides: tuple[int, ...], size: int
) -> TensorRecord:
    return TensorRecord(Storage("7", "F32", size), "F32", offset, shape, strides)


BASE = torch.arange(24.0).reshape(4, 6)


@pytest.mark.parametrize("protocol", range(2, 6))
@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (BASE, float_view(shape=(4, 6), strides=(6, 1), size=24)),
        (BASE.T, float_view(shape=(6, 4), strides=(1, 6), size=24)),
        (BASE[1:3, 2], float_view(offset=8, shape=(2,), strides=(6,), size=24)),
        (torch.zeros(1, 3).expand(5, 3), float_view(shape=(5, 3), strides=(0, 1), size=3)),
        (torch.tensor(1.0), float_view(shape=(), strides=(), size=1)),
        (torch.empty(0, 3), float_view(shape=(0, 3), strides=(3, 1), size=0)),
        (torch.nn.Parameter(BASE), float_view(shape=(4, 6), strides=(6, 1), size=24)),
        (torch.empty(2, 3, device="meta"), TensorRecord(None, "F32", 0, (2, 3), (3, 1))),
        (torch.zeros(3, dtype=torch.uint16), TensorRecord(Storage("7", "U8", 6), "U16", 0, (3,), (1,))),
        (
            torch.zeros(3, dtype=torch.float8_e4m3fn),
            TensorRecord(Storage("7", "U8", 3), "F8_E4M3", 0, (3,), (1,)),
        ),
        (torch.zeros(3, dtype=torch.bool), TensorRecord(Storage("7", "BOOL", 3), "BOOL", 0, (3,), (1,))),
        (torch.zeros(3).untyped_storage(), Storage("7", "U8", 12)),
    ],
)
def test_tensor_becomes_a_view_of_its_storage(tensor: Any, expected: Any, protocol: int) -> None:
    found = saved(tensor, protocol)
    assert found.value == expected
    assert found.tensors == ((expected,) if isinstance(expected, TensorRecord) else ()) * len(found.tensors)


def test_parameter_with_attributes_and_tensor_subclass_are_their_tensors() -> None:
    parameter = torch.nn.Parameter(BASE)
    parameter.tag = "x"  # type: ignore[attr-defined]
    found = saved([parameter, BASE.as_subclass(Special)])
    view = float_view(shape=(4, 6), strides=(6, 1), size=24)
    assert found.value == [view, view]
    assert found.opaque == (f"{Special.__module__}.Special",)


class Special(torch.Tensor):
    pass


def test_tensor_of_the_oldest_call_is_a_view_too() -> None:
    data = inside(saved_bytes(torch.zeros(2, 3).T)).replace(b"_rebuild_tensor_v2", b"_rebuild_tensor")
    assert value_of(b"\x80\x02" + data[: data.rindex(b"\x89")] + b"tR.") == (
        float_view(shape=(3, 2), strides=(1, 3), size=6)
    )


def test_tensor_that_came_from_an_accelerator_is_its_copy() -> None:
    data = b"ctorch._utils\n_rebuild_device_tensor_from_cpu_tensor\n"
    inner = inside(saved_bytes(torch.zeros(2)))
    arguments = b"(" + inner + b"ctorch\nfloat32\nX\x05\0\0\0xla:0\x89t"
    assert value_of(b"\x80\x02" + data + arguments + b"R.") == float_view(shape=(2,), strides=(1,), size=2)
    wrong = arguments.replace(b"float32", b"float16")
    with pytest.raises(FormatError) as caught:
        unpickle(b"\x80\x02" + data + wrong + b"R.")
    assert caught.value.message == "the tensor is saved in one element type and loaded in another"


def saved_bytes(value: Any) -> bytes:
    out = io.BytesIO()
    _Pickler(out, 2).dump(value)
    return out.getvalue()


def inside(data: bytes) -> bytes:
    """A pickle without its first and last opcode, to stand inside another."""
    return data[2:-1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.eye(3).to_sparse(), "a sparse tensor cannot be read"),
        (
            lambda: torch.randn(3, dtype=torch.complex64).conj(),
            "the tensor's bytes are not its values: it is conjugated or negated",
        ),
    ],
)
def test_tensor_that_is_more_than_a_view_is_refused(make: Any, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        saved({"w": make()})
    assert caught.value.message == message


# Limits


def test_memo_and_containers_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_machine, "_MAX_ROOM", 1000)
    assert value_of(b"]" + b"\x94" * 999 + b".") == []
    for flood in (b"]" + b"\x94" * 1000, b"(" + b"}" * 1001 + b"t", b"N" + b"\x85" * 1001, b"\x8f" * 1001):
        with pytest.raises(FormatError) as caught:
            unpickle(flood + b".")
        assert caught.value.message == "the pickle makes too many objects"
        assert caught.value.details["expected"] == "at most 1,000"


def test_text_keys_of_tuples_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each costs two bytes in the file and becomes a text of its own."""
    monkeypatch.setattr(pickle_machine, "_MAX_ROOM", 1000)
    key = b"X\xa0\x0f\0\0" + b"a" * 4000 + b"\x85q\x010"
    with pytest.raises(FormatError) as caught:
        unpickle(b"\x80\x02" + key + b"](" + b"}h\x01Ns" * 100 + b"e.")
    assert caught.value.message == "the pickle makes too many objects"


def test_pickle_longer_than_the_limit_is_refused() -> None:
    with pytest.raises(FormatError) as caught:
        unpickle(bytes(MAX_PICKLE + 1), file="x.pth")
    assert str(caught.value) == (
        "the pickle is 100,000,001 bytes long\n"
        "  file      x.pth\n"
        "  place     byte 0 of the pickle\n"
        "  expected  at most 100,000,000\n\n"
        f"hint: {FormatError.next_step}"
    )


def test_deep_nesting_needs_no_recursion() -> None:
    value = value_of(b")" + b"\x85" * 500_000 + b".")
    for _ in range(500_000):
        (value,) = value
    assert value == ()


def test_number_of_each_width() -> None:
    for number in (0, 255, 256, 65535, 65536, -1, 2**31 - 1, -(2**31), 2**31, 2**2000):
        assert value_of(pickle.dumps(number, protocol=2)) == number
    assert value_of(b"G" + struct.pack(">d", -0.0) + b".").hex() == "-0x0.0p+0"
