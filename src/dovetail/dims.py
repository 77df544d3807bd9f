"""Symbolic shapes, and the solver that reads sizes out of real ones.

A shape is written as in einops: axes separated by spaces, a product in parentheses. Sums and
`ceil(a/b)` are allowed inside parentheses.

>>> [str(axis) for axis in parse_shape("(dt_rank + 2 d_state) d_inner")]
['dt_rank + 2 d_state', 'd_inner']

Each axis of each tensor is one equation, `expression = number`. The solver takes the equations with
one unknown first, lets the tensors vote where they disagree, and repeats. What is left is open: two
names that only ever appear as a product (`q_heads head_dim`) cannot be told apart, and the product is
known all the same.

>>> solver = Solver()
>>> solver.add(Fact(parse_expression("q_heads head_dim"), 1536, "q.weight"))
>>> solver.add(Fact(parse_expression("head_dim"), 128, "q_norm.weight"))
>>> solver.run()
>>> solver.sizes["q_heads"].value, solver.sizes["q_heads"].evidence
(12, ('q.weight',))
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from dovetail.errors import DeclarationError

Source = Literal["stamp", "weights", "config", "default", "undetermined"]
Monomial = tuple[str, ...]
EMPTY: Mapping[str, str] = MappingProxyType({})

_TOKEN = re.compile(r"\s*(ceil\([a-z_.]+ ?/ ?\d+\)|[a-z_][a-z0-9_.]*|\d+|\S)")
_CEIL = re.compile(r"ceil\(([a-z_.]+) ?/ ?(\d+)\)")


class Expression(NamedTuple):
    """A sum of products of names: `((1, ("dt_rank",)), (2, ("d_state",)))`."""

    terms: tuple[tuple[int, Monomial], ...]

    def __str__(self) -> str:
        return " + ".join(" ".join(([str(k)] if k != 1 or not m else []) + list(m)) for k, m in self.terms)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name in the expression, each once, in order."""
        return tuple(dict.fromkeys(name for _, monomial in self.terms for name in monomial))

    def rename(self, rename: Callable[[str], str]) -> "Expression":
        """The expression with every name replaced, also inside `ceil`."""

        def one(name: str) -> str:
            match = _CEIL.fullmatch(name)
            return f"ceil({rename(match[1])}/{match[2]})" if match else rename(name)

        return Expression(tuple((k, tuple(sorted(map(one, m)))) for k, m in self.terms))

    def evaluate(self, sizes: Mapping[str, int]) -> int:
        """The number this is when every name has a size.

        Raises:
            KeyError: a name has none.
        """
        return sum(k * math.prod(size_of(name, sizes) for name in m) for k, m in self.terms)


