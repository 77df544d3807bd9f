"""`ls`: the tensors of a checkpoint by the names they have in its files and those they have everywhere."""

import os
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from dovetail.checkpoint import Checkpoint, Path, opened
from dovetail.errors import UsageError, WriteError, listed, suggestion
from dovetail.explain.detect import Explanation
from dovetail.explain.leaves import canonical_name, members
from dovetail.explain.match import PartMatch
from dovetail.store.store import Store

if TYPE_CHECKING:
    from dovetail.explain.numbers import Numbers


class TensorRow(NamedTuple):
    """One tensor of a file.

    `canonical` are the leaves that it holds, in the names of every layout; more than one where it joins them,
    none where no part knows it. `note` says why it is not used. `shape` is None where only names are known.
    """

    name: str
    canonical: tuple[str, ...]
    part: str | None
    dtype: str
    shape: tuple[int, ...] | None
    file: str | None
    note: str | None = None
    stats: "Numbers | None" = None

    def as_json(self) -> dict[str, Any]:
        """The row as plain JSON values."""
        return {
            **self._asdict(),
            "canonical": list(self.canonical),
            "dtype": self.dtype or None,
            "shape": None if self.shape is None else list(self.shape),
            "stats": self.stats.as_json() if self.stats else None,
        }


class _Place(NamedTuple):
    """What a tensor is in the model."""

    part: str | None = None
    canonical: tuple[str, ...] = ()
    note: str | None = None


def ls(
    checkpoint: Path,
    pattern: str = "*",
    *,
    stats: bool = False,
    save: Path | None = None,
    as_: str | None = None,
    set: Mapping[str, Any] | None = None,
    trust: str | None = None,
) -> list[TensorRow]:
    """The tensors of a checkpoint, in the order of its files; headers only.

    `pattern` chooses some by their name in the file or their canonical one (`*` stands for anything).
    `stats` reads the values of those. `save` writes the one that is chosen as NAME.npy, 16-bit and 8-bit
    floats as float32 where numpy has no such type; a leaf that the file joins with others can be chosen by
    its canonical name.

    Raises:
        CheckpointError: a file breaks its format, is unsafe to read, or is missing; or values are asked of
            an input that has none.
        RemoteError: a server did not give what was asked for.
        UsageError: there is nothing to open, no tensor matches, or more than one is to be saved.
        WriteError: NAME.npy cannot be written.
    """
    with opened(checkpoint, as_=as_, given=set, trust=trust) as found:
        rows = [*rows_of(found)]
        chosen = [one for one in rows if _is_meant(one, pattern)]
        if not chosen:
            names = [name for one in rows for name in (one.name, *one.canonical)]
            hint = suggestion(pattern, names[:2_000], "`dovetail ls CKPT` lists all; quote a pattern")
            raise UsageError(f"no tensor is called `{pattern}`", checkpoint=found.report.path, hint=hint)
        if save is not None:
            _save(found, pattern, chosen, os.fspath(save))
        if stats:
            from dovetail.explain.numbers import numbers_of_all

            all_numbers = numbers_of_all(found.store, [one.name for one in chosen])
            chosen = [one._replace(stats=each) for one, each in zip(chosen, all_numbers, strict=True)]
        return chosen


def _is_meant(row: TensorRow, pattern: str) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for name in (row.name, *row.canonical))


def rows_of(checkpoint: Checkpoint) -> Iterator[TensorRow]:
    """Every tensor of an opened checkpoint, in the order of its files."""
    store = checkpoint.store
    places = _places(checkpoint.explanation) if checkpoint.is_known else {}
    for rule, names in checkpoint.examination.set_aside.items():
        places.update(dict.fromkeys(names, _Place(note=rule)))
    unknown = _Place(note="fits nothing" if checkpoint.is_known else None)
    for name, entry in store.entries.items():
        place = places.get(name, unknown)
        if place.note is None and name in store.aliases:
            place = place._replace(note=f"shares the bytes of {store.aliases[name]}")
        file = store.files[entry.file] if 0 <= entry.file < len(store.files) else None
        yield TensorRow(name, place.canonical, place.part, entry.dtype, entry.shape, file, place.note)


def _places(one: Explanation) -> dict[str, _Place]:
    """Where each tensor that a part explains belongs."""
    places: dict[str, _Place] = {}
    for role, match in one.roles.items():
        places |= _of_part(role, match, one)
        for name, kept in match.duplicates:
            places[name] = _Place(role, places[kept].canonical, f"second name of {kept}")
        places |= {name: _Place(role, (), reason) for name, reason in match.ignored}
    return places


def _of_part(role: str, match: PartMatch, one: Explanation) -> dict[str, _Place]:
    places = {}
    for row in match.rows:
        leaves = [match.part.leaves[name] for name in row.row.leaves]
        note = "stored, and nothing uses it" if leaves[0].is_dead else None
        for index, stored in row.tensors.items():
            fields = dict(zip(row.row.stored.fields, index, strict=True))
            places[stored] = _Place(
                role,
                tuple(
                    canonical_name(role, leaf, {**fields, **member})
                    for leaf in leaves
                    for member in members(row.row, one.inventory.entries.get(stored))
                ),
                note,
            )
    return places


def _save(checkpoint: Checkpoint, pattern: str, chosen: list[TensorRow], path: str) -> None:
    """Writes one tensor as a file of numpy.

    Raises:
        CheckpointError: the input holds no values.
        UsageError: it is not one, or of no numbers that numpy has.
        WriteError: the file is there, or cannot be written.
    """
    if not path.endswith(".npy"):
        raise UsageError(f"`{path}` is no name for one array", hint="--save NAME.npy")
    is_leaf = [one for one in chosen if pattern in one.canonical]
    if len(chosen) != 1 and len(is_leaf) != 1:
        raise UsageError(
            f"--save writes one tensor, and {len(chosen)} are called `{pattern}`",
            found=listed([one.name for one in chosen], 5),
            hint="give the whole name of one",
        )
    import numpy as np

    row = (is_leaf or chosen)[0]
    try:
        array = _array(checkpoint, pattern if is_leaf else None, row.name)
    except KeyError:
        raise UsageError(
            f"numpy has no numbers of dtype {row.dtype}", tensor=row.name, hint="read it with safetensors"
        ) from None
    try:
        with open(path, "xb") as file:
            np.save(file, array)
    except FileExistsError:
        raise WriteError(f"`{path}` is there already", hint="choose another name") from None
    except OSError as error:
        raise WriteError(f"cannot write `{path}`: {error.strerror}", hint="choose another place") from error


def _array(checkpoint: Checkpoint, leaf: str | None, name: str) -> Any:
    """The values of a leaf, or of a tensor as the file has it."""
    store: Store = checkpoint.store
    if leaf is None or checkpoint.report.quantisation is not None or not store.has_bytes:
        return store[name]
    from dovetail.store.cast import to_array

    one = checkpoint.leaves[leaf]
    return to_array(bytes(one.whole()), one.source_dtype).reshape(one.shape)
