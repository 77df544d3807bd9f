"""What the dtypes of tensors say: weights that are no floating-point numbers, layers unlike the others."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from dovetail.dtypes import DTYPES
from dovetail.explain.detect import Explanation
from dovetail.explain.match import RowMatch
from dovetail.report import Finding, more
from dovetail.store.store import Entry, Kinds


def dtype_findings(
    one: Explanation, kinds: Mapping[str, Kinds], entries: Mapping[str, Entry], packed: Collection[str] = ()
) -> Iterator[Finding]:
    """One finding for each dtype that no weight has, one for each row that mixes dtypes.

    `packed` are the tensors of quantised weights, which are told by themselves.
    """
    wrong: dict[str, list[str]] = {}
    for role, match in one.roles.items():
        for row in match.rows:
            found = {dtype for dtype, _ in kinds[row.text]}
            if not all(map(is_weight, found)) and not match.part.leaves[row.row.leaves[0]].is_dead:
                for name in row.tensors.values():
                    if name not in packed and not is_weight(dtype := entries[name].dtype):
                        wrong.setdefault(dtype, []).append(name)
            elif len(found) > 1:
                yield _mix(role, row, kinds[row.text], entries)
    for dtype, names in wrong.items():
        yield Finding(
            code="no-float",
            severity="error",
            message=f"`{names[0]}`{more(len(names) - 1)} {'are' if names[1:] else 'is'} {dtype}: weights are "
            "floating-point numbers",
            tensors=tuple(names),
            hint="a tool changed their type, or quantised them in a way that is not known here; find the "
            "file that it was made from",
        )


def is_weight(dtype: str) -> bool:
    """Whether a dtype is one that weights have, or is not said."""
    return dtype not in DTYPES or DTYPES[dtype].is_float


def _mix(role: str, row: RowMatch, kinds: Kinds, entries: Mapping[str, Entry]) -> Finding:
    found: Counter[str] = Counter()
    for (dtype, _), count in kinds.items():
        found[dtype] += count
    rare = min(found, key=lambda dtype: found[dtype])
    names = tuple(name for name in row.tensors.values() if entries[name].dtype == rare)
    rest = ", ".join(f"{count} {dtype}" for dtype, count in found.items() if dtype != rare)
    return Finding(
        code="dtype-mix",
        severity="warning",
        part=role,
        message=f"`{names[0]}`{more(len(names) - 1)} is {rare}, the others like it are {rest}",
        tensors=names,
    )
