"""What a verb is going to write: everything is known before the first byte moves.

A plan is the same object for `--dry-run`, which prints it, and for the run, which follows it.
"""

import os
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from dovetail.declare.family import Family
from dovetail.edit.write.files import OutputFile, index_of
from dovetail.explain.documents import STAMP
from dovetail.report import Finding, Value, counted
from dovetail.store.content import ALGORITHM, hash_of
from dovetail.store.safetensors.write import INDEX
from dovetail.store.source import LocalSource
from dovetail.store.store import Store, local_sources
from dovetail.weights.lay_out import OutputTensor
from dovetail.weights.leaf import Leaf, Span

# Python, the blocks of the writing thread and the reading block (measured: bench/bench_convert.py).
_BASE_MEMORY = 64 << 20
_NUMPY_MEMORY = 32 << 20
# What is known of one tensor: names, places, hashes, its lines in index and certificate.
_TENSOR_MEMORY = 3 << 10


class Dropped(NamedTuple):
    """Tensors of the source that the result does not have, and the rule that says why."""

    names: tuple[str, ...]
    reason: str


class Lossy(NamedTuple):
    """A change that cannot be undone, and how many tensors it is done to."""

    what: str
    tensors: int


class Output(NamedTuple):
    """Files that belong together, and their certificate.

    `folder` is where they go in the result, "" for the result itself; without `certificate` they have
    none. `side_files` are texts by name and `facts` further entries of the certificate, such as the place
    among other nodes.
    """

    files: tuple[OutputFile, ...]
    layout: str
    side_files: Mapping[str, bytes] = {}
    folder: str = ""
    certificate: str = STAMP
    facts: Mapping[str, Any] = {}

    @property
    def texts(self) -> dict[str, bytes]:
        """The side files, and the index if there are several weights files."""
        index = index_of(self.files) if self._is_sharded else None
        return {**self.side_files, **({INDEX: index.encode()} if index else {})}

    @property
    def text_names(self) -> list[str]:
        """What they are called."""
        return sorted({*self.side_files, *((INDEX,) if self._is_sharded else ())})

    @property
    def names(self) -> set[str]:
        """All files, as they are called from the folder of the result."""
        beside = {*self.text_names, *filter(None, (self.certificate,))}
        return {os.path.join(self.folder, name) for name in (*(file.name for file in self.files), *beside)}

    @property
    def _is_sharded(self) -> bool:
        return len(self.files) > 1 and all(file.kind == "safetensors" for file in self.files)


