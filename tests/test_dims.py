"""Shapes as equations: what they decide, what they leave open, and who is outvoted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.dims import Fact, Solver, parse_expression, parse_shape, shape_of
from dovetail.errors import DeclarationError


def solve(*facts: tuple[str, int, str], same: dict[str, str] | None = None) -> Solver:
    solver = Solver(same or {})
    for text, value, evidence in facts:
        solver.add(Fact(parse_expression(text), value, evidence))
    solver.run()
    return solver


def test_a_shape_is_parsed_axis_by_axis() -> None:
    axes = parse_shape("(dt_rank + 2 d_state) d_inner 1 (2 heads head_dim)")
    assert [str(axis) for axis in axes] == ["dt_rank + 2 d_state", "d_inner", "1", "2 head_dim heads"]


@pytest.mark.parametrize("text", ["(a b", "a ) b", "a * b"])
def test_a_malformed_shape_is_refused(text: str) -> None:
    with pytest.raises(DeclarationError):
        parse_shape(text)


def test_a_product_is_split_by_a_name_known_from_elsewhere() -> None:
    solver = solve(
        ("q_heads head_dim", 1536, "q"), ("head_dim", 128, "norm"), ("kv_heads head_dim", 256, "k")
    )
    assert {name: size.value for name, size in solver.sizes.items()} == {
        "head_dim": 128,
        "q_heads": 12,
        "kv_heads": 2,
    }
    assert solver.open == {}


def test_a_product_alone_leaves_both_names_open() -> None:
    solver = solve(("q_heads head_dim", 1536, "q"))
    assert solver.sizes == {}
    assert set(solver.open) == {"q_heads", "head_dim"}
    assert solver.assign("head_dim", 128, source="default", evidence="convention")
    assert solver.sizes["q_heads"].value == 12
    assert solver.sizes["q_heads"].source == "default"
    assert solver.sizes["q_heads"].evidence == ("`q` with head_dim = 128",)


def test_a_value_that_does_not_divide_is_refused() -> None:
    solver = solve(("q_heads head_dim", 1536, "q"))
    assert not solver.assign("head_dim", 100, source="config", evidence="config.json")
    assert "head_dim" in solver.open


def test_a_sum_of_known_products_gives_the_unknown_one() -> None:
    solver = solve(("q_heads head_dim", 1536, "o"), ("q_heads head_dim + 2 kv_heads head_dim", 2048, "qkv"))
    assert solver.products[("head_dim", "kv_heads")].value == 256


def test_ceil_is_computed_and_never_inverted() -> None:
    assert parse_expression("ceil(width / 16)").evaluate({"width": 1025}) == 65
    assert solve(("ceil(width / 16)", 64, "dt")).sizes == {}
    assert solve(("width", 1024, "w"), ("ceil(width / 16)", 65, "dt")).contradictions[0].expected == 64


def test_the_minority_is_outvoted_and_named() -> None:
    solver = solve(("d", 64, "a"), ("d", 64, "b"), ("d", 65, "c"))
    assert solver.sizes["d"].value == 64
    (contradiction,) = solver.contradictions
    assert (contradiction.fact.evidence, contradiction.expected, contradiction.because) == (
        "c",
        64,
        ("a", "b"),
    )


def test_joined_names_vote_together() -> None:
    solver = solve(("out", 65, "projector"), ("d", 64, "a"), ("d", 64, "b"), same={"out": "d"})
    assert solver.get("out") == solver.get("d")
    assert solver.contradictions[0].fact.evidence == "projector"


def test_an_axis_that_does_not_divide_is_a_contradiction() -> None:
    solver = solve(("head_dim", 7, "norm"), ("heads head_dim", 30, "q"))
    assert [c.fact.evidence for c in solver.contradictions] == ["q"]
    assert solver.contradictions[0].expected is None


@given(
    st.fixed_dictionaries(
        {name: st.integers(2, 10**5) for name in ("d", "heads", "head_dim", "rank", "state")}
    )
)
def test_what_is_declared_is_inferred(sizes: dict[str, int]) -> None:
    shapes = {"q": "(heads head_dim) d", "n": "head_dim", "x": "(rank + 2 state) d", "a": "d state"}
    solver = Solver()
    for name, text in shapes.items():
        axes = parse_shape(text)
        for i, (axis, value) in enumerate(zip(axes, shape_of(axes, sizes), strict=True)):
            solver.add(Fact(axis, value, name, i))
    solver.run()
    assert solver.values() == sizes
    assert solver.contradictions == []


def test_a_value_from_outside_must_fit_what_follows_from_it() -> None:
    """28 = q c and 14 = g c: seven query heads make c 4, which does not divide 14."""
    solver = Solver()
    for names, value in (("q c", 28), ("g c", 14)):
        solver.add(Fact(parse_expression(names), value, names))
    solver.run()
    assert not solver.assign("q", 7, source="config", evidence="config.json")
    assert solver.get("q") is None
    assert solver.get("c") is None
    assert not solver.contradictions
    assert solver.assign("q", 4, source="config", evidence="config.json")
    assert (solver.get("c").value, solver.get("g").value) == (7, 2)  # type: ignore[union-attr]
