"""The exact rearrangements between canonical leaves and one stored tensor.

`join` makes the stored tensor out of its leaves, `part` takes it apart again, and `part(join(x)) == x`
holds by construction; `layout.prove` shows it for every declared row. Shapes are known without data,
so that a file can be checked by its header alone. Lossy changes (interpolate, pad, cast) are not ops.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from dovetail.dims import Expression, parse_shape, shape_of
from dovetail.errors import DeclarationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[object]  # type: ignore[type-var]

Shape = tuple[Expression, ...]


class Op(ABC):
    """One way to make a stored tensor out of canonical leaves."""

    word: str

    @abstractmethod
    def stored_shape(self, leaves: Sequence[Shape]) -> Shape:
        """The symbolic shape of the stored tensor."""

    @abstractmethod
    def join(self, leaves: "Sequence[Array]", sizes: Mapping[str, int]) -> "Array":
        """The stored tensor."""

    @abstractmethod
    def part(self, stored: "Array", leaves: Sequence[Shape], sizes: Mapping[str, int]) -> "list[Array]":
        """The leaves, in declared order."""

    def runs(self, leaves: Sequence[tuple[int, ...]], sizes: Mapping[str, int]) -> "list[list[Run]] | None":
        """Where each leaf's elements lie in the stored tensor, in the leaf's own order.

        None if they lie scattered, so that the tensor must be rearranged element by element.
        """
        return None

    @property
    def needs(self) -> tuple[str, ...]:
        """Dims that must have a size before bytes can move, beyond what shapes decide."""
        return ()


class Run(NamedTuple):
    """A run of elements in a stored tensor."""

    start: int
    length: int


class Rename(Op):
    """The same tensor under another name."""

    word = "rename"

    def stored_shape(self, leaves: Sequence[Shape]) -> Shape:
        return leaves[0]

    def join(self, leaves: "Sequence[Array]", sizes: Mapping[str, int]) -> "Array":
        return leaves[0]

    def part(self, stored: "Array", leaves: Sequence[Shape], sizes: Mapping[str, int]) -> "list[Array]":
        return [stored]

    def runs(self, leaves: Sequence[tuple[int, ...]], sizes: Mapping[str, int]) -> list[list[Run]]:
        return [[Run(0, prod(leaves[0]))]]


class Reshape(Op):
    """The same elements in the same order under another shape: `pos_embed` with a leading 1."""

    word = "as"

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def stored_shape(self, leaves: Sequence[Shape]) -> Shape:
        return self.shape

    def join(self, leaves: "Sequence[Array]", sizes: Mapping[str, int]) -> "Array":
        return leaves[0].reshape(shape_of(self.shape, sizes))

    def part(self, stored: "Array", leaves: Sequence[Shape], sizes: Mapping[str, int]) -> "list[Array]":
        return [stored.reshape(shape_of(leaves[0], sizes))]

    def runs(self, leaves: Sequence[tuple[int, ...]], sizes: Mapping[str, int]) -> list[list[Run]]:
        return [[Run(0, prod(leaves[0]))]]


class Concat(Op):
    """The leaves one after the other on the first axis: `qkv = q | k | v`."""

    word = "concat"

    def stored_shape(self, leaves: Sequence[Shape]) -> Shape:
        terms: dict[tuple[str, ...], int] = {}
        for leaf in leaves:
            for coefficient, monomial in leaf[0].terms:
                terms[monomial] = terms.get(monomial, 0) + coefficient
        return (Expression(tuple((k, m) for m, k in terms.items())), *leaves[0][1:])

    def join(self, leaves: "Sequence[Array]", sizes: Mapping[str, int]) -> "Array":
        import numpy as np

        return np.concatenate(list(leaves), axis=0)

    def part(self, stored: "Array", leaves: Sequence[Shape], sizes: Mapping[str, int]) -> "list[Array]":
        rows, found = 0, []
        for leaf in leaves:
            size = leaf[0].evaluate(sizes)
            found.append(stored[rows : rows + size])
            rows += size
        return found

    def runs(self, leaves: Sequence[tuple[int, ...]], sizes: Mapping[str, int]) -> list[list[Run]]:
        counts = [prod(leaf) for leaf in leaves]
        return [[Run(sum(counts[:i]), count)] for i, count in enumerate(counts)]


class Interleave(Op):
    """q, k and v interleaved by kv group: `q0 q1 k0 v0 q2 q3 k1 v1` for 4 query and 2 kv heads.

    LitGPT before 0.5 (`attn.attn`). The stored shape equals that of Concat: only the name tells them
    apart. `groups` is the dim that counts the groups.
    """

    word = "interleave"

    def __init__(self, groups: str = "kv_heads") -> None:
        self.groups = groups

    def stored_shape(self, leaves: Sequence[Shape]) -> Shape:
        return Concat().stored_shape(leaves)

    def join(self, leaves: "Sequence[Array]", sizes: Mapping[str, int]) -> "Array":
        import numpy as np

        groups = sizes[self.groups]
        pieces = [leaf.reshape(groups, leaf.shape[0] // groups, *leaf.shape[1:]) for leaf in leaves]
        joined = np.concatenate(pieces, axis=1)
        return joined.reshape(-1, *joined.shape[2:])

    def part(self, stored: "Array", leaves: Sequence[Shape], sizes: Mapping[str, int]) -> "list[Array]":
        groups = sizes[self.groups]
        grouped = stored.reshape(groups, stored.shape[0] // groups, *stored.shape[1:])
        rows, found = 0, []
        for leaf in leaves:
            size = leaf[0].evaluate(sizes) // groups
            found.append(grouped[:, rows : rows + size].reshape(-1, *stored.shape[1:]))
            rows += size
        return found

    def runs(self, leaves: Sequence[tuple[int, ...]], sizes: Mapping[str, int]) -> list[list[Run]]:
        groups = sizes[self.groups]
        counts = [prod(leaf) // groups for leaf in leaves]
        width = sum(counts)
        return [
            [Run(group * width + sum(counts[:i]), count) for group in range(groups)]
            for i, count in enumerate(counts)
        ]

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.groups,)


class Transpose(Op):
    """A matrix stored the other way round, as JAX and TensorFlow keep linear layers."""

    word = "transpose"

    def stored_shape(self, leaves: Sequence[Shape]) -> Shape:
        return leaves[0][::-1]

    def join(self, leaves: "Sequence[Array]", sizes: Mapping[str, int]) -> "Array":
        return leaves[0].T

    def part(self, stored: "Array", leaves: Sequence[Shape], sizes: Mapping[str, int]) -> "list[Array]":
        return [stored.T]


class Stack(Op):
    """Leaves of one shape along a new first axis: experts, or gate and up."""

    word = "stack"

    def stored_shape(self, leaves: Sequence[Shape]) -> Shape:
        return (Expression(((len(leaves), ()),)), *leaves[0])

    def join(self, leaves: "Sequence[Array]", sizes: Mapping[str, int]) -> "Array":
        import numpy as np

        return np.stack(list(leaves))

    def part(self, stored: "Array", leaves: Sequence[Shape], sizes: Mapping[str, int]) -> "list[Array]":
        return list(stored)

    def runs(self, leaves: Sequence[tuple[int, ...]], sizes: Mapping[str, int]) -> list[list[Run]]:
        return Concat().runs(leaves, sizes)


def parse_op(text: str) -> Op:
    """The op that a row of a naming table asks for: "", `concat`, `transpose`, `as 1 positions d` ….

    Raises:
        DeclarationError: there is no such op.
    """
    word, _, rest = text.partition(" ")
    match word:
        case "":
            return Rename()
        case "concat":
            return Concat()
        case "interleave":
            return Interleave(rest.strip() or "kv_heads")
        case "as":
            return Reshape(parse_shape(rest))
        case "transpose":
            return Transpose()
        case "stack":
            return Stack()
    hint = "ops: concat, interleave, stack, transpose, as SHAPE"
    raise DeclarationError(f"no op is called `{text}`", hint=hint)
