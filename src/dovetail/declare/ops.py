"""The exact rearrangements between canonical leaves and one stored tensor.

`join` makes the stored tensor out of its leaves, `part` takes it apart again, and `part(join(x)) == x`
holds by construction; `layout.prove` shows it for every declared row. Shapes are known without data,
so that a file can be checked by its header alone. Lossy changes (interpolate, pad, cast) are not ops.
"""

import re
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
_STACK_OVER = re.compile(r"stack ([a-z_]+)(?: of ([a-z_]+))?")
_HINT = "ops: concat, interleave, stack, as SHAPE; transpose and stack INDEX, also behind others"


class Op(ABC):
    """One way to make a stored tensor out of canonical leaves."""

    word: str
    # Stack alone runs over an index, which the stored name has not: one tensor holds the leaves of all.
    index: str | None = None

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
    """A matrix stored the other way round, as JAX and TensorFlow keep linear layers; what `first` made."""

    word = "transpose"

    def __init__(self, first: Op | None = None) -> None:
        self.first = first or Rename()

    def stored_shape(self, leaves: Sequence[Shape]) -> Shape:
        return self.first.stored_shape(leaves)[::-1]

    def join(self, leaves: "Sequence[Array]", sizes: Mapping[str, int]) -> "Array":
        return self.first.join(leaves, sizes).T

    def part(self, stored: "Array", leaves: Sequence[Shape], sizes: Mapping[str, int]) -> "list[Array]":
        return self.first.part(stored.T, leaves, sizes)

    @property
    def needs(self) -> tuple[str, ...]:
        return self.first.needs


class StackOver(Op):
    """What `member` makes for each value of an index, along a new first axis: `[experts, d_ff, d_model]`.

    The leaves come by index, those of one value together: gate 0, up 0, gate 1, up 1 ... A symbolic shape
    is asked for with the leaves of one value.
    """

    word = "stack"

    def __init__(self, index: str, count: str, member: Op, width: int) -> None:
        self.index = self.over = index
        self.count = count
        self.member = member
        self.width = width  # leaves of one value

    def stored_shape(self, leaves: Sequence[Shape]) -> Shape:
        return (Expression(((1, (self.count,)),)), *self.member.stored_shape(leaves[: self.width]))

    def join(self, leaves: "Sequence[Array]", sizes: Mapping[str, int]) -> "Array":
        import numpy as np

        starts = range(0, len(leaves), self.width)
        return np.stack([self.member.join(leaves[i : i + self.width], sizes) for i in starts])

    def part(self, stored: "Array", leaves: Sequence[Shape], sizes: Mapping[str, int]) -> "list[Array]":
        of_one = leaves[: self.width]
        return [leaf for member in stored for leaf in self.member.part(member, of_one, sizes)]

    def runs(self, leaves: Sequence[tuple[int, ...]], sizes: Mapping[str, int]) -> list[list[Run]] | None:
        of_one = self.member.runs(leaves[: self.width], sizes)
        if of_one is None:
            return None
        size = sum(prod(leaf) for leaf in leaves[: self.width])
        return [
            [Run(member * size + run.start, run.length) for run in runs]
            for member in range(len(leaves) // self.width)
            for runs in of_one
        ]

    @property
    def needs(self) -> tuple[str, ...]:
        return self.member.needs


class Stack(Op):
    """Leaves of one shape along a new first axis: gate and up."""

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


def parse_op(text: str, num_leaves: int = 1) -> Op:
    """The op that a row of a naming table asks for: "", `concat`, `transpose`, `as 1 positions d` …, or
    several, each of what the one before made: `concat, transpose, stack expert`.

    `stack INDEX` runs over an index; what counts it is its plural, or said: `stack expert of num_experts`.

    Raises:
        DeclarationError: there is no such op, or it cannot come after another.
    """
    first, *others = text.split(", ")
    op = _one_op(first, num_leaves)
    for word in others:
        if isinstance(op, StackOver):
            raise DeclarationError(f"`{word}` cannot come after a stack over an index", op=text)
        if word == "transpose":
            op = Transpose(op)
        elif over := _STACK_OVER.fullmatch(word):
            op = StackOver(over[1], over[2] or f"{over[1]}s", op, num_leaves)
        else:
            raise DeclarationError(f"`{word}` cannot come after another op", op=text, hint=_HINT)
    return op


def _one_op(text: str, num_leaves: int) -> Op:
    if over := _STACK_OVER.fullmatch(text):
        return StackOver(over[1], over[2] or f"{over[1]}s", Rename(), num_leaves)
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
    raise DeclarationError(f"no op is called `{text}`", hint=_HINT)
