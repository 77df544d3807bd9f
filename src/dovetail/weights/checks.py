"""What is checked of tensors on their way out of a checkpoint: hashes, and numbers that have no room.

Whoever takes weights somewhere, into a file or to a caller, takes them through here.
"""

from collections.abc import Callable, Generator, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from dovetail.errors import CheckpointError
from dovetail.store.content import hash_of
from dovetail.store.write.tensor_data import Chunk, Skip, held
from dovetail.weights.hashes import LeafContent, LeafHashes, content_of, hash_of_leaf
from dovetail.weights.lay_out import OutputTensor
from dovetail.weights.narrowing import Overflows

_NONE: Mapping[str, str] = MappingProxyType({})


class Digests(NamedTuple):
    """The hash of each leaf of a tensor; `stored` is that of the tensor itself, if it was rearranged."""

    leaves: Mapping[str, str]
    stored: str | None = None


class TensorChecks:
    """Looks at tensors as they pass. `contents` are the leaves that have passed.

    `certified` are hashes that leaves must have. `overflows` counts numbers that became infinite.
    """

    def __init__(self, tensors: Iterable[OutputTensor], certified: Mapping[str, str] = _NONE) -> None:
        self.contents: dict[str, LeafContent] = {}
        self.overflows = Overflows(leaf for tensor in tensors for leaf in tensor.leaves)
        self._certified = certified

    def chunks(
        self, tensor: OutputTensor, passed: Callable[[int], None] | None = None
    ) -> Generator[Chunk, None, Digests]:
        """The bytes of one tensor, and in the end the hashes; `passed` is told of each chunk how many.

        Raises:
            CheckpointError: a number became infinite, or values are not what the certificate says.
        """
        hashes = LeafHashes()
        for leaf, chunk in tensor.chunks():
            block = held(chunk)
            hashes.add(leaf, block)
            self.overflows.watch(leaf, block)
            yield chunk
            if passed is not None:
                passed(block.size if isinstance(block, Skip) else len(block))
        digests = {one.name: hash_of(()) for one in tensor.leaves if not one.size} | hashes.digests()
        stored = digests.pop("", None)
        if stored is not None:
            digests = {one.name: hash_of_leaf(one) for one in tensor.leaves}
        self.take(tensor, digests)
        return Digests(digests, stored)

    def take(self, tensor: OutputTensor, digests: Mapping[str, str]) -> None:
        """Notes the leaves of a tensor that has passed.

        Raises:
            CheckpointError: values are not what the certificate says.
        """
        for leaf in tensor.leaves:
            said = self._certified.get(leaf.name, digests[leaf.name])
            if said != digests[leaf.name]:
                raise CheckpointError(
                    "the values are not those that the certificate has the hash of",
                    tensor=leaf.name,
                    expected=said,
                    found=digests[leaf.name],
                    hint="a disk or a tool changed them; `dovetail validate --values` says all",
                )
            self.contents[leaf.name] = content_of(leaf, digests[leaf.name])
