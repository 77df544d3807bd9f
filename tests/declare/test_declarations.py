"""Proofs about every declared family, and that the proofs can fail."""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.declare.family import Family, Mount, layout
from dovetail.declare.lookalikes import same_families, same_layouts
from dovetail.declare.ops import Concat, Interleave, parse_op
from dovetail.declare.part import Facts, Naming, Part
from dovetail.declare.prompt import Prompt
from dovetail.declare.prove import prove
from dovetail.declare.reference import referenced
from dovetail.declare.spelling import read, written
from dovetail.dims import parse_shape
from dovetail.errors import DeclarationError
from dovetail.families import built_in
from dovetail.families.decoder import HEAD, QWEN2

FAMILIES = {family.id: family for family in built_in()}


@pytest.mark.parametrize("id", FAMILIES)
def test_the_declaration_holds(id: str) -> None:
    prove(FAMILIES[id])


def test_only_families_with_the_names_of_llama_cannot_be_told_apart() -> None:
    pairs: dict[str, set[frozenset[str]]] = {}
    for one, other, shared in same_families(built_in()):
        pairs.setdefault(shared, set()).add(frozenset((one, other)))
    litgpt = {frozenset(pair) for pair in combinations(("llama", "mistral", "gemma"), 2)}
    hf = {frozenset(pair) for pair in combinations(("llama", "mistral", "smollm3", "gemma"), 2)}
    assert pairs == {"hf": hf, "hf-base": hf, "litgpt": litgpt, "litgpt-legacy": litgpt}


@pytest.mark.parametrize("id", FAMILIES)
def test_no_two_layouts_of_a_family_write_the_same_names(id: str) -> None:
    assert [same for same in same_layouts(FAMILIES[id]) if same] == []


def test_two_layouts_with_the_same_names_would_be_listed() -> None:
    twice = (layout("printed", {"text": "model."}), layout("again", {"text": "model."}))
    family = Family(id="x", title="X", parts={"text": (QWEN2,)}, layouts=twice)
    assert same_layouts(family) == [["again"], ["printed"]]


def declared(part: Part, *layouts: object, **rest: object) -> Family:
    one = layouts or (layout("hf", {"text": "model."}),)
    return Family(id="x", title="X", parts={"text": (part,), "head": (HEAD,)}, layouts=one, **rest)  # type: ignore[arg-type]


def small(table: str, naming: str) -> Part:
    return Part(id="small", table=table, namings={"hf": Naming(naming)})


@pytest.mark.parametrize(
    ("family", "message"),
    [
        (
            lambda: declared(small("a  d\nb  d", "a  x\nb  x")),
            "family `x` contradicts itself: layout hf: two tensors of text (small) have one name",
        ),
        (
            lambda: declared(small("a  d\nb  d", "a  x")),
            "family `x` contradicts itself: layout hf: text (small) has no name for ['b']",
        ),
        (
            lambda: declared(small("a  d\nb  d", "a  x\nb  y\nb  z")),
            "family `x` contradicts itself: layout hf: text.b is written to model.y and model.z; "
            "layout hf: two tensors of text (small) have one name",
        ),
        (
            lambda: declared(QWEN2, layout("hf", {"text": "model.", "eye": "visual."})),
            "family `x` contradicts itself: layout hf mounts unknown parts ['eye']",
        ),
        (
            lambda: declared(QWEN2, layout("hf", {"text": Mount("model.", "klingon")})),
            "family `x` contradicts itself: layout hf has no names for any kind of text",
        ),
        (
            lambda: declared(QWEN2, joints="head.vocab = text.size"),
            "family `x` contradicts itself: joint head.vocab = text.size names the unknown size text.size",
        ),
        (
            lambda: declared(QWEN2, ties={"head": "text.nothing"}),
            "family `x` contradicts itself: tie of head to text.nothing names an unknown leaf",
        ),
        (
            lambda: declared(QWEN2, sizes={"2b": {"text.d_modell": 3}}),
            "family `x` contradicts itself: size 2b names the unknown size text.d_modell",
        ),
        (
            lambda: declared(small("q  3 d\nk  2 d", "[q k]  qk  as 6 d")),
            "family `x` contradicts itself: small/hf: as cannot make qk of (3, 2), (2, 2)",
        ),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(family: object, message: str) -> None:
    with pytest.raises(DeclarationError) as error:
        prove(family())  # type: ignore[operator]
    assert error.value.message == message


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("a", "a leaf row has a name, a shape and marks: ['a']"),
        ("a  d  init sometimes", "`init sometimes` is no mark of a leaf"),
        ("a  d  if eyes,dead", "`if eyes,dead` is no mark of a leaf"),
        ("a  d  sometimes", "`sometimes` is no mark of a leaf"),
        ("a  d\na  d", "leaf `a` is declared twice"),
        ("a  (d", "unclosed parenthesis in the shape `(d`"),
    ],
)
def test_a_malformed_table_is_refused(table: str, message: str) -> None:
    with pytest.raises(DeclarationError) as error:
        assert [leaf.shape for leaf in Part(id="x", table=table, namings={}).leaves.values()]
    assert error.value.message == message


