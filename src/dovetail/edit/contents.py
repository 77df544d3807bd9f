"""The content of every leaf of a checkpoint, hashed as it streams by."""

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from dovetail.checkpoint import Checkpoint
from dovetail.edit.write.certificate import LeafContent
from dovetail.errors import CheckpointError
from dovetail.store.content import ContentHash, are_equal, content_hash
from dovetail.store.source import LocalSource
from dovetail.store.store import Store
from dovetail.store.write.tensor_data import Block, Skip
from dovetail.weights.leaf import Leaf

Progress = Callable[[int, int], None]
_THREADS = 4  # more do not read faster
_ZEROS = bytes(1 << 20)


def leaf_contents(source: Checkpoint, *, progress: Progress | None = None) -> dict[str, LeafContent]:
    """The content of every leaf. `progress` is told the bytes read and the bytes in all.

    Raises:
        CheckpointError: the input holds no values, two copies of a tensor differ, or a file changed
            while it was read.
    """
    if not source.store.has_bytes:
        raise CheckpointError(
            "this input holds names and shapes only, no values",
            checkpoint=source.report.path,
            hint="give the weights themselves",
        )
    check_copies(source)
    contents = contents_of(source.store, source.leaves, progress=progress)
    check_unchanged(source.store)
    return contents


def contents_of(
    store: Store, leaves: Mapping[str, Leaf], *, progress: Progress | None = None
) -> dict[str, LeafContent]:
    """The content of these leaves of a store; local files are read by several threads."""
    sources = [store.source(file) for file in range(len(store.files))]
    is_local = all(isinstance(source, LocalSource) for source in sources)
    done, total = 0, sum(one.size for one in leaves.values())
    contents = {}
    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1) if is_local else 1) as pool:
        for one, digest in zip(leaves.values(), pool.map(_hash, leaves.values()), strict=True):
            contents[one.name] = LeafContent(one.dtype, one.shape, digest, one.spec.is_dead)
            done += one.size
            if progress:
                progress(done, total)
    return contents


def check_copies(source: Checkpoint) -> None:
    """Second names of a tensor must say the same as the first.

    Raises:
        CheckpointError: one does not.
    """
    for match in source.explanation.roles.values():
        for name, kept in match.duplicates:
            if not are_equal(source.store, name, kept):
                raise CheckpointError(
                    "two tensors that should be one differ",
                    tensor=name,
                    other=kept,
                    hint="`dovetail validate --values` says more; the checkpoint is damaged",
                )


def check_unchanged(store: Store) -> None:
    """What was read must be what is there now.

    Raises:
        CheckpointError: a file changed meanwhile.
    """
    for file in range(len(store.files)):
        source = store.source(file)
        if isinstance(source, LocalSource) and source.is_changed():
            raise CheckpointError(
                "the file changed while it was read",
                file=source.name,
                hint="wait until whoever writes it is done, and run again",
            )


def _hash(leaf: Leaf) -> str:
    return hash_of_blocks(leaf.blocks())


def hash_of_blocks(blocks: Iterable[Block]) -> str:
    """The hash of blocks, a hole being the zeros that it stands for."""
    digest, hole = None, 0
    for block in blocks:
        if isinstance(block, Skip):
            hole += block.size
            continue
        if digest is None:
            digest = content_hash()
        hole = _add_zeros(digest, hole)
        digest.update(block)
    if digest is None:
        return _hash_of_zeros(hole)
    _add_zeros(digest, hole)
    return digest.hexdigest()


@lru_cache(maxsize=64)
def _hash_of_zeros(size: int) -> str:
    digest = content_hash()
    _add_zeros(digest, size)
    return digest.hexdigest()


def _add_zeros(digest: ContentHash, size: int) -> int:
    for start in range(0, size, len(_ZEROS)):
        digest.update(_ZEROS[: min(len(_ZEROS), size - start)])
    return 0
