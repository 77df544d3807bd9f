"""Elements out of untrusted words: what goes in comes out as text, whatever it is."""

import pytest
from html_pages import Reader
from hypothesis import given
from hypothesis import strategies as st

from dovetail.errors import printable
from dovetail.render.html_chart import scale
from dovetail.render.html_elements import Html, breakable, element, name, prose

ANYTHING = st.text(st.characters(exclude_categories=()), max_size=120)


def read(markup: str) -> Reader:
    reader = Reader()
    reader.feed(markup)
    reader.close()
    assert reader.open == [reader.root]
    return reader


@given(ANYTHING, ANYTHING)
def test_words_come_back_as_one_text_and_one_attribute(words: str, value: str) -> None:
    (node,) = read(element("p", words, title=value)).root.children
    assert not isinstance(node, str)
    assert "".join(str(child) for child in node.children) == printable(words)
    assert node.attributes == {"title": printable(value)}


@given(ANYTHING)
def test_nothing_that_cannot_be_seen_gets_through(words: str) -> None:
    assert printable(words).isprintable()
    printable(words).encode()


@given(ANYTHING)
def test_a_name_may_be_broken_and_is_otherwise_as_it_was(words: str) -> None:
    pieces = breakable(words).split("<wbr>")
    assert all(len(read(piece).root.children) <= 1 for piece in pieces)
    assert "".join(str(child) for piece in pieces for child in read(piece).root.children) == printable(words)


@given(ANYTHING)
def test_prose_loses_nothing_but_its_backticks(words: str) -> None:
    def text(node: object) -> str:
        return "".join(text(child) for child in node.children) if hasattr(node, "children") else str(node)

    expected = words.replace("`", "") if words.count("`") % 2 == 0 else words
    assert text(read(prose(words)).root) == printable(expected)


def test_markup_plus_text_is_text_again() -> None:
    assert element("p", Html("<b>") + "x") == "<p>&lt;b&gt;x</p>"
    assert element("p", Html("<b></b>")) == "<p><b></b></p>"


def test_a_long_segment_can_be_broken() -> None:
    assert max(map(len, breakable("m." + "a" * 500).split("<wbr>"))) == 32


def test_a_shared_prefix_is_set_back() -> None:
    assert name("a.b.c", prefix="a.") == '<code><span class="shared">a.</span>b.<wbr>c</code>'
    assert name("a.", prefix="a.") == "<code>a.</code>"


@pytest.mark.parametrize("total", [0, 1, 2, 3, 7, 12, 28, 80, 999, 4_417_971_200, 15_080_000_000])
def test_a_scale_has_a_few_round_marks(total: int) -> None:
    marks = scale(total).marks
    assert 2 <= len(marks) <= 8
    assert marks[0] == 0
    assert all(mark == int(mark) for mark in marks)
    assert marks[-1] <= max(total, 1)
