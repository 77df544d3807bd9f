"""Nested values as named tensors and the plain values beside them."""

import datetime
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.errors import FormatError
from dovetail.store.torchfile.pickle import flatten as module
from dovetail.store.torchfile.pickle.flatten import flatten
from dovetail.store.torchfile.pickle.numpy import Array, ElementType
from dovetail.store.torchfile.pickle.pickled import Global, Opaque, Storage, TensorRecord


def tensor(key: str = "0") -> TensorRecord:
    return TensorRecord(Storage(key, "F32", 6), "F32", 0, (2, 3), (3, 1))


T, U, V = tensor("0"), tensor("1"), tensor("2")


@pytest.mark.parametrize(
    ("value", "tensors", "values"),
    [
        ({"a.weight": T, "b.bias": U}, {"a.weight": T, "b.bias": U}, {}),
        (
            {"model": {"vision_backbone": {"featurizer.pos_embed": T}, "projector": {"0.weight": U}}},
            {"model/vision_backbone/featurizer.pos_embed": T, "model/projector/0.weight": U},
            {},
        ),
        (
            {"state_dict": {"w": T}, "epoch": 3, "hyper_parameters": {"lr": 0.1, "betas": (0.9, 0.99)}},
            {"state_dict/w": T},
            {"epoch": 3, "hyper_parameters": {"lr": 0.1, "betas": (0.9, 0.99)}},
        ),
        (
            {"optimizer_states": [{"state": {0: {"step": 5, "exp_avg": T}, 1: {"exp_avg": U}}, "lr": 0.1}]},
            {"optimizer_states/0/state/0/exp_avg": T, "optimizer_states/0/state/1/exp_avg": U},
            {"optimizer_states": [{"state": {0: {"step": 5}}, "lr": 0.1}]},
        ),
        ([T, (U, 1), {"v": V}], {"0": T, "1/0": U, "2/v": V}, [(1,)]),
        (T, {"tensor": T}, {}),
        (
            {"s": Storage("9", "I64", 4)},
            {"s": TensorRecord(Storage("9", "I64", 4), "I64", 0, (4,), (1,))},
            {},
        ),
        ({"tied": T, "other": T}, {"tied": T, "other": T}, {}),
        ({"": T, "a/b": U}, {"": T, "a/b": U}, {}),
        (3, {}, 3),
        ({}, {}, {}),
        ({"empty": {}, "none": None, "list": [], "deep": {"er": {}}}, {}, None),
    ],
)
def test_names_lead_to_tensors_and_the_rest_is_kept(value: Any, tensors: Any, values: Any) -> None:
    flat = flatten(value)
    assert flat.tensors == tensors
    assert list(flat.tensors) == list(tensors)
    assert flat.values == (value if values is None else values)
    assert not flat.is_cut


def test_values_become_what_json_knows() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    kept = flatten(
        {
            "bytes": b"\0\xff",
            "many": bytes(1000),
            "complex": 1 - 2j,
            "set": {3, 1, "b", "a"},
            "frozen": frozenset([2, 1]),
            "day": datetime.date(2024, 5, 6),
            "moment": datetime.datetime(2024, 5, 6, 7, 8, tzinfo=zone),
            "hours": datetime.timedelta(hours=30),
            "zone": zone,
            "class": Global("torch.nn", "GELU"),
            "type": ElementType("f4"),
            "array": Array((2,), ElementType("i2", ">"), b"\0\1\0\2"),
            "member": Opaque("my.Colour", ("red",)),
            "object": Opaque(
                "my.Config", state={"depth": 4, "inner": Opaque("my.Other", state={"x": T, "y": 1})}
            ),
            Opaque("my.Colour", ("red",)): "by member",
            Opaque("my.Config"): "by object",
            b"\1": "by bytes",
            None: "by nothing",
            Global("my", "Class"): "by class",
        }
    )
    assert kept.values == {
        "bytes": "00ff",
        "many": "1,000 bytes",
        "complex": "(1-2j)",
        "set": [1, 3, "a", "b"],
        "frozen": [1, 2],
        "day": "2024-05-06",
        "moment": "2024-05-06T07:08:00+02:00",
        "hours": "1 day, 6:00:00",
        "zone": "UTC+02:00",
        "class": "torch.nn.GELU",
        "type": "numpy.f4",
        "array": [1, 2],
        "member": "red",
        "object": {"depth": 4, "inner": {"y": 1}},
        "red": "by member",
        "<my.Config>": "by object",
        "01": "by bytes",
        None: "by nothing",
        "my.Class": "by class",
    }
    assert kept.tensors == {"object/inner/x": T}
    assert json.dumps(kept.values)