class Plan(NamedTuple):
    """What is to be written.

    `parts` are the kinds by role and `config` the values that go into the certificates. `copies` are
    second names of tensors, with the name that is kept: they must be equal. `findings` is damage that
    is let pass, `inherited` what was let pass before, `promised` the fingerprint that the result must
    have, `assumed` what written configs say although nothing said it, `corrected` what they said wrong.
    """

    verb: str
    source: str
    family: Family
    source_layout: str | Mapping[str, str] | None
    parts: Mapping[str, str]
    outputs: tuple[Output, ...]
    stores: tuple[Store, ...]
    config: Mapping[str, Value]
    dropped: tuple[Dropped, ...] = ()
    lossy: tuple[Lossy, ...] = ()
    findings: tuple[Finding, ...] = ()
    copies: tuple[tuple[Store, str, str], ...] = ()
    promised: str | None = None
    inherited: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    corrected: tuple[str, ...] = ()

    def __repr__(self) -> str:
        layouts = " and ".join(sorted({output.layout for output in self.outputs}))
        moved = f"{counted(len(self.tensors), 'tensor')}, {self.size:,} bytes"
        return f"<Plan: {self.verb} {self.source} as {self.family.id}/{layouts}: {moved}>"

    @property
    def tensors(self) -> list[OutputTensor]:
        """Every tensor, in the order of the files."""
        return [tensor for output in self.outputs for file in output.files for tensor in file.tensors]

    @property
    def names(self) -> set[str]:
        """All files that the result has."""
        return {name for output in self.outputs for name in output.names}

    @property
    def size(self) -> int:
        """The bytes of all tensors."""
        return sum(file.size for output in self.outputs for file in output.files)

    @property
    def memory(self) -> int:
        """An upper bound of the memory that the run takes, in bytes."""
        tensors = self.tensors
        needed = max([tensor.needs_memory for tensor in tensors], default=0)
        known = _TENSOR_MEMORY * len(tensors)
        return _BASE_MEMORY + known + needed + (_NUMPY_MEMORY if needed or self.lossy else 0)

    @property
    def sources(self) -> list[LocalSource]:
        """The files that it is made of."""
        return [source for store in self.stores for source in local_sources(store)]

    @property
    def room(self) -> int:
        """The bytes that the result takes on the disk: holes of a sparse source stay holes."""
        allocated = sum(source.allocated for source in self.sources)
        has_holes = any(source.allocated < source.size for source in self.sources)
        beside = sum(len(text) for output in self.outputs for text in output.side_files.values())
        beside += 300 * len(self.tensors)  # index and certificate, roughly
        if not has_holes:
            return self.size + beside
        times = -(-self.size // sum(source.size for source in self.sources))
        return min(self.size, allocated * times) + beside

    @property
    def ops(self) -> dict[str, int]:
        """How many tensors each op makes; a plain one is a `copy`, or a `rename` if its name changes."""
        return dict(Counter(_word(tensor) for tensor in self.tensors))

    @property
    def digest(self) -> str:
        """What the plan is, in a word: a run may only be resumed by the same plan of unchanged sources."""
        sources = [(os.path.realpath(one.path), one.size, one.changed) for one in self.sources]
        tensors = [
            (output.folder, file.name, file.kind, tensor.name, tensor.dtype, tensor.shape, _made_of(tensor))
            for output in self.outputs
            for file in output.files
            for tensor in file.tensors
        ]
        return hash_of([repr((self.verb, sources, tensors, self.lossy)).encode()])

    def as_json(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return {
            "schema": 1,
            "verb": self.verb,
            "source": self.source,
            "family": self.family.id,
            "from": self.source_layout,
            "to": sorted({output.layout for output in self.outputs}),
            "tensors": len(self.tensors),
            "bytes": self.size,
            "room": self.room,
            "memory": self.memory,
            "hash": ALGORITHM,
            "ops": self.ops,
            "outputs": [_output(output) for output in self.outputs],
            "dropped": [{"reason": one.reason, "tensors": list(one.names)} for one in self.dropped],
            "lossy": [one._asdict() for one in self.lossy],
            "assumed": list(self.assumed),
            "corrected": list(self.corrected),
            "findings": [finding.as_json() for finding in self.findings],
            "units": [_unit(tensor) for tensor in self.tensors],
        }


def _output(output: Output) -> dict[str, Any]:
    """The files that belong together."""
    return {
        "folder": output.folder,
        "layout": output.layout,
        "files": [
            {"name": file.name, "format": file.kind, "tensors": len(file.tensors), "bytes": file.size}
            for file in output.files
        ],
        "side_files": output.text_names,
        "certificate": output.certificate,
        **output.facts,
    }


def _unit(tensor: OutputTensor) -> dict[str, Any]:
    """One tensor to write, and what it is made of."""
    sources = dict.fromkeys(span.tensor for leaf in tensor.leaves for span in leaf.spans)
    return {
        "target": tensor.name,
        "op": _word(tensor),
        "leaves": [leaf.name for leaf in tensor.leaves],
        "sources": list(sources),
        "init": sorted({leaf.init for leaf in tensor.leaves}),
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "bytes": tensor.size,
    }


def _made_of(tensor: OutputTensor) -> list[Any]:
    """What tells two plans apart that write tensors of the same names and shapes."""
    order = [(one.leaf.name, one.start, one.length) for one in tensor.segments or ()]
    return [*((one.name, one.source_dtype, one.init, one.spans) for one in tensor.leaves), *order]


def _word(tensor: OutputTensor) -> str:
    if tensor.pieces == () and len(spans := (leaf := tensor.leaves[0]).spans) == 1:
        return _word_of_one(tensor, leaf, spans[0])
    inits = {leaf.init for leaf in tensor.leaves if leaf.make is not None}
    if len(inits) == 1 and inits != {"copied"}:
        return inits.pop()
    sources = {span.tensor for leaf in tensor.leaves for span in leaf.spans}
    if len(sources) > 1 or tensor.pieces is None:
        return tensor.row.op.word
    (leaf,) = tensor.leaves[:1]
    if leaf.init == "tied":
        return "tied copy"
    if len(leaf.spans) > 1 or len(tensor.leaves) > 1:
        return "rearrange"
    return _word_of_one(tensor, leaf, leaf.spans[0]) if leaf.spans else tensor.row.op.word


def _word_of_one(tensor: OutputTensor, leaf: Leaf, span: Span) -> str:
    """The op of a tensor that comes from one run of bytes."""
    if leaf.init == "tied":
        return "tied copy"
    stored = leaf.store.entries[span.tensor] if leaf.store is not None else None
    if stored is not None and stored.shape != leaf.shape and span.length != stored.bytes:
        return "take apart"
    return "copy" if span.tensor == tensor.name else "rename"
