"""`stamp`: writes down beside an old checkpoint what it is, with the hash of every tensor.

What weights determine is inferred; what they cannot show comes from `--set`, config files or the values
inside the checkpoint, each with its source. A labelled default is nobody's word: it stays open and is
listed. The weights are never touched.
"""

import json
import os
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

from dovetail.checkpoint import Checkpoint, Path, examined
from dovetail.declare.reference import referenced
from dovetail.edit.conversion import Words, words_of
from dovetail.edit.set_values import check_given
from dovetail.edit.write.certificate import as_text, certificate, certificate_name
from dovetail.edit.write.fetch import commit_of
from dovetail.errors import UsageError, listed
from dovetail.explain.corrections import set_aside
from dovetail.explain.documents import SET_ASIDE, STAMP, Document
from dovetail.explain.given import resolved
from dovetail.report import Value, counted
from dovetail.store.folder import LocalFolder
from dovetail.store.open import open_checkpoint
from dovetail.store.store import Store
from dovetail.store.write.replace import replace_file
from dovetail.weights.hashes import LeafContent, content_of

Progress = Callable[[int, int], None]
_OPEN = ("default", "undetermined")
# Findings that say that an older stamp does not fit the weights.
_ABOUT_STAMP = ("stamp-conflict", "other-certificate", "certificate-leaves", "certificate-unreadable")


class Stamped(NamedTuple):
    """What was written, or would be: `files` by path, `still_open` what nobody has said yet."""

    path: str
    family: str
    files: Mapping[str, bytes]
    fingerprint: str | None
    leaves: int
    values: Mapping[str, Value]
    still_open: Mapping[str, Value]
    notes: tuple[str, ...]
    is_written: bool

    def as_json(self) -> dict[str, Any]:
        """The result as plain JSON values."""
        return {
            "schema": 1,
            "path": self.path,
            "family": self.family,
            "files": list(self.files),
            "written": self.is_written,
            "fingerprint": self.fingerprint,
            "leaves": self.leaves,
            "values": {name: value.as_json() for name, value in self.values.items()},
            "open": {name: value.as_json() for name, value in self.still_open.items()},
            "notes": list(self.notes),
        }


def stamp(
    checkpoint: Path,
    *,
    set: Mapping[str, Any] | None = None,
    out: Path | None = None,
    values: bool = True,
    overwrite: bool = False,
    dry_run: bool = False,
    as_: str | None = None,
    trust: str | None = None,
    allow: Words = (),
    progress: Progress | None = None,
) -> Stamped:
    """Writes `dovetail.json` beside a checkpoint, or into the folder `out`.

    `set` are values that no file says (`{"norm_first": True}`); without `values` the tensors are not
    hashed. `trust` is the side that counts where `weights`, `config` and `stamp` contradict each other; the
    stamp says what counts, and which statements of configs are set aside. An older stamp that says otherwise
    is replaced only with `overwrite`, or if another side is trusted.

    Raises:
        CheckpointError: it is of no known family, damaged beyond `allow`, or contradicts what is set.
        UsageError: a name in `set` is not known, or a stamp or config says otherwise.
        WriteError: the place cannot be written to; what was there is as it was.
    """
    with open_checkpoint(checkpoint) as store:
        look = partial(examined, store, as_=as_, trust=trust)
        source, old, notes = _examined(look, set or {}, allow=words_of(allow), overwrite=overwrite)
        overwrite = overwrite or trust == "weights"
        place, name = _place(store, os.fspath(checkpoint), out, overwrite=overwrite)
        contents = _contents(source, old, values=values and not dry_run, progress=progress)
        _check_hashes(contents, old, name, overwrite=overwrite)
        texts = _side_files(source, place, overwrite=overwrite)
        notes += [f"put right: {one}" for one in source.corrections if one.found.document in texts]
        aside = [one for one in source.corrections if one.found.document not in texts]
        notes += [f"set aside: {one.found.place} says {one.found.value}, {one.value} counts" for one in aside]
        texts = {name: as_text(_stamp(source, contents, old, set_aside(aside))), **texts}
        files = {os.path.join(place, name): data for name, data in texts.items()}
        for path, data in () if dry_run else files.items():
            replace_file(path, data)
        return Stamped(
            path=store.path,
            family=source.family.id,
            files=files,
            fingerprint=json.loads(texts[name])["fingerprint"],
            leaves=len(contents),
            values=_known(source, old),
            still_open={name: value for name, value in source.report.config.items() if value.source in _OPEN},
            notes=tuple(notes),
            is_written=not dry_run,
        )


def _examined(
    look: Callable[..., Checkpoint], given: Mapping[str, Any], *, allow: Collection[str], overwrite: bool
) -> tuple[Checkpoint, Document | None, list[str]]:
    """The checkpoint with what is given, its older stamp, and what had to be left out of that."""
    first = look()
    old = first.documents.stamp
    if first.documents.nodes or first.documents.node:
        raise UsageError(
            "a node of a split model has its certificate already", hint="`dovetail merge` it first"
        )
    against = [
        finding
        for finding in first.report.findings
        if finding.code in _ABOUT_STAMP and finding.severity == "error"
    ]
    notes = []
    if against:
        name = old.name if old else STAMP
        why = "it did not fit the weights" if old else "it could not be read"
        if not overwrite:
            said = listed([one.message for one in against], 3)
            raise UsageError(
                f"{name} does not fit the weights: {said}" if old else said,
                hint="--overwrite writes it anew, from the weights and what else is known",
            )
        notes.append(f"nothing was taken from the older {name}: {why}")
        first = look(ignores_stamp=True)
    if given and first.is_known:  # which may put right what is wrong without it
        full = resolved(given, first.report.config, first.family)
        check_given(full, first, overwrite=overwrite)
        first = look(given=full, ignores_stamp=bool(against))
    return first.usable(allow=allow, to_be="stamped"), old, notes


