"""The tensors of a checkpoint as a page: equal ones of all layers on one line, `layers.{0-27}.…`."""

from collections.abc import Iterable, Iterator, Sequence
from math import prod

from dovetail.names import Index, group_names, indices, star
from dovetail.render.page import Line, Page, Table
from dovetail.report import counted
from dovetail.tensor_list import TensorRow


def tensor_page(rows: Sequence[TensorRow], *, folded: bool = True) -> Page:
    """The tensors; with numbers, or unfolded, one line for each."""
    has_stats = any(row.stats for row in rows)
    groups = [[row] for row in rows] if has_stats or not folded else [*_folded(rows)]
    columns: tuple[str, ...] = ("tensor", "canonical name", "part", "dtype", ">shape", "file")
    if has_stats:
        columns = ("tensor", "dtype", ">shape", ">min", ">max", ">mean", ">std", ">zeros", ">NaN", ">inf")
    lines = tuple(_numbers(one[0]) if has_stats else _line(one) for one in groups)
    files = {row.file for row in rows}
    if not has_stats and len(files) == 1:  # said once, so that a line has room for names
        columns, lines = columns[:-1], tuple(line[:-1] for line in lines)
    where = f" in {rows[0].file}" if len(files) == 1 and rows[0].file else ""
    return [Table(columns, lines), Line(""), Line(_total(rows) + where, "dim")]


def _total(rows: Sequence[TensorRow]) -> str:
    if any(row.shape is None for row in rows):
        return counted(len(rows), "tensor")
    return f"{counted(len(rows), 'tensor')}, {sum(prod(row.shape or ()) for row in rows):,} elements"


def _folded(rows: Iterable[TensorRow]) -> Iterator[list[TensorRow]]:
    """Rows that differ in an index alone, together; the first of them says where they stand."""
    alike: dict[object, list[TensorRow]] = {}
    for row in rows:
        leaves = tuple(dict.fromkeys(map(star, row.canonical)))
        note = row.note and star(row.note)
        alike.setdefault((star(row.name), leaves, row.part, row.dtype, row.shape, note), []).append(row)
    for group in alike.values():
        places = indices(star(group[0].name), [row.name for row in group])
        if _is_block(places):
            yield group
            continue
        parts: dict[Index, list[TensorRow]] = {}
        for place, row in zip(places, group, strict=True):
            parts.setdefault(place[1:], []).append(row)
        yield from parts.values()


def _is_block(places: Sequence[Index]) -> bool:
    """Whether every index of one place goes with every one of the others."""
    return prod(len(set(column)) for column in zip(*places, strict=True)) == len(places)


def _line(group: Sequence[TensorRow]) -> tuple[str, ...]:
    first = group[0]
    files = dict.fromkeys(row.file for row in group)
    leaves = group_names(dict.fromkeys(name for row in group for name in row.canonical))
    what = " + ".join(pattern(names) for names in leaves.values())
    note = "" if first.note is None else pattern([row.note or "" for row in group])
    return (
        pattern([row.name for row in group]),
        "; ".join(filter(None, (what, note))),
        first.part or "",
        first.dtype or "?",
        _shape(first),
        (first.file or "") if len(files) == 1 else f"{len(files)} files",
    )


def pattern(names: Sequence[str]) -> str:
    """Names that differ in their indices as one.

    >>> pattern(["h.0.w", "h.1.w", "h.2.w", "h.5.w"])
    'h.{0-2,5}.w'
    """
    key = star(names[0])
    pieces = key.split("*")
    columns = [*zip(*indices(key, names), strict=True)] if len(pieces) > 1 and len(set(names)) > 1 else []
    if not columns:
        return names[0]
    ends = [_runs(sorted(set(column))) for column in columns]
    return "".join(piece + end for piece, end in zip(pieces, [*ends, ""], strict=True))


def _runs(numbers: Sequence[int]) -> str:
    """`{0-27}`, or the number itself if there is one."""
    if len(numbers) == 1:
        return str(numbers[0])
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][-1:] = [runs[-1][-1], number] if len(runs[-1]) == 1 else [number]
        else:
            runs.append([number])
    return "{" + ",".join("-".join(map(str, run)) for run in runs) + "}"


def _shape(row: TensorRow) -> str:
    return "?" if row.shape is None else "x".join(map(str, row.shape)) or "single"


def _numbers(row: TensorRow) -> tuple[str, ...]:
    head = (row.name, row.dtype or "?", _shape(row))
    if row.stats is None:
        return (*head, *[""] * 7)
    stats = row.stats
    values = ["" if one is None else f"{one:.4g}" for one in (stats.min, stats.max, stats.mean, stats.std)]
    return (*head, *values, *(f"{one:,}" for one in (stats.zeros, stats.nan, stats.infinite)))