def test_object_that_leads_back_to_itself_is_cut_there() -> None:
    parent = Opaque("my.Parent")
    parent.state = {"name": "p", "child": Opaque("my.Child", state={"parent": parent, "weight": T})}
    flat = flatten({"ema": parent})
    assert flat.values == {"ema": {"name": "p", "child": {"parent": "<my.Parent>"}}}
    assert flat.tensors == {"ema/child/weight": T}


def test_list_in_two_places_is_walked_twice() -> None:
    shared = [1, {"w": T}]
    flat = flatten({"a": shared, "b": shared})
    assert (flat.tensors, flat.values) == ({"a/1/w": T, "b/1/w": T}, {"a": [1], "b": [1]})


def in_itself() -> dict[str, Any]:
    value: dict[str, Any] = {"a": []}
    value["a"].append(value)
    return value


def nested(depth: int) -> Any:
    value: Any = T
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (in_itself, "a dict contains itself\n  place  'a'/0"),
        (
            lambda: nested(65),
            "the pickle is nested too deeply\n  place     .../'a'/'a'/'a'/'a'\n  expected  at most 64 levels",
        ),
        (
            lambda: {1.5: {"w": T}},
            "a tensor is kept under a float\n  place     1.5/'w'\n  expected  text or an integer",
        ),
        (
            lambda: {True: T},
            "a tensor is kept under a bool\n  place     True\n  expected  text or an integer",
        ),
        (lambda: {0: T, "0": U}, "two tensors have the name '0'\n  place  '0'"),
        (
            lambda: {"a": {"b": T}, "a/b": U},
            "two tensors have the name 'a/b'\n  place  'a/b'",
        ),
    ],
)
def test_refusal(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(FormatError) as caught:
        flatten(make(), file="x.pth")
    assert caught.value.details.pop("file") == "x.pth"
    assert str(caught.value) == f"{message}\n\nhint: {FormatError.next_step}"


def test_names_of_64_levels_are_read() -> None:
    assert list(flatten(nested(64)).tensors) == ["/".join("a" * 64)]


def test_values_beyond_the_limit_are_left_out_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_VALUES", 3)
    flat = flatten({"list": list(range(10)), "w": T})
    assert (flat.tensors, flat.is_cut) == ({"w": T}, True)
    monkeypatch.setattr(module, "_MAX_VALUES", 100)
    monkeypatch.setattr(module, "_MAX_TEXT", 5)
    flat = flatten({"a": "12345", "b": "6", "c": 7})
    assert (flat.values, flat.is_cut) == ({"a": "12345"}, True)


def test_names_share_one_allowance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_LETTERS", 50)
    with pytest.raises(FormatError) as caught:
        flatten({f"{index:010}": T for index in range(6)})
    assert caught.value.message == "the names of the tensors are too long"


SEGMENTS = st.text(st.characters(exclude_characters="/", exclude_categories=["Cs"]), max_size=4)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    tree=st.recursive(st.just(T) | st.integers(), lambda inner: st.dictionaries(SEGMENTS, inner, max_size=4))
)
def test_every_tensor_and_every_value_is_accounted_for(tree: Any) -> None:
    """What is named and what is kept together are what was given."""
    names: list[str] = []
    numbers: list[int] = []

    def walk(value: Any, path: tuple[str, ...]) -> None:
        if value is T:
            names.append("/".join(path) if path else "tensor")
        elif isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, (*path, key))
        else:
            numbers.append(value)

    def kept(value: Any) -> list[int]:
        return [n for inner in value.values() for n in kept(inner)] if isinstance(value, dict) else [value]

    walk(tree, ())
    flat = flatten(tree)
    assert list(flat.tensors) == names
    assert kept(flat.values) == numbers
