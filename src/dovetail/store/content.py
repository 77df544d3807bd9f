"""The content of tensors: their hash, and whether two are equal.

BLAKE3, because it keeps up with copying (5 GB/s a core, where SHA-256 has 2) and because a hash that
stands for a tensor for years must not be one that can be forged (docs/decisions/0007-hash.md).
"""

from collections.abc import Iterable
from typing import Any, Protocol

from dovetail.errors import CheckpointError
from dovetail.store.store import Store

ALGORITHM = "blake3"


class ContentHash(Protocol):
    """A hash in the making."""

    def update(self, data: Any, /) -> Any:
        """Takes more bytes."""

    def hexdigest(self) -> str:
        """The hash of all bytes so far, 64 hexadecimal digits."""


def content_hash() -> ContentHash:
    """A new hash of nothing."""
    from blake3 import blake3

    return blake3()


def hash_of(blocks: Iterable[bytes | memoryview]) -> str:
    """The hash of bytes that come in pieces."""
    digest = content_hash()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def are_equal(store: Store, a: str, b: str) -> bool:
    """Whether two stored tensors have the same dtype, shape and bytes."""
    if store.aliases.get(a, a) == store.aliases.get(b, b):
        return True
    one, other = store.entries[a], store.entries[b]
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    return hash_of(store.blocks(a)) == hash_of(store.blocks(b))


def check_copies(copies: Iterable[tuple[Store, str, str]]) -> None:
    """Second names of tensors must say the same as the first: `store, name, kept` each.

    Raises:
        CheckpointError: one does not.
    """
    for store, name, kept in copies:
        if store.has_bytes and not are_equal(store, name, kept):
            raise CheckpointError(
                "two tensors that should be one differ",
                tensor=name,
                other=kept,
                hint="`dovetail validate --values` says more; the checkpoint is damaged",
            )