def size_of(name: str, sizes: Mapping[str, int]) -> int:
    """The size of a name or of a `ceil(name/n)`."""
    match = _CEIL.fullmatch(name)
    return -(-sizes[match[1]] // int(match[2])) if match else sizes[name]


def parse_expression(text: str) -> Expression:
    """A sum of products, without parentheses around it.

    Raises:
        DeclarationError: it is not one.
    """
    terms: list[tuple[int, Monomial]] = []
    for part in text.split(" + "):
        coefficient, names = 1, []
        tokens = _TOKEN.findall(part)
        if not tokens:
            raise DeclarationError(f"empty term in `{text}`")
        for token in tokens:
            if token.isdigit():
                coefficient *= int(token)
            elif re.fullmatch(r"[a-z_].*", token):
                names.append(token)
            else:
                raise DeclarationError(f"`{token}` has no place in the expression `{text}`")
        terms.append((coefficient, tuple(sorted(names))))
    return Expression(tuple(terms))


def parse_shape(text: str) -> tuple[Expression, ...]:
    """The axes of a symbolic shape.

    Raises:
        DeclarationError: an unclosed parenthesis or a character that has no place.
    """
    if text.strip() == "()":
        return ()  # a single number
    axes, group, depth = [], "", 0
    for token in _TOKEN.findall(text):
        if token == "(" and depth == 0:
            depth, group = 1, ""
        elif token == ")" and depth == 1:
            axes.append(parse_expression(group.strip()))
            depth = 0
        elif depth:
            group += f" {token}"
        else:
            axes.append(parse_expression(token))
    if depth:
        raise DeclarationError(f"unclosed parenthesis in the shape `{text}`")
    return tuple(axes)


def numeric(shape: Iterable[int]) -> tuple[Expression, ...]:
    """The axes of a shape whose sizes are known.

    >>> shape_of(numeric((3, 5)), {})
    (3, 5)
    """
    return tuple(Expression(((size, ()),)) for size in shape)


class Fact(NamedTuple):
    """One equation, and the tensor that states it."""

    expression: Expression
    value: int
    evidence: str
    axis: int = 0
    weight: int = 1


class Size(NamedTuple):
    """A size, where it came from and what proves it."""

    value: int
    source: Source
    evidence: tuple[str, ...]


class Contradiction(NamedTuple):
    """A fact that the rest of the file outvotes."""

    fact: Fact
    expected: int | None
    because: tuple[str, ...]


class Solver:
    """Names, what is known about them, and the facts not used yet.

    `same` maps a name to the name it is equal to (a joint between two parts), so that both sides vote
    together.
    """

    def __init__(self, same: Mapping[str, str] = EMPTY) -> None:
        self.same = same
        self.sizes: dict[str, Size] = {}
        self.products: dict[Monomial, Size] = {}
        self.contradictions: list[Contradiction] = []
        self._pending: list[Fact] = []

    def root(self, name: str) -> str:
        """The name that stands for this one and all that are equal to it."""
        while name in self.same:
            name = self.same[name]
        return name

    def add(self, fact: Fact) -> None:
        """Takes one more equation."""
        self._pending.append(
            Fact(fact.expression.rename(self.root), fact.value, fact.evidence, fact.axis, fact.weight)
        )

    def get(self, name: str) -> Size | None:
        """The size of a name, if it is known."""
        return self.sizes.get(self.root(name))

    def values(self) -> dict[str, int]:
        """All known sizes by the name that stands for them."""
        return {name: size.value for name, size in self.sizes.items()}

    @property
    def open(self) -> dict[str, Expression]:
        """Names that no fact decides, each with the product that is known to hold them."""
        found: dict[str, Expression] = {}
        for fact in self._pending:
            for name in fact.expression.names:
                if name not in self.sizes and not _CEIL.fullmatch(name):
                    found.setdefault(name, fact.expression)
        for monomial in self.products:
            for name in monomial:
                if name not in self.sizes:
                    found.setdefault(name, Expression(((1, monomial),)))
        return found

    def run(self) -> None:
        """Solves as far as the facts go. Facts that are outvoted end in `contradictions`."""
        while True:
            votes: dict[Monomial, dict[int, list[Fact]]] = {}
            rest = []
            for fact in self._pending:
                known, unknown, because = self._reduce(fact.expression)
                if not unknown:
                    if known != fact.value:
                        self.contradictions.append(Contradiction(fact, known, because))
                elif len(unknown) > 1 or any(_CEIL.fullmatch(name) for m in unknown for name in m):
                    rest.append(fact)
                else:
                    ((monomial, coefficient),) = unknown.items()
                    value, remainder = divmod(fact.value - known, coefficient)
                    if remainder or value < 1:
                        self.contradictions.append(Contradiction(fact, None, because))
                    else:
                        votes.setdefault(monomial, {}).setdefault(value, []).append(fact)
            # Names before products: a name found now may split a product found in the same round.
            names = {monomial: ballots for monomial, ballots in votes.items() if len(monomial) == 1}
            elected = names or votes
            held_back = [
                fact
                for monomial, ballots in votes.items()
                if monomial not in elected
                for facts in ballots.values()
                for fact in facts
            ]
            self._pending = rest + held_back
            if not elected:
                return
            for monomial, ballots in elected.items():
                self._elect(monomial, ballots)
            self._split_products()

    def _split_products(self) -> None:
        """Turns a product back into a fact once one of its names is known."""
        for monomial in [m for m in self.products if any(name in self.sizes for name in m)]:
            size = self.products.pop(monomial)
            self._pending.append(Fact(Expression(((1, monomial),)), size.value, size.evidence[0]))

    def assign(self, name: str, value: int, *, source: Source, evidence: str) -> bool:
        """Sets an open name from outside the weights. False if a product that is known forbids the value, or
        what follows from it."""
        name = self.root(name)
        for monomial, size in self.products.items():
            others = math.prod(self.sizes[n].value for n in monomial if n in self.sizes)
            if name in monomial and size.value % (value * others):
                return False
        before, products, pending = dict(self.sizes), dict(self.products), list(self._pending)
        num_contradictions = len(self.contradictions)
        self.sizes[name] = Size(value, source, (evidence,))
        self._split_products()
        self.run()
        if len(self.contradictions) > num_contradictions:
            self.sizes, self.products, self._pending = before, products, pending
            del self.contradictions[num_contradictions:]
            return False
        before[name] = self.sizes[name]
        for new in [name for name in self.sizes if name not in before]:
            size = self.sizes[new]
            self.sizes[new] = Size(size.value, source, (f"`{size.evidence[0]}` with {name} = {value}",))
        return True

    def _elect(self, monomial: Monomial, ballots: dict[int, list[Fact]]) -> None:
        ranked = sorted(ballots.items(), key=lambda b: (-len(b[1]), -sum(f.weight for f in b[1])))
        (value, supporters), losers = ranked[0], ranked[1:]
        evidence = tuple(dict.fromkeys(fact.evidence for fact in supporters))
        size = Size(value, "weights", evidence)
        if len(monomial) == 1:
            self.sizes[monomial[0]] = size
        else:
            self.products[monomial] = size
        for _, facts in losers:
            self.contradictions += [
                Contradiction(fact, self._expected(fact, monomial, value), evidence) for fact in facts
            ]

    def _expected(self, fact: Fact, monomial: Monomial, value: int) -> int:
        known, unknown, _ = self._reduce(fact.expression)
        return known + unknown.get(monomial, 0) * value

    def _reduce(self, expression: Expression) -> tuple[int, dict[Monomial, int], tuple[str, ...]]:
        """The part that is known, the unknown products with their factors, and what proved the known."""
        unknown: dict[Monomial, int] = {}
        known, because = 0, []
        for factor, monomial in expression.terms:
            coefficient = factor
            left = []
            for name in monomial:
                ceil = _CEIL.fullmatch(name)
                size = self.sizes.get(ceil[1] if ceil else name)
                if size is None:
                    left.append(name)
                else:
                    coefficient *= -(-size.value // int(ceil[2])) if ceil else size.value
                    because.append(size.evidence[0])
            rest = tuple(left)
            if not rest:
                known += coefficient
            elif rest in self.products:
                known += coefficient * self.products[rest].value
                because.append(self.products[rest].evidence[0])
            else:
                unknown[rest] = unknown.get(rest, 0) + coefficient
        return known, unknown, tuple(dict.fromkeys(because))


def shape_of(axes: Iterable[Expression], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The actual shape when every name has a size.

    Raises:
        KeyError: a name has none.
    """
    return tuple(axis.evaluate(sizes) for axis in axes)
