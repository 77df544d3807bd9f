"""`diff`: two checkpoints tensor by tensor, whatever layout, container and shards each is in."""

from collections.abc import Callable, Iterator, Mapping
from shlex import quote
from typing import Any

from dovetail.checkpoint import Checkpoint, Path, opened
from dovetail.compare.comparand import Comparand, Tensor, by_canonical_name, by_stored_name
from dovetail.compare.difference import Change, Difference, Distance, Kind, Setting
from dovetail.errors import UsageError, listed
from dovetail.report import counted
from dovetail.store.readers import readers

Progress = Callable[[int, int], None]


def diff(
    a: Path,
    b: Path,
    *,
    values: bool = False,
    tolerance: float = 0.0,
    as_: str | None = None,
    trust: str | None = None,
    set: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Difference:
    """What two checkpoints have in common and what not, by canonical name.

    `values` compares the data too. A tensor whose differences have a norm of at most `tolerance` times
    its own is close, and not different. `as_`, `set` and `trust` hold for both sides.

    Raises:
        UsageError: there is nothing to open, or values are asked for where there are none.
        CheckpointError: a file breaks its format, is unsafe to read, or is missing.
    """
    with (
        opened(a, as_=as_, given=set, trust=trust) as one,
        opened(b, as_=as_, given=set, trust=trust) as other,
    ):
        pair = _under_the_same_names(one, other)
        return compare(*pair, values=values or tolerance > 0, tolerance=tolerance, progress=progress)


def _under_the_same_names(a: Checkpoint, b: Checkpoint) -> tuple[Comparand, Comparand]:
    """Both by canonical names, or both by stored ones."""
    one, other = by_canonical_name(a), by_canonical_name(b)
    if why := one.why_stored or other.why_stored:
        which = one if one.why_stored else other
        reason = f"{which.report.path}: {why}"
        return by_stored_name(a, reason), by_stored_name(b, reason)
    return one, other


def compare(
    a: Comparand,
    b: Comparand,
    *,
    values: bool = False,
    tolerance: float = 0.0,
    progress: Progress | None = None,
) -> Difference:
    """The difference of two checkpoints.

    Raises:
        UsageError: values are asked for where there are none.
    """
    for side in (a, b) if values else ():
        if not side.store.has_bytes:
            raise UsageError(
                f"the values of `{side.report.path}` cannot be compared: it holds names and shapes only",
                hint="leave --values out, or give the weights themselves",
            )
    pairs = [(one, b.tensors[name]) for name, one in a.tensors.items() if name in b.tensors]
    copies = [*_copies(a, b), *_copies(b, a)]
    distances: dict[str, Distance] = {}
    if values:
        same_shape = [pair for pair in (*pairs, *copies) if pair[0].shape == pair[1].shape]
        distances = _distances(same_shape, progress)
    untied = {copy.name for copy, original in copies if not _is_copy(copy, original, distances)}
    tied = {copy.name: original.name for copy, original in copies if copy.name not in untied}
    changes = [
        *_alone(a, b, tied, "only in A"),
        *_alone(b, a, tied, "only in B"),
        *(change for pair in pairs if (change := _change(*pair, distances, tolerance))),
    ]
    return Difference(
        a=a.report,
        b=b.report,
        names="stored" if a.why_stored else "canonical",
        compared=len(pairs),
        equal=len(pairs) - sum(change.name in a.tensors and change.name in b.tensors for change in changes),
        changes=tuple(changes),
        settings=tuple(_settings(a, b)),
        notes=tuple(_notes(a, b, tied, values=values)),
        has_values=values,
        tolerance=tolerance,
    )


def _copies(side: Comparand, other: Comparand) -> Iterator[tuple[Tensor, Tensor]]:
    """Tied tensors that one side stores and the other does not, each with its original on the same side."""
    for name, tensor in side.tensors.items():
        original = side.ties.get(tensor.role)
        if original and name not in other.tensors and original in side.tensors and original in other.tensors:
            yield tensor, side.tensors[original]


def _is_copy(copy: Tensor, original: Tensor, distances: Mapping[str, Distance]) -> bool:
    if (copy.dtype, copy.shape) != (original.dtype, original.shape):
        return False
    return copy.name not in distances or distances[copy.name].is_zero


def _alone(side: Comparand, other: Comparand, tied: Mapping[str, str], kind: Kind) -> Iterator[Change]:
    for name, tensor in side.tensors.items():
        if name not in other.tensors and name not in tied and not tensor.is_dead:
            said = tensor.text or "there"
            yield Change(
                kind, name, a=said if kind == "only in A" else "", b=said if kind == "only in B" else ""
            )


def _change(one: Tensor, other: Tensor, distances: Mapping[str, Distance], tolerance: float) -> Change | None:
    """How two tensors of one name differ, None if they do not."""
    if one.shape is not None and other.shape is not None and one.shape != other.shape:
        return Change("shape", one.name, one.text, other.text)
    away = distances.get(one.name)
    is_close = away is not None and away.relative <= tolerance
    if one.dtype and other.dtype and one.dtype != other.dtype:
        return Change("dtype", one.name, one.text, other.text, away, is_close and tolerance > 0)
    if away is None or away.is_zero:
        return None
    return Change("close" if is_close else "values", one.name, one.text, other.text, away, is_close)


def _distances(pairs: list[tuple[Tensor, Tensor]], progress: Progress | None) -> dict[str, Distance]:
    """How far apart the two of each pair are, by the name of the first; several threads read."""
    from dovetail.compare.distance import distance

    readable = [(one.leaf, other.leaf) for one, other in pairs if one.leaf and other.leaf]
    stores = {id(one.store): one.store for pair in readable for one in pair if one.store is not None}
    done, total = 0, sum(one.size for one, _ in readable)
    found = {}
    with readers(*stores.values()) as read:
        for (one, _), away in zip(readable, read(lambda pair: distance(*pair), readable), strict=True):
            found[one.name] = away
            done += one.size
            if progress:
                progress(done, total)
    return found


def _settings(a: Comparand, b: Comparand) -> Iterator[Setting]:
    """Config values that both know and that differ."""
    for name, one in a.report.config.items():
        other = b.report.config.get(name)
        if other is not None and None not in (one.value, other.value) and one.value != other.value:
            yield Setting(name, one, other)


def _notes(a: Comparand, b: Comparand, tied: Mapping[str, str], *, values: bool) -> Iterator[str]:
    """What is no difference and should be known."""
    if a.why_stored:
        yield f"compared by the names in the files, because {a.why_stored}"
    for name, original in tied.items():
        where, not_there = ("A", "B") if name in a.tensors else ("B", "A")
        how = f"and is equal to {original}" if values else f"(--values compares it with {original})"
        yield f"{name} is stored in {where} {how}; {not_there} shares {original}"
    for side, other, where in ((a, b, "A"), (b, a, "B")):
        dead = [name for name, one in side.tensors.items() if one.is_dead and name not in other.tensors]
        if dead:
            yield f"only in {where}, and no computation reads it: {listed(dead, 3)}"
        for rule, count in side.report.accounting.ignored.items():
            yield f"left out of {where}: {counted(count, 'tensor')} ({rule})"
        if side.report.family is None and not a.why_stored:
            closest = side.report.closest
            nearest = closest.family if closest else None
            said = f"`dovetail validate {quote(side.report.path)}` says how"
            yield f"{where} is damaged; {said} (closest: {nearest})"
        elif not side.report.is_whole and not a.why_stored:
            yield f"{where} has errors; `dovetail validate {quote(side.report.path)}` lists them"