def test_qkv_orders_are_those_of_litgpt() -> None:
    """SYSTEMS T.5: 4 query heads, 2 kv groups, head size 1."""
    q, k, v = np.arange(4)[:, None], np.arange(10, 12)[:, None], np.arange(20, 22)[:, None]
    sizes = {"kv_heads": 2, "q_heads": 4, "head_dim": 1, "d": 1}
    assert Concat().join([q, k, v], sizes).ravel().tolist() == [0, 1, 2, 3, 10, 11, 20, 21]
    assert Interleave().join([q, k, v], sizes).ravel().tolist() == [0, 1, 10, 20, 2, 3, 11, 21]
    shapes = [parse_shape("(q_heads head_dim) d"), *[parse_shape("(kv_heads head_dim) d")] * 2]
    parts = Interleave().part(np.array([[0], [1], [10], [20], [2], [3], [11], [21]]), shapes, sizes)
    assert [part.ravel().tolist() for part in parts] == [[0, 1, 2, 3], [10, 11], [20, 21]]


def test_an_unknown_op_is_refused() -> None:
    with pytest.raises(DeclarationError, match="no op is called `rotate`"):
        parse_op("rotate")


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"model": "package.Class"}, "model = `package.Class` is not of the form package.module:Name"),
        ({"inputs": ":Class"}, "inputs = `:Class` is not of the form package.module:Name"),
        ({"side_file": ("a.json", "a.b")}, "side_file = `a.b` is not of the form package.module:Name"),
        ({"float32": ("text.*.lambda",)}, "float32 names no parameter: text.*.lambda"),
        ({"prompt": Prompt("Q: {}")}, "a frame has no place for the prompt: 'Q: {}'"),
        (
            {"prompt": Prompt(frames=(("*", "say it"),))},
            "a frame has no place for the prompt: 'say it'",
        ),
    ],
)
def test_what_is_said_for_running_is_proved(said: dict[str, Any], message: str) -> None:
    prove(declared(QWEN2, float32=("text.blocks.*.norm?.weight", "head.weight"), model="a.b:C"))
    with pytest.raises(DeclarationError) as error:
        prove(declared(QWEN2, **said))
    assert error.value.message == f"family `x` contradicts itself: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("math", "`math` is no reference"),
        ("dovetail.klingon:Model", "there is no module `dovetail.klingon`"),
        ("klingon.models:Model", "there is no module `klingon`"),
        ("math:tau_", "module `math` has no `tau_`"),
    ],
)
def test_a_reference_to_nothing_is_refused(text: str, message: str) -> None:
    with pytest.raises(DeclarationError) as error:
        referenced(text)
    assert error.value.message == message


