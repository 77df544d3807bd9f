"""The content of leaves as hashes, made as the bytes stream by, and the fingerprint made of them."""

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from dovetail.declare.family import Family
from dovetail.errors import CheckpointError
from dovetail.store.content import ContentHash, content_hash, hash_of
from dovetail.store.readers import readers
from dovetail.store.source import LocalSource
from dovetail.store.store import Store
from dovetail.store.write.tensor_data import Block, Skip
from dovetail.weights.leaf import Leaf, zeros

Progress = Callable[[int, int], None]


class LeafContent(NamedTuple):
    """One leaf as it is in a checkpoint; `is_dead` if no computation reads it.

    `hash` is None where nobody read the values.
    """

    dtype: str
    shape: tuple[int, ...]
    hash: str | None
    is_dead: bool = False


def content_of(leaf: Leaf, hash: str | None) -> LeafContent:
    """The content of a leaf as it is written."""
    return LeafContent(leaf.dtype, leaf.shape, hash, leaf.spec.is_dead)


def fingerprint(family: Family, leaves: Mapping[str, LeafContent]) -> str:
    """The identity of a model: the same for the same weights in every layout, sharding and container.

    It is the hash of one line for each leaf, `name dtype shape hash`, sorted. Copies of tied tensors and
    dead tensors have no line, because some layouts leave them out.
    """
    lines = [
        f"{name} {leaf.dtype} {list(leaf.shape)} {leaf.hash}\n"
        for name, leaf in leaves.items()
        if not leaf.is_dead and not _is_tied_copy(family, name, leaf, leaves)
    ]
    return hash_of([f"{family.id}\n".encode(), *(line.encode() for line in sorted(lines))])


def _is_tied_copy(family: Family, name: str, leaf: LeafContent, leaves: Mapping[str, LeafContent]) -> bool:
    original = leaves.get(family.ties.get(name.split(".", maxsplit=1)[0], ""))
    return original is not None and (leaf.shape, leaf.hash) == (original.shape, original.hash)


class LeafHashes:
    """Hashes of several leaves in the making; a hole is hashed as the zeros that it stands for.

    Most leaves of a sparse file are nothing but a hole: the hash of so many zeros is made once.
    """

    def __init__(self) -> None:
        self._digests: dict[str, ContentHash] = {}
        self._holes: dict[str, int] = {}

    def add(self, leaf: str, block: Block) -> None:
        """Takes the next bytes of a leaf."""
        if isinstance(block, Skip):
            self._holes[leaf] = self._holes.get(leaf, 0) + block.size
            return
        if leaf not in self._digests:
            self._digests[leaf] = content_hash()
        if leaf in self._holes:
            _add_zeros(self._digests[leaf], self._holes.pop(leaf))
        self._digests[leaf].update(block)

    def digests(self) -> dict[str, str]:
        """The hash of each leaf that had any bytes."""
        hashes = {}
        for leaf, digest in self._digests.items():
            _add_zeros(digest, self._holes.pop(leaf, 0))
            hashes[leaf] = digest.hexdigest()
        return hashes | {leaf: _hash_of_zeros(size) for leaf, size in self._holes.items()}


@lru_cache(maxsize=64)
def _hash_of_zeros(size: int) -> str:
    return hash_of(zeros(size))


def _add_zeros(digest: ContentHash, size: int) -> None:
    for block in zeros(size):
        digest.update(block)


def hash_of_leaf(leaf: Leaf) -> str:
    """The hash of all values of a leaf."""
    hashes = LeafHashes()
    hashes.add(leaf.name, Skip(0))
    for block in leaf.blocks():
        hashes.add(leaf.name, block)
    return hashes.digests()[leaf.name]


def have_equal_values(a: Leaf, b: Leaf) -> bool:
    """Whether two leaves have the same dtype, shape and bytes."""
    return (a.dtype, a.shape) == (b.dtype, b.shape) and hash_of_leaf(a) == hash_of_leaf(b)


def contents_of(
    store: Store, leaves: Mapping[str, Leaf], *, progress: Progress | None = None
) -> dict[str, LeafContent]:
    """The content of these leaves of a store; `progress` is told the bytes read and the bytes in all."""
    done, total = 0, sum(one.size for one in leaves.values())
    contents = {}
    with readers(store) as read:
        for leaf, digest in zip(leaves.values(), read(hash_of_leaf, leaves.values()), strict=True):
            contents[leaf.name] = content_of(leaf, digest)
            done += leaf.size
            if progress:
                progress(done, total)
    return contents


def check_unchanged(sources: Iterable[LocalSource]) -> None:
    """What was read must be what is there now.

    Raises:
        CheckpointError: a file changed meanwhile.
    """
    for source in sources:
        if source.is_changed():
            raise source_changed(source)


def source_changed(source: LocalSource) -> CheckpointError:
    """The error for a file that is not what it was; a mere touch of its status is called what it is."""
    if source.is_only_touched():
        found = "another time of its status: new permissions, a new link, or a rewrite with its time put back"
        return CheckpointError(
            "the source changed while it was read, or somebody touched it",
            file=source.name,
            found=found,
            hint="wait until whoever does that is done, and run again",
        )
    return CheckpointError(
        "the source changed while it was read",
        file=source.name,
        hint="wait until whoever writes it is done, and run again",
    )
