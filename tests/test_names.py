"""Templates read in both directions; grouping loses nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.errors import DeclarationError
from dovetail.names import Template, group_names, indices, star, stars

segments = st.one_of(
    st.integers(0, 10**6).map(str),
    st.sampled_from(["fc1", "mlp", "siglip2", "00", "7b", "-1", "weight", "A_log"]),
)
names = st.lists(segments, min_size=1, max_size=7).map(".".join)


def test_a_template_reads_in_both_directions() -> None:
    template = Template("blocks.{layer}.experts.{expert}.mlp.0.weight")
    assert template.fields == ("layer", "expert")
    assert template.star == "blocks.*.experts.*.mlp.*.weight"
    assert template.slots == ("layer", "expert", 0)
    assert template.parse("blocks.3.experts.12.mlp.0.weight") == {"layer": 3, "expert": 12}
    assert template.format(layer=3, expert=12) == "blocks.3.experts.12.mlp.0.weight"


@pytest.mark.parametrize(
    "name",
    [
        "blocks.3.experts.12.mlp.1.weight",
        "blocks.03.experts.1.mlp.0.weight",
        "blocks..experts.1.mlp.0.weight",
        "x.blocks.3.experts.1.mlp.0.weight",
    ],
)
def test_a_template_refuses_what_is_not_of_it(name: str) -> None:
    assert Template("blocks.{layer}.experts.{expert}.mlp.0.weight").parse(name) is None


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_parse_undoes_format(layer: int, expert: int) -> None:
    template = Template("a.{layer}.b2.{expert}.0.c")
    assert template.parse(template.format(layer=layer, expert=expert)) == {"layer": layer, "expert": expert}


def test_a_literal_index_is_told_from_a_field() -> None:
    template = Template("h.{layer}.mlp.2.bias")
    assert template.select((5, 2)) == (5,)
    assert template.select((5, 0)) is None


def test_a_repeated_field_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"^template `\{a\}\.\{a\}` repeats a field\n"):
        Template("{a}.{a}")


def test_a_subset_is_a_field_over_some_layers() -> None:
    template = Template("layers.{layer:cross}.gate")
    assert (template.fields, template.subsets, template.star) == (("layer",), ("cross",), "layers.*.gate")
    assert template.format(layer=4) == "layers.4.gate"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mlp.fc1.weight", "mlp.fc1.weight"),
        ("siglip2.layers.3.x", "siglip2.layers.*.x"),
        ("projector.0.weight", "projector.*.weight"),
        ("model/0/x.1", "model/*/x.*"),
        ("a.007.b", "a.007.b"),
        ("0", "*"),
    ],
)
def test_only_whole_integer_segments_are_indices(name: str, expected: str) -> None:
    assert star(name) == expected


hostile_names = st.text(st.sampled_from("a0127.\n/-*é²"), max_size=12)


@given(st.lists(names | hostile_names, max_size=8))
def test_all_stars_at_once_are_those_of_each(some: list[str]) -> None:
    assert stars(some) == [star(name) for name in some]


@given(st.lists(names, unique=True, max_size=30))
def test_grouping_is_a_partition_and_indices_put_the_names_back(all_names: list[str]) -> None:
    groups = group_names(all_names)
    assert sorted(name for members in groups.values() for name in members) == sorted(all_names)
    for key, members in groups.items():
        for name, index in zip(members, indices(key, members), strict=True):
            pieces = key.split("*")
            rebuilt = pieces[0] + "".join(f"{i}{piece}" for i, piece in zip(index, pieces[1:], strict=True))
            assert rebuilt == name


def test_a_star_that_is_written_in_a_name_is_no_index() -> None:
    names = ["h.3.w", "h.*.w", "h.5.w"]
    groups = group_names(names)
    assert list(groups.values()) == [["h.3.w", "h.5.w"], ["h.*.w"]]
    assert [indices(key, members) for key, members in groups.items()] == [[(3,), (5,)], [()]]