def test_a_missing_package_is_no_fault_of_the_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "needs_more.py").write_text("import klingon\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="klingon"):
        referenced("needs_more:Model")


def test_how_a_leaf_begins() -> None:
    table = """
    table                d width
    norm.(weight|bias)   d
    fc.(weight|bias)     d width | d
    gain                 d           init ones
    blocks.{layer}.A     d width     if scan, init a_log
    offset.weight        d           if scan, init zeros
    old                  d           dead
    """
    leaves = Part(id="x", table=table, namings={}, features=("scan",)).leaves
    assert {name: leaf.init for name, leaf in leaves.items()} == {
        "table": "normal",
        "norm.weight": "ones",
        "norm.bias": "zeros",
        "fc.weight": "normal",
        "fc.bias": "zeros",
        "gain": "ones",
        "blocks.{layer}.A": "a_log",
        "offset.weight": "zeros",
        "old": "normal",
    }
    assert [leaf.feature for leaf in leaves.values() if leaf.feature] == ["scan", "scan"]


def test_norms_of_all_families_begin_at_their_neutral_value() -> None:
    """Zero where the weight counts from one, else one."""
    begins = {
        (part.id, name, leaf.init)
        for family in FAMILIES.values()
        for part in (part for kinds in family.parts.values() for part in kinds)
        for name, leaf in part.leaves.items()
        if name.endswith(("norm.weight", "norm1.weight", "norm2.weight", "LayerNorm.weight"))
    }
    assert {id for id, _, init in begins if init == "zeros"} == {"gemma", "gemma_expert"}
    assert {init for id, _, init in begins if not id.startswith("gemma")} == {"ones"}


@pytest.mark.parametrize("id", FAMILIES)
def test_every_part_that_runs_says_what_it_is_for(id: str) -> None:
    unsaid = {role for role, kinds in FAMILIES[id].parts.items() for part in kinds if part.purpose == ""}
    assert unsaid <= {"contrast", "scale", "normalizer", "vision_norm", "vicreg", "text_projection"}


@pytest.mark.parametrize(
    ("spellings", "message"),
    [
        ({"d": ("ratio * width",)}, "cannot write d as ratio * width: no size is spelled width"),
        (
            {"d": ("(image // patch)^2",)},
            "cannot write d as (image // patch)^2: no size is spelled patch",
        ),
        ({"d": ("a // side",)}, "spells d as a // side, and reads None where 5929 was written"),
    ],
)
def test_a_spelling_that_does_not_come_back_is_refused(
    spellings: dict[str, tuple[str, ...]], message: str
) -> None:
    def family(more: dict[str, tuple[str, ...]]) -> Family:
        part = Part(
            id="small",
            table="a  d e",
            namings={"hf": Naming("a  x")},
            facts=Facts(spellings={"e": ("side", "edge"), **more}),
        )
        return declared(part)

    for fine in ("width", "ratio * side", "ratio * ratio", "len(sizes)", "(image // side)^2"):
        prove(family({"d": (fine,)}))
    with pytest.raises(DeclarationError) as error:
        prove(family(spellings))
    assert message in error.value.message


@pytest.mark.parametrize(
    ("spelling", "size", "known", "keys"),
    [
        ("hidden_size", 8, {}, {"hidden_size": 8}),
        ("ratio * width", 5120, {"width": 1280}, {"ratio": 4}),
        ("ratio * width", 1920, {"width": 1280}, {"ratio": 1.5}),
        ("merge * merge", 9, {}, {"merge": 3}),
        ("(image // patch)^2", 729, {"patch": 14}, {"image": 378}),
        ("len(layers)", 3, {}, {}),
        ("ratio * width", 5120, {}, {}),
    ],
)
def test_a_size_is_written_as_it_is_spelled(
    spelling: str, size: int, known: dict[str, int], keys: dict[str, float]
) -> None:
    assert written(spelling, size, known) == keys
    if keys:
        assert read({**known, **keys}, spelling) == size
