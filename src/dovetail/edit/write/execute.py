"""The one executor: it follows a plan, and the result appears whole or not at all.

Files are written one after the other, tensors in the order of the file. Every leaf is hashed on its way
through, the journal has a line for every tensor that is on the disk, and the certificate comes last.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import takewhile
from time import perf_counter
from typing import Any, BinaryIO, NamedTuple
from zlib import crc32

from dovetail.edit.plan import Output, Plan
from dovetail.edit.write.certificate import as_text, certificate, tagged
from dovetail.edit.write.destination import check_place, check_replaceable
from dovetail.edit.write.fetch import commit_of, fetch
from dovetail.edit.write.files import OutputFile, places, write_file
from dovetail.edit.write.journal import NAME as JOURNAL
from dovetail.edit.write.journal import Journal, check_same_plan, has_work
from dovetail.errors import CheckpointError
from dovetail.report import counted
from dovetail.store.content import check_copies
from dovetail.store.write.block_file import BLOCK, BlockFile
from dovetail.store.write.partial import check_files, foreign, removal, ways_on
from dovetail.store.write.publish import publishing
from dovetail.store.write.tensor_data import Chunk, Skip, held
from dovetail.weights.checks import TensorChecks
from dovetail.weights.hashes import LeafContent, check_unchanged, fingerprint, source_changed
from dovetail.weights.lay_out import OutputTensor
from dovetail.weights.leaf import zeros

Progress = Callable[[int, int], None]
_STEP = 8 << 20


class Writing(NamedTuple):
    """How a result is written.

    `overwrite` replaces what is there once the new one is whole, `resume` goes on with what a killed run
    left; without `sync` the system puts it on the disk when it likes. `beside` is told the folder when all
    else is in it, and may put files of its own there, which then appear with the rest.
    """

    overwrite: bool = False
    resume: bool = False
    sync: bool = True
    beside: Callable[[str], None] | None = None


_PLAIN = Writing()


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


def execute(plan: Plan, out: str, writing: Writing = _PLAIN, progress: Progress | None = None) -> Done:
    """Writes what a plan says. `progress` is told the bytes written and the bytes in all.

    Raises:
        CheckpointError: a source changed meanwhile, or two copies of a tensor differ.
        UsageError: `out` exists or would harm a source, or what is to be resumed was begun otherwise.
        WriteError: there is no room or no permission; what was written is kept for `resume`.
    """
    begin = perf_counter()
    check_place(out, plan.stores, overwrite=writing.overwrite)
    fetch(plan.stores)
    check_copies(plan.copies)
    digest, names = plan.digest, {*plan.names, JOURNAL}

    def accept(folder: str) -> None:
        check_same_plan(folder, digest)
        check_files(folder, names)

    with publishing(
        out,
        plan.room,
        resume=writing.resume,
        replaces=check_replaceable if writing.overwrite else None,
        sync=writing.sync,
        accept=accept,
        keeps=lambda folder: _ways_on(plan, folder, names),
        journal=JOURNAL,
    ) as folder:
        journal = Journal(folder, digest)
        try:
            run = _Run(plan, folder, journal, progress, sync=writing.sync)
            for output in plan.outputs:
                for file in output.files:
                    run.write(os.path.join(output.folder, file.name), file)
            run.check_sources()
            _check_promise(plan, run.contents)
            texts = _write_texts(plan, folder, run.contents, run.overflows)
            check_files(folder, names)
            if writing.beside is not None:
                writing.beside(folder)
        finally:
            journal.close()
    files = tuple(os.path.join(output.folder, file.name) for output in plan.outputs for file in output.files)
    whole = fingerprint(plan.family, run.contents)
    seconds = perf_counter() - begin
    return Done(
        out,
        (*files, *texts),
        len(plan.tensors),
        plan.size,
        whole,
        run.resumed,
        seconds,
        run.overflows,
        writing.sync,
    )


def _ways_on(plan: Plan, folder: str, names: Collection[str]) -> str | None:
    """What can be done with the folder of a run that failed, None if nothing in it is worth keeping."""
    if not has_work(folder) and not foreign(folder, names):
        return None
    if all(source.is_only_touched() or not source.is_changed() for source in plan.sources):
        return ways_on(folder)
    return f"nobody can go on with it, as the source has changed; remove it with `{removal(folder)}`"


class _Run:
    """A plan being followed: the leaves written so far, and how many bytes they are."""

    def __init__(
        self, plan: Plan, folder: str, journal: Journal, progress: Progress | None, *, sync: bool
    ) -> None:
        self.resumed = 0
        self._plan = plan
        self._folder = folder
        self._journal = journal
        self._progress = progress
        self._sync = sync
        self._total = plan.size
        self._done = self._shown = 0
        self._checks = TensorChecks(plan.tensors)

    @property
    def contents(self) -> Mapping[str, LeafContent]:
        """The leaves written so far."""
        return self._checks.contents

    @property
    def overflows(self) -> Mapping[str, int]:
        """The numbers of each leaf that became infinite."""
        return self._checks.overflows.counts

    def write(self, name: str, file: OutputFile) -> None:
        """Writes one file, or what is missing of it."""
        kept = self._kept(name, file)
        path = os.path.join(self._folder, name)
        start = max((end for _, end in kept.values()), default=0) // BLOCK * BLOCK
        in_place = {tensor: crc for tensor, (crc, end) in kept.items() if end <= start}
        for tensor in file.tensors:
            if tensor.name in in_place:
                self._advance(tensor.size)
        self.resumed += len(in_place)
        if start == 0 and os.path.exists(path):
            os.unlink(path)

        def chunks(tensor: OutputTensor, target: BlockFile) -> Iterator[Chunk]:
            if tensor.name in in_place:
                return iter([Skip(tensor.size, in_place[tensor.name])])
            return self._chunks(name, tensor, target)

        write_file(path, file, chunks, start=start, sync=self._sync)

    def check_sources(self) -> None:
        """What was read must be what is there now.

        Where only the status of a file has another time, which a `chmod` gives it and a rewrite that puts
        the other time back as well, all is read and compared once more.

        Raises:
            CheckpointError: a source changed meanwhile.
        """
        touched = [source for source in self._plan.sources if source.is_only_touched()]
        for source in touched:
            source.forget_touch()
        for output in self._plan.outputs if touched else ():
            for file in output.files:
                name = os.path.join(output.folder, file.name)
                if len(self._in_place(name, file, file.tensors)) < len(file.tensors):
                    raise source_changed(touched[0])
        check_unchanged(self._plan.sources)

    def _chunks(self, file: str, tensor: OutputTensor, target: BlockFile) -> Iterator[Chunk]:
        """The bytes of one tensor, which goes into the journal once they are in the file."""
        yield from self._checks.chunks(tensor, self._advance)
        target.when_written(lambda: self._journal.add(file, tensor.name))

    def _advance(self, count: int) -> None:
        self._done += count
        if self._progress and (self._done - self._shown >= _STEP or self._done == self._total):
            self._shown = self._done
            self._progress(self._done, self._total)

    def _kept(self, name: str, file: OutputFile) -> dict[str, tuple[int, int]]:
        """Tensors of an earlier run that are right: the checksum and the end of each.

        The journal only says how far to look. What is in the file is compared with what belongs there.
        """
        noted = takewhile(lambda one: (name, one.name) in self._journal.tensors, file.tensors)
        is_there = os.path.exists(os.path.join(self._folder, name))
        return self._in_place(name, file, tuple(noted)) if is_there else {}

    def _in_place(
        self, name: str, file: OutputFile, tensors: Iterable[OutputTensor]
    ) -> dict[str, tuple[int, int]]:
        """The tensors that are in a file as they would be written now, up to the first that is not."""
        found: dict[str, tuple[int, int]] = {}
        starts = places(file)
        with open(os.path.join(self._folder, name), "rb") as there:
            for tensor in tensors:
                there.seek(starts[tensor.name])
                crc = self._compared(there, tensor)
                if crc is None:
                    break
                found[tensor.name] = (crc, starts[tensor.name] + tensor.size)
        return found

    def _compared(self, file: BinaryIO, tensor: OutputTensor) -> int | None:
        """The checksum of a tensor that is in a file; None if other bytes are."""
        crc = 0
        for chunk in self._checks.chunks(tensor):
            block = held(chunk)
            for expected in zeros(block.size) if isinstance(block, Skip) else (block,):
                found = file.read(len(expected))
                if found != bytes(expected):
                    return None
                crc = crc32(found, crc)
        return crc


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
