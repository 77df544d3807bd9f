"""An HTML page read back: its elements as a tree, which fails where tags do not match."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "wbr", "br", "img", "input", "hr", "col"}


@dataclass
class Node:
    """One element."""

    tag: str
    attributes: dict[str, str | None]
    children: "list[Node | str]" = field(default_factory=list)

    def walk(self) -> "Iterator[Node]":
        """This element and all below it, in the order of the page."""
        yield self
        for child in self.children:
            if isinstance(child, Node):
                yield from child.walk()

    def find(
        self, tag: str | None = None, *, class_: str | None = None, id: str | None = None
    ) -> "list[Node]":
        """The elements below with this tag, class and id."""
        return [
            one
            for one in self.walk()
            if tag in (None, one.tag)
            and (class_ is None or class_ in (one.attributes.get("class") or "").split())
            and id in (None, one.attributes.get("id"))
        ]

    @property
    def text(self) -> str:
        """The words, with single spaces."""
        return " ".join(self._raw().split())

    def _raw(self) -> str:
        if self.tag == "style":
            return ""
        inner = "".join(child if isinstance(child, str) else child._raw() for child in self.children)
        is_block = self.tag not in ("span", "code", "b", "a", "wbr", "strong", "i")
        return f" {inner} " if is_block else inner


class Reader(HTMLParser):
    """Builds the tree; a tag that closes nothing, or the wrong thing, is an error."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("", {})
        self.open = [self.root]
        self.doctype = ""

    def handle_decl(self, decl: str) -> None:
        self.doctype = decl

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"<{tag}> repeats an attribute: {names}"
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open[-1].tag, f"</{tag}> closes <{self.open[-1].tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_pi(self, data: str) -> None:
        raise AssertionError(f"an instruction: {data}")


def read_page(text: str) -> Node:
    """The tree of a page; AssertionError if it is not well formed."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.doctype == "doctype html"
    assert reader.open == [reader.root], f"<{reader.open[-1].tag}> is never closed"
    return reader.root
