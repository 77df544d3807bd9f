"""The one executor: it follows a plan, and the result appears whole or not at all.

Files are written one after the other, tensors in the order of the file. Every leaf is hashed on its way
through, the journal has a line for every tensor that is on the disk, and the certificate comes last.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from time import perf_counter
from typing import Any, NamedTuple
from zlib import crc32

from dovetail.dtypes import BITS
from dovetail.edit.plan import Output, Plan
from dovetail.edit.write.certificate import LeafContent, as_text, certificate, fingerprint, tagged
from dovetail.edit.write.destination import check_place
from dovetail.edit.write.fetch import commit_of, fetch
from dovetail.edit.write.files import OutputFile, write_file
from dovetail.edit.write.journal import NAME as JOURNAL
from dovetail.edit.write.journal import Entry, Journal, check_same_plan
from dovetail.errors import CheckpointError
from dovetail.report import counted
from dovetail.store.content import ContentHash, content_hash, hash_of
from dovetail.store.write.block_file import BLOCK, BlockFile
from dovetail.store.write.publish import publishing
from dovetail.store.write.tensor_data import Block, Chunk, Skip, held
from dovetail.weights.lay_out import OutputTensor
from dovetail.weights.narrowing import Overflows

Progress = Callable[[int, int], None]
_STEP = 8 << 20
_ZEROS = bytes(1 << 20)


class Done(NamedTuple):
    """What was written. `resumed` counts tensors that an earlier run had finished, `overflowed` the
    numbers of each tensor that became infinite; `is_synced` says whether all of it is on the disk.
    """

    path: str
    files: tuple[str, ...]
    tensors: int
    bytes: int
    fingerprint: str
    resumed: int
    seconds: float
    overflowed: Mapping[str, int] = {}
    is_synced: bool = True

    def as_json(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return {**self._asdict(), "files": list(self.files), "seconds": round(self.seconds, 6)}


def execute(
    plan: Plan,
    out: str,
    *,
    is_resumed: bool = False,
    replaces: bool = False,
    is_synced: bool = True,
    progress: Progress | None = None,
) -> Done:
    """Writes what a plan says; unless `is_synced`, the system puts it on the disk when it likes.

    Raises:
        CheckpointError: a source changed meanwhile, or two copies of a tensor differ.
        UsageError: `out` exists or would harm a source, or what is to be resumed was begun otherwise.
        WriteError: there is no room or no permission; nothing is left behind.
    """
    begin = perf_counter()
    check_place(out, plan.stores, replaces=replaces)
    fetch(plan.stores)
    _compare_copies(plan)
    digest = plan.digest
    with publishing(
        out,
        plan.room,
        is_resumed=is_resumed,
        replaces=replaces,
        is_synced=is_synced,
        accept=lambda folder: check_same_plan(folder, digest),
        journal=JOURNAL,
    ) as folder:
        journal = Journal(folder, digest)
        try:
            run = _Run(plan, folder, journal, progress, is_synced=is_synced)
            for output in plan.outputs:
                for file in output.files:
                    run.write(os.path.join(output.folder, file.name), file)
            _check_sources(plan)
            _check_promise(plan, run.leaves)
            names = _write_texts(plan, folder, run.leaves, run.overflows.counts)
        finally:
            journal.close()
    files = tuple(os.path.join(output.folder, file.name) for output in plan.outputs for file in output.files)
    whole = fingerprint(plan.family, run.leaves)
    seconds = perf_counter() - begin
    return Done(
        out,
        (*files, *names),
        len(plan.tensors),
        plan.size,
        whole,
        run.resumed,
        seconds,
        run.overflows.counts,
        is_synced,
    )


class _Run:
    """A plan being followed: the leaves written so far, and how many bytes they are."""

    def __init__(
        self, plan: Plan, folder: str, journal: Journal, progress: Progress | None, *, is_synced: bool
    ) -> None:
        self.leaves: dict[str, LeafContent] = {}
        self.resumed = 0
        self._folder = folder
        self._journal = journal
        self._progress = progress
        self._is_synced = is_synced
        self._total = plan.size
        self._done = self._shown = 0
        self._zero_hashes: dict[int, str] = {}
        self.overflows = Overflows(one for tensor in plan.tensors for one in tensor.leaves)

    def write(self, name: str, file: OutputFile) -> None:
        """Writes one file, or what is missing of it."""
        kept = self._kept(name, file)
        path = os.path.join(self._folder, name)
        start = max((end for _, end in kept.values()), default=0) // BLOCK * BLOCK
        in_place = {tensor: crc for tensor, (crc, end) in kept.items() if end <= start}
        for tensor in file.tensors:
            if tensor.name in in_place:
                self._take(tensor, self._journal.tensors[name, tensor.name].leaves)
                for one in tensor.leaves:
                    self.overflows.count(one)
                self._advance(tensor.size)
        self.resumed += len(in_place)
        if start == 0 and os.path.exists(path):
            os.unlink(path)

        def chunks(tensor: OutputTensor, target: BlockFile) -> Iterator[Chunk]:
            if tensor.name in in_place:
                return iter([Skip(tensor.size, in_place[tensor.name])])
            return self._chunks(name, tensor, target)

        write_file(path, file, chunks, start=start, is_synced=self._is_synced)

    def _chunks(self, file: str, tensor: OutputTensor, target: BlockFile) -> Iterator[Chunk]:
        """The bytes of one tensor, hashed on the way."""
        start = target.tell()
        hashes = _Hashes(self._zero_hashes)
        for leaf, chunk in tensor.chunks():
            block = held(chunk)
            hashes.add(leaf, block)
            self.overflows.watch(leaf, block)
            yield chunk
            self._advance(block.size if isinstance(block, Skip) else len(block))
        digests = {one.name: hash_of(()) for one in tensor.leaves if not one.size} | hashes.digests()
        stored = digests.pop("", None)
        if stored is not None:
            digests = {one.name: hash_of(one.plain()) for one in tensor.leaves}
        self._take(tensor, digests)
        entry = Entry(start, digests, stored)
        target.when_written(lambda: self._journal.add(file, tensor.name, entry))

    def _take(self, tensor: OutputTensor, digests: Mapping[str, str]) -> None:
        for one in tensor.leaves:
            content = LeafContent(one.dtype, one.shape, digests[one.name], one.spec.is_dead)
            self.leaves[one.name] = content

    def _advance(self, count: int) -> None:
        self._done += count
        if self._progress and (self._done - self._shown >= _STEP or self._done == self._total):
            self._shown = self._done
            self._progress(self._done, self._total)

    def _kept(self, name: str, file: OutputFile) -> dict[str, tuple[int, int]]:
        """Tensors of an earlier run, read again and found right: the checksum and the end of each."""
        kept: dict[str, tuple[int, int]] = {}
        path = os.path.join(self._folder, name)
        if not os.path.exists(path):
            return kept
        with open(path, "rb") as there:
            for tensor in file.tensors:
                entry = self._journal.tensors.get((name, tensor.name))
                crc = None if entry is None else _checked(there, tensor, entry)
                if entry is None or crc is None:
                    break
                kept[tensor.name] = (crc, entry.start + tensor.size)
        return kept


class _Hashes:
    """The hashes of the leaves of one tensor, in the making. A hole is hashed as the zeros it is."""

    def __init__(self, zeros: dict[int, str]) -> None:
        self._zeros = zeros
        self._digests: dict[str, ContentHash] = {}
        self._holes: dict[str, int] = {}

    def add(self, leaf: str, block: Block) -> None:
        """Takes the next bytes of a leaf."""
        if isinstance(block, Skip) and leaf not in self._digests:
            self._holes[leaf] = self._holes.get(leaf, 0) + block.size
            return
        if leaf not in self._digests:
            self._digests[leaf] = content_hash()
            _update_zeros(self._digests[leaf], self._holes.pop(leaf, 0))
        if isinstance(block, Skip):
            _update_zeros(self._digests[leaf], block.size)
        else:
            self._digests[leaf].update(block)

    def digests(self) -> dict[str, str]:
        """The hash of each leaf."""
        found = {leaf: digest.hexdigest() for leaf, digest in self._digests.items()}
        return found | {leaf: self._zero_hash(size) for leaf, size in self._holes.items()}

    def _zero_hash(self, size: int) -> str:
        if size not in self._zeros:
            digest = content_hash()
            _update_zeros(digest, size)
            self._zeros[size] = digest.hexdigest()
        return self._zeros[size]


def _update_zeros(digest: ContentHash, size: int) -> None:
    for start in range(0, size, len(_ZEROS)):
        digest.update(_ZEROS[: min(len(_ZEROS), size - start)])


def _checked(file: Any, tensor: OutputTensor, entry: Entry) -> int | None:
    """The checksum of a tensor that is in a file; None if it is not what the journal says."""
    file.seek(entry.start)
    digests: dict[str, ContentHash] = {}
    crc = 0
    for leaf, size in _pieces(tensor):
        digest = digests.setdefault(leaf, content_hash())
        for offset in range(0, size, BLOCK):
            data = file.read(min(BLOCK, size - offset))
            digest.update(data)
            crc = crc32(data, crc)
    found = {leaf: digest.hexdigest() for leaf, digest in digests.items()}
    return crc if found == ({"": entry.stored} if entry.stored else dict(entry.leaves)) else None


def _pieces(tensor: OutputTensor) -> Iterator[tuple[str, int]]:
    """The leaves in a stored tensor in order, with the bytes of each piece."""
    segments = tensor.segments
    if segments is None:
        yield "", tensor.size
        return
    for segment in segments:
        yield segment.leaf.name, segment.length * BITS[segment.leaf.dtype] // 8


def _compare_copies(plan: Plan) -> None:
    """Second names that the result leaves out must say the same as the first."""
    from dovetail.store.content import are_equal

    for store, name, kept in plan.copies:
        if store.has_bytes and not are_equal(store, name, kept):
            raise CheckpointError(
                "two tensors that should be one differ",
                tensor=name,
                other=kept,
                hint="`dovetail validate --values` says more; the checkpoint is damaged",
            )


def _check_sources(plan: Plan) -> None:
    for source in plan.sources:
        if source.is_changed():
            raise CheckpointError(
                "the source changed while it was read",
                file=source.name,
                hint="wait until whoever writes it is done, and run again",
            )


def _check_promise(plan: Plan, leaves: Mapping[str, LeafContent]) -> None:
    found = fingerprint(plan.family, leaves)
    if plan.promised is not None and found != plan.promised:
        raise CheckpointError(
            "the result is not the model that the certificates name",
            source=plan.source,
            expected=plan.promised,
            found=found,
            hint="a file was changed after it was written: `dovetail validate --values` names the tensors",
        )


def _write_texts(
    plan: Plan, folder: str, leaves: Mapping[str, LeafContent], overflowed: Mapping[str, int]
) -> list[str]:
    """Side files, indexes and certificates; gives their names."""
    names = []
    for output in plan.outputs:
        texts = dict(output.texts)
        if output.certificate:
            texts[output.certificate] = as_text(_certificate(plan, output, leaves, overflowed))
        for name, data in texts.items():
            names.append(os.path.join(output.folder, name))
            path = os.path.join(folder, names[-1])
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(data)
    return names


def _certificate(
    plan: Plan, output: Output, contents: Mapping[str, LeafContent], overflowed: Mapping[str, int]
) -> dict[str, Any]:
    leaves = [one for file in output.files for tensor in file.tensors for one in tensor.leaves]
    facts = {
        "source": {"path": plan.source, **_commit(plan), "layout": plan.source_layout, "verb": plan.verb},
        "allowed": list(dict.fromkeys((*plan.inherited, *_let_pass(plan, overflowed)))),
        "dropped": [{"reason": one.reason, "tensors": len(one.names)} for one in plan.dropped],
        "lossy": [one._asdict() for one in plan.lossy],
        **output.facts,
    }
    if "node" in output.facts:
        facts["whole"] = {"fingerprint": fingerprint(plan.family, contents), "leaves": len(contents)}
    return certificate(
        family=plan.family,
        layout=output.layout,
        parts=plan.parts,
        leaves={one.name: contents[one.name] for one in leaves},
        config=plan.config,
        init=tagged(leaves),
        facts=facts,
    )


def _commit(plan: Plan) -> dict[str, str]:
    commits = [commit for store in plan.stores if (commit := commit_of(store))]
    return {"commit": commits[0]} if commits else {}


def _let_pass(plan: Plan, overflowed: Mapping[str, int]) -> list[str]:
    infinite = [
        f"{counted(number, 'number')} of `{name}` became infinite" for name, number in overflowed.items()
    ]
    return [finding.message for finding in plan.findings] + infinite
