"""Random safetensors headers, listings, indexes and configs: read, or refused with an error of ours."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import dovetail
from dovetail.errors import CheckpointError, DovetailError, UsageError
from dovetail.families import built_in
from dovetail.render.html import report_html
from dovetail.render.page import inspect_page
from dovetail.render.plain import write_plain
from files import MODELS, header_of, plan_of, raw_safetensors, safetensors_bytes
from measured import peak_of

NUMBERS = st.one_of(
    st.integers(-3, 70),
    st.sampled_from([2**31, 2**32, 2**63 - 1, 2**63, 2**64, 2**64 + 8, 10**40, -(2**63)]),
    st.floats(),
)
TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["F32", "BF16", "I64", "F4", "BOOL", "f32", "", "__metadata__", "\ud800", "a.0.weight", "x" * 3000]
    ),
)
LEAVES = st.one_of(NUMBERS, TEXTS, st.none(), st.booleans())
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
SHAPES = st.lists(NUMBERS, max_size=5) | VALUES
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "dtype": TEXTS | VALUES,
        "shape": SHAPES,
        "data_offsets": st.lists(NUMBERS, min_size=2, max_size=2) | VALUES,
        "extra": VALUES,
    },
)
HEADERS = st.dictionaries(TEXTS, ENTRIES | VALUES, max_size=5)
LISTINGS = st.dictionaries(TEXTS, st.tuples(TEXTS, SHAPES) | VALUES, max_size=5)
INDEXES = st.fixed_dictionaries(
    {
        "weight_map": st.dictionaries(
            TEXTS, TEXTS | st.sampled_from(["../x", "/etc/passwd", "a.safetensors"]), max_size=4
        )
        | VALUES
    },
    optional={"metadata": st.fixed_dictionaries({}, optional={"total_size": NUMBERS | VALUES}) | VALUES},
)


def text_of(value: Any) -> bytes:
    """As json.dumps has it: NaN and Infinity are words that JSON does not know."""
    return json.dumps(value).encode()


def judge(path: Path) -> dovetail.Report | None:
    """What inspect finds, shown in every form; None if it refuses. Anything else fails the test."""
    try:
        report = dovetail.inspect(path)
    except (CheckpointError, UsageError) as error:
        str(error).encode()
        return None
    write_plain(inspect_page(report))
    report_html(report)
    json.dumps(report.as_json(), allow_nan=False)
    return report


@given(HEADERS, st.binary(max_size=40))
@example({"__metadata__": {"a": 3}}, b"")
@example({"a": {"dtype": "F32", "shape": [2**64], "data_offsets": [0, 0]}}, b"")
@example({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, bytes(4))
@example({"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}}, bytes(4))
def test_any_header_is_read_or_refused(tmp_path: Path, header: Any, body: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw_safetensors(text_of(header), body))
    report = judge(path)
    if report is not None:
        assert report.bytes == len(body)


@given(st.text(max_size=60) | VALUES.map(json.dumps), st.integers(-2, 2))
def test_any_text_in_the_place_of_a_header_is_read_or_refused(tmp_path: Path, text: str, off: int) -> None:
    raw = text.encode("utf-8", "surrogatepass")
    path = tmp_path / "model.safetensors"
    path.write_bytes(max(0, len(raw) + off).to_bytes(8, "little") + raw)
    assert peak_of(lambda: judge(path)) < 16 << 20


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_refused(tmp_path: Path, data: bytes) -> None:
    for name in ("model.safetensors", "model.pth", "model.json", "model.bin"):
        path = tmp_path / name
        path.write_bytes(data)
        judge(path)


@given(LISTINGS)
def test_any_listing_is_read_or_refused(tmp_path: Path, listing: Any) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text_of(listing))
    assert peak_of(lambda: judge(path)) < 16 << 20


@given(INDEXES)
def test_any_index_is_read_or_refused(tmp_path: Path, index: Any) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(text_of(index))
    (tmp_path / "a.safetensors").write_bytes(safetensors_bytes({"a.0.weight": ["F32", [2]]}))
    judge(path)
    judge(tmp_path)


@st.composite
def configs(draw: st.DrawFn, model: tuple[str, int]) -> dict[str, Any]:
    """A config with the keys that the family looks for, and any values."""
    family = plan_of(model[0], MODELS[model[0]][model[1]]).family
    keys = sorted(
        {
            key
            for parts in family.parts.values()
            for part in parts
            for keys in part.facts.spellings.values()
            for key in keys
        }
        | {
            key
            for parts in family.parts.values()
            for part in parts
            for setting in part.facts.settings
            for key in setting.spellings
        }
    )
    config: dict[str, Any] = {
        "model_type": draw(st.sampled_from(family.config.model_types or ("x",)) | VALUES)
    }
    sections = sorted({root for roots in family.config.roots.values() for root in roots} | {""})
    for root in draw(st.lists(st.sampled_from(sections), max_size=3)):
        section: Any = config
        for key in root.split(".") if root else ():
            section = section.setdefault(key, {})
            if not isinstance(section, dict):
                break
        else:
            if keys:
                section |= draw(st.dictionaries(st.sampled_from(keys), VALUES, max_size=4))
    return config


ALL_MODELS = [(one.id, 0) for one in built_in()]


@settings(max_examples=10)
@pytest.mark.parametrize("model", ALL_MODELS, ids=lambda model: model[0])
@given(data=st.data())
def test_any_config_beside_a_sound_file_leaves_it_known(
    model: tuple[str, int], data: st.DataObject, tmp_path: Path
) -> None:
    plan = plan_of(model[0], MODELS[model[0]][model[1]])
    (tmp_path / "x.json").write_bytes(text_of(header_of(plan, plan.family.layouts[0].id)))
    for name in ("config.json", "dovetail.json"):
        config = data.draw(configs(model))
        (tmp_path / name).write_bytes(text_of({"config": config} if name == "dovetail.json" else config))
    report = judge(tmp_path / "x.json")
    assert report is not None
    alike = {"llama", "mistral", "smollm3", "gemma"}
    if report.family != model[0] and set(report.candidates) != alike:  # then another name stands beside it
        said = report.findings[0].message
        assert "which dovetail does not know; every tensor has its place in" in said
        assert model[0] in said


def test_what_the_fuzzers_start_from_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes({"a.0.weight": ["F32", [2, 3]]}))
    assert judge(path) is not None
    path.write_bytes(b"\0")
    assert judge(path) is None
    with pytest.raises(DovetailError):
        dovetail.inspect(path)
