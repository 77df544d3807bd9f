"""Tensor names as two-way templates, and the grouping of a file's names by shape of name.

A template is one string that reads in both directions, as in a web router:

>>> row = Template("layers.{layer}.mlp.0.weight")
>>> row.parse("layers.3.mlp.0.weight")
{'layer': 3}
>>> row.format(layer=3)
'layers.3.mlp.0.weight'

Indices are named fields, never "the digits": `fc1` and `siglip2` hold digits and no index. The
*star* of a name is the name with every whole-integer segment replaced by `*`; names that differ only
in an index share a star, so a file of 100,000 tensors is a few dozen groups.

>>> star("model.layers.17.mlp.fc1.weight"), row.star
('model.layers.*.mlp.fc1.weight', 'layers.*.mlp.*.weight')
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, lru_cache

from dovetail.errors import DeclarationError

# One segment between separators that is an integer without leading zeros. `/` separates dict levels
# of nested checkpoints, `.` separates modules. More digits than 64 bits hold are a word.
_INDEX = re.compile(r"(?<![^./])(?:0|[1-9][0-9]{0,17})(?![^./])")
# The same with a dot before and behind, as every segment has where names are joined by `_NEXT`.
_DOTTED_INDEX = re.compile(r"\.(?:0|[1-9][0-9]{0,17})(?=\.)")
_NEXT = ".\n."
# What stands in a star for a `*` that the name itself holds: that one is a word, not an index.
WRITTEN_STAR = "\N{ASTERISK OPERATOR}"
_FIELD = re.compile(r"\{([a-z_]+)(?::([a-z_]+))?\}")

Index = tuple[int, ...]


def star(name: str) -> str:
    """The name with every integer segment replaced by `*`."""
    if "*" in name:
        name = name.replace("*", WRITTEN_STAR)
    if "/" in name or not name.isascii():
        return _INDEX.sub("*", name)
    # The same as _INDEX for nearly all names, in half the time.
    return ".".join(
        ["*" if s.isdigit() and len(s) < 19 and (s[0] != "0" or s == "0") else s for s in name.split(".")]
    )


def stars(names: Sequence[str]) -> list[str]:
    """The star of each name: all at once where they are names as modules have them."""
    text = f".{_NEXT.join(names)}."
    if "/" in text or "*" in text or text.count("\n") != len(names) - 1:
        return [star(name) for name in names]
    return _DOTTED_INDEX.sub(".*", text)[1:-1].split(_NEXT)


def group_names(names: Iterable[str]) -> dict[str, list[str]]:
    """The names of a file, by star, in file order. Less than a microsecond a name."""
    groups: dict[str, list[str]] = {}
    names = list(names)
    for name, key in zip(names, stars(names), strict=True):
        if key in groups:
            groups[key].append(name)
        else:
            groups[key] = [name]
    return groups


def indices(key: str, names: Sequence[str]) -> list[Index]:
    """What stands in each `*` of the star, for each of the names that share it.

    >>> indices("h.*.mlp.*.bias", ["h.4.mlp.0.bias"])
    [(4, 0)]
    """
    pieces = key.split("*")
    if len(pieces) == 1:
        return [()] * len(names)
    head, tail, middle = len(pieces[0]), len(pieces[-1]), pieces[1:-1]
    if not middle:
        return [_index(name[head : len(name) - tail]) for name in names]
    found: list[Index] = []
    for name in names:
        rest = name[head : len(name) - tail]
        index = []
        for piece in middle:
            digits, _, rest = rest.partition(piece)
            index.append(int(digits))
        index.append(int(rest))
        found.append(tuple(index))
    return found


@lru_cache(maxsize=1 << 14)
def _index(digits: str) -> Index:
    """One object for all tensors of a layer, which takes less memory and is compared in no time."""
    return (int(digits),)


class Template:
    """One tensor name with named indices, read in both directions.

    `{layer}` is an index that runs over all layers. `{layer:cross}` is the same index over the subset
    of layers called `cross` (every fifth, say); the members of a subset are read from the file.

    Raises:
        DeclarationError: a field appears twice.
    """

    __slots__ = ("__dict__", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        names = [name for name, _ in _FIELD.findall(text)]
        if len(set(names)) != len(names):
            raise DeclarationError(f"template `{text}` repeats a field")

    def __repr__(self) -> str:
        return f"Template({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Template) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The names of the indices, in order."""
        return tuple(name for name, _ in _FIELD.findall(self.text))

    @cached_property
    def subsets(self) -> tuple[str, ...]:
        """The subset that each field runs over, `""` for all."""
        return tuple(subset for _, subset in _FIELD.findall(self.text))

    @cached_property
    def _bare(self) -> str:
        return _FIELD.sub("*", self.text)

    @cached_property
    def star(self) -> str:
        """The star that every name of this template has."""
        return _INDEX.sub("*", self._bare)

    @cached_property
    def slots(self) -> tuple[int | str, ...]:
        """What each `*` of the star must be: a literal integer, or the name of a field."""
        fields = iter(self.fields)
        tokens = re.findall(r"\*|" + _INDEX.pattern, self._bare)
        return tuple(next(fields) if token == "*" else int(token) for token in tokens)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        pieces = _FIELD.split(self.text)
        body = re.escape(pieces[0])
        for name, tail in zip(pieces[1::3], pieces[3::3], strict=True):
            body += f"(?P<{name}>0|[1-9][0-9]{{0,17}})" + re.escape(tail)
        return re.compile(body)

    def parse(self, name: str) -> dict[str, int] | None:
        """The indices in the name, or None if the name is not of this template."""
        match = self._pattern.fullmatch(name)
        return {key: int(value) for key, value in match.groupdict().items()} if match else None

    def format(self, **index: int) -> str:
        """The name with these indices."""
        return self.at(index)

    @cached_property
    def at(self) -> Callable[[Mapping[str, int]], str]:
        """The same as a function of the indices in a mapping, for the names of many tensors."""
        if len(self.fields) != 1:
            return _FIELD.sub(r"%(\1)d", self.text.replace("%", "%%")).__mod__
        head, field, _, tail = _FIELD.split(self.text)
        return lambda index: f"{head}{index[field]}{tail}"

    def each(self, indices: Iterable[Index]) -> list[str]:
        """The names at these indices, the fields in their own order.

        >>> Template("layers.{layer}.mlp.0.weight").each([(0,), (7,)])
        ['layers.0.mlp.0.weight', 'layers.7.mlp.0.weight']
        """
        if len(self.fields) != 1:
            form = _FIELD.sub("%d", self.text.replace("%", "%%"))
            return [form % index for index in indices]
        head, _, _, tail = _FIELD.split(self.text)
        return [f"{head}{number}{tail}" for (number,) in indices]

    def select(self, index: Index) -> Index | None:
        """The field values of one star index, or None where a literal does not agree."""
        values = []
        for slot, value in zip(self.slots, index, strict=True):
            if isinstance(slot, str):
                values.append(value)
            elif slot != value:
                return None
        return tuple(values)


def under(prefix: str, template: Template) -> Template:
    """The template mounted at a prefix."""
    return Template(prefix + template.text)