def _is_same(a: str, b: str) -> bool:
    return os.path.realpath(a) == os.path.realpath(b)


def _place(store: Store, checkpoint: str, out: Path | None, *, overwrite: bool) -> tuple[str, str]:
    """The folder that the stamp goes into, and its name: of the folder, or of one file in it."""
    is_one_file = os.path.isfile(checkpoint) and len(store.files) == 1
    name = certificate_name(os.path.basename(checkpoint)) if is_one_file else STAMP
    if out is not None:
        there = os.path.join(out, name)
        is_beside = isinstance(store.folder, LocalFolder) and _is_same(os.fspath(out), store.folder.name)
        if os.path.exists(there) and not is_beside and not overwrite:
            raise UsageError(f"`{there}` exists", hint="choose another folder; --overwrite replaces it")
        return os.fspath(out), name
    if not isinstance(store.folder, LocalFolder):
        is_of_a_commit = commit_of(store) is not None
        about = (
            "; the certificate is about this commit and fits beside a copy of it" if is_of_a_commit else ""
        )
        raise UsageError(f"nothing can be written beside `{checkpoint}`", hint=f"give --out FOLDER{about}")
    return store.folder.name, name


def _contents(
    source: Checkpoint, old: Document | None, *, values: bool, progress: Progress | None
) -> dict[str, LeafContent]:
    """Every leaf with its hash; with the older stamp's, if it has one, where the values are not read."""
    if values:
        if not source.store.has_bytes:
            raise UsageError(
                "this input holds names and shapes only, nothing to hash",
                hint="--no-values stamps the header",
            )
        return source.contents(progress)
    said = _hashes(old) if source.documents.stamp else {}
    return {name: content_of(leaf, said.get(name)) for name, leaf in source.leaves.items()}


def _hashes(old: Document | None) -> dict[str, str]:
    leaves = _dict(old, "leaves")
    return {name: digest for name, digest in leaves.items() if isinstance(digest, str)}


def _dict(old: Document | None, key: str) -> dict[str, Any]:
    """A map in an older stamp, empty if there is none."""
    found: Any = old.values.get(key) if old else None
    return dict(found) if isinstance(found, dict) else {}


def _check_hashes(
    contents: Mapping[str, LeafContent], old: Document | None, name: str, *, overwrite: bool
) -> None:
    said = _hashes(old)
    changed = [leaf for leaf, one in contents.items() if leaf in said and one.hash not in (None, said[leaf])]
    if changed and not overwrite and old is not None:
        raise UsageError(
            f"{old.name} has other hashes for {counted(len(changed), 'tensor')}: "
            f"{listed([f'`{leaf}`' for leaf in changed], 3)}",
            hint=f"the values changed since it was written; --overwrite writes {name} anew",
        )


def _stamp(
    source: Checkpoint, contents: Mapping[str, LeafContent], old: Document | None, aside: Mapping[str, Any]
) -> dict[str, Any]:
    """The certificate; what an older one says of the past is kept."""
    hashes = _hashes(old)
    kept = {
        name: tag
        for name, tag in _dict(old, "init").items()
        if name in contents and (name not in hashes or contents[name].hash in (None, hashes[name]))
    }
    past = dict(old.values) if old and source.documents.stamp else {}
    let_pass = past.get("allowed")
    allowed = [one for one in let_pass if isinstance(one, str)] if isinstance(let_pass, list) else []
    commit = commit_of(source.store)
    origin = {
        "path": source.report.path,
        **({"commit": commit} if commit else {}),
        "layout": source.report.layout,
        "verb": "stamp",
    }
    facts: dict[str, Any] = {
        "source": past.get("source") or origin,
        "allowed": list(dict.fromkeys([*allowed, *(finding.message for finding in source.allowed)])),
        **{key: past[key] for key in ("dropped", "lossy") if key in past},
        **({SET_ASIDE: dict(aside)} if aside else {}),
    }
    return certificate(
        family=source.family,
        layout=source.report.layout,
        parts={role: part.id for role, part in source.kinds.items()},
        leaves=contents,
        config=_known(source, old),
        init=kept,
        facts=facts,
    )


def known_values(source: Checkpoint) -> dict[str, Value]:
    """What somebody knows of a model; a labelled default is nobody's word."""
    config = source.report.config.items()
    return {name: value for name, value in config if value.source not in _OPEN and value.value is not None}


def _known(source: Checkpoint, old: Document | None) -> dict[str, Value]:
    """What somebody knows; what an older stamp said keeps the source that it named."""
    values = known_values(source)
    config = _dict(old, "config")
    for name, value in values.items():
        said = config.get(name)
        is_old = value.source == "stamp" and old is not None and value.evidence.startswith(f"{old.name}:")
        if is_old and isinstance(said, dict) and (said.get("evidence") or said.get("source") == "weights"):
            values[name] = Value(value.value, str(said.get("source", "stamp")), str(said.get("evidence")))
    return values


def _side_files(source: Checkpoint, place: str, *, overwrite: bool) -> dict[str, bytes]:
    """The side file that the project of the family itself writes, out of the one that is there."""
    if source.family.side_file is None:
        return {}
    name, maker = source.family.side_file
    text = source.store.side_file(name)
    if os.path.exists(os.path.join(place, name)):
        text = LocalFolder(place).read(name)
    return {name: referenced(maker)(source, known_values(source), text, overwrite=overwrite)}
