"""Numbers that a narrower dtype has no room for and that would become infinite.

float16 ends at 65,504: a checkpoint cast to it may hold infinities that nobody sees until the model
says NaN. So a run stops at the first one and names every tensor that has some, unless the user let the
tensor pass; then the certificate says how many there are.
"""

from collections.abc import Iterable, Mapping

from dovetail.errors import CheckpointError, listed
from dovetail.report import counted
from dovetail.store.write.tensor_data import Block, Skip
from dovetail.weights.leaf import Leaf


class Overflows:
    """Watches cast tensors; `counts` has those that were let pass and the numbers that became infinite."""

    def __init__(self, leaves: Iterable[Leaf]) -> None:
        self.counts: dict[str, int] = {}
        self._watched = {one.name: one for one in leaves if _may_overflow(one)}

    def watch(self, name: str, block: Block) -> None:
        """Looks at some bytes of a leaf as they are written.

        Raises:
            CheckpointError: a number became infinite, and nobody let it pass.
        """
        leaf = self._watched.get(name)
        if leaf is None or isinstance(block, Skip) or name in self.counts:
            return
        from dovetail.store.cast import num_infinite

        if num_infinite(block, leaf.dtype):
            self.count(leaf)

    def count(self, leaf: Leaf) -> None:
        """Counts what overflows in one whole tensor, if it is one that may.

        Raises:
            CheckpointError: something does, and nobody let it pass.
        """
        if leaf.name not in self._watched or not (count := num_overflows(leaf)):
            return
        if not leaf.may_overflow:
            others = (one for one in self._watched.values() if not one.may_overflow)
            raise _refusal({one.name: num for one in others if (num := num_overflows(one))}, leaf.dtype)
        self.counts[leaf.name] = count


def num_overflows(leaf: Leaf) -> int:
    """How many finite numbers of a tensor become infinite."""
    from dovetail.store.cast import cast, num_infinite

    count = 0
    for block in leaf._replace(dtype=leaf.source_dtype).blocks():
        if not isinstance(block, Skip):
            written = cast(block, leaf.source_dtype, leaf.dtype)
            count += num_infinite(written, leaf.dtype) - num_infinite(block, leaf.source_dtype)
    return count


def _may_overflow(leaf: Leaf) -> bool:
    if not leaf.is_cast:
        return False
    from dovetail.store.cast import LARGEST

    return LARGEST[leaf.dtype] < LARGEST[leaf.source_dtype]


def _refusal(counts: Mapping[str, int], dtype: str) -> CheckpointError:
    names = [f"`{name}` ({number:,})" for name, number in counts.items()]
    kept = " ".join(f"--dtype {name}=bfloat16" for name in list(counts)[:3])
    return CheckpointError(
        f"{counted(sum(counts.values()), 'number')} too large for {dtype} would become infinite: "
        f"{listed(names, 5)}",
        hint=f"keep them wider ({kept}), choose bfloat16, or let them pass with --allow NAME",
    )
