"""The sizes of one part by the part's own names: all given, or as the solver knows them."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping

from dovetail.declare.ops import Shape
from dovetail.declare.part import Part
from dovetail.dims import Expression, Solver, shape_of


class Sizes(Mapping[str, int]):
    """The sizes of one part by the part's own names."""

    @abstractmethod
    def evaluate(self, shape: Shape) -> tuple[int, ...]:
        """The numbers of a symbolic shape.

        Raises:
            KeyError: nothing decides an axis.
        """

    def unproved(self, needs: Iterable[str]) -> list[str]:
        """Those of some dims that bytes must not depend on: nothing says them, or a mere convention."""
        return [dim for dim in needs if dim not in self]


class KnownSizes(Sizes):
    """Sizes that are all given."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes = sizes

    def __getitem__(self, dim: str) -> int:
        return self._sizes[dim]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sizes)

    def __len__(self) -> int:
        return len(self._sizes)

    def evaluate(self, shape: Shape) -> tuple[int, ...]:
        return shape_of(shape, self)


class PartSizes(Sizes):
    """The sizes of one part as the solver knows them.

    A product that is known as a whole (`q_heads head_dim`) can be had through `evaluate` without its
    factors.
    """

    def __init__(self, role: str, part: Part, solver: Solver) -> None:
        self._role = role
        self._part = part
        self._solver = solver

    def __getitem__(self, dim: str) -> int:
        size = self._solver.get(f"{self._role}.{dim}")
        if size is None:
            raise KeyError(dim)
        return size.value

    def __iter__(self) -> Iterator[str]:
        return (dim for dim in self._part.dims if dim in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, dim: object) -> bool:
        return self._solver.get(f"{self._role}.{dim}") is not None

    def unproved(self, needs: Iterable[str]) -> list[str]:
        return [dim for dim in needs if dim not in self or self._is_guess(dim)]

    def _is_guess(self, dim: str) -> bool:
        """Whether a size is, or follows from, what a family only usually has."""
        size = self._solver.get(f"{self._role}.{dim}")
        if size is None or size.source != "default":
            return False
        usual = {name: why for name, _, why in self._part.facts.conventions}
        known = {name: self._solver.get(f"{self._role}.{name}") for name in usual}
        return any(one is not None and one.evidence[0] == usual[name] for name, one in known.items())

    def evaluate(self, shape: Shape) -> tuple[int, ...]:
        return tuple(self._axis(axis) for axis in shape)

    def _axis(self, axis: Expression) -> int:
        return sum(self._term(Expression((term,))) for term in axis.terms)

    def _term(self, term: Expression) -> int:
        try:
            return term.evaluate(self)
        except KeyError:
            renamed = term.rename(lambda dim: self._solver.root(f"{self._role}.{dim}"))
            factor, monomial = renamed.terms[0]
            if monomial not in self._solver.products:
                raise
            return factor * self._solver.products[monomial].value
