"""What two checkpoints have in common and what not: the answer of `diff`."""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from dovetail.names import star
from dovetail.report import Report, Value, counted

# `close` is within the tolerance that the user gave, and no difference.
Kind = Literal["only in A", "only in B", "shape", "dtype", "values", "close"]
SCHEMA = 1


class Distance(NamedTuple):
    """The largest difference of two numbers, and the norm of all differences by the norm of A.

    Both are NaN where one side has a NaN and the other has none, or where the dtype is one that can only
    be compared by its bytes.
    """

    max_abs: float
    relative: float

    @property
    def is_zero(self) -> bool:
        """Whether every number is the same."""
        return self.max_abs == 0

    def as_json(self) -> dict[str, Any]:
        """Both as JSON has them: what is no number in words."""
        return {key: value if math.isfinite(value) else str(value) for key, value in self._asdict().items()}


class Change(NamedTuple):
    """One tensor that is not the same on both sides; `a` and `b` say what it is there, "" for not there."""

    kind: Kind
    name: str
    a: str = ""
    b: str = ""
    distance: Distance | None = None
    is_tolerated: bool = False

    def as_json(self) -> dict[str, Any]:
        """The change as plain JSON values."""
        distance = self.distance.as_json() if self.distance else {}
        return {
            "kind": self.kind,
            "tensor": self.name,
            "a": self.a or None,
            "b": self.b or None,
            **distance,
            "tolerated": self.is_tolerated,
        }


class Group(NamedTuple):
    """Changes of one kind whose names differ in indices only."""

    kind: Kind
    template: str
    changes: tuple[Change, ...]

    @property
    def worst(self) -> Change:
        """The one that is furthest apart, or the first."""
        return max(self.changes, key=_severity)


def _severity(change: Change) -> float:
    if change.distance is None:
        return 0.0
    return math.inf if math.isnan(change.distance.relative) else change.distance.relative


class Setting(NamedTuple):
    """A config value that the two do not share; `is_assumed` if one of them only assumes it."""

    name: str
    a: Value
    b: Value

    @property
    def is_assumed(self) -> bool:
        """Whether one side has it by default only."""
        return "default" in (self.a.source, self.b.source)

    def as_json(self) -> dict[str, Any]:
        """The setting as plain JSON values."""
        return {
            "name": self.name,
            "a": self.a.as_json(),
            "b": self.b.as_json(),
            "assumed": self.is_assumed,
        }


class Difference(NamedTuple):
    """The answer. `compared` is the number of tensors that both have, `equal` how many are the same."""

    a: Report
    b: Report
    names: str
    compared: int
    equal: int
    changes: tuple[Change, ...]
    settings: tuple[Setting, ...]
    notes: tuple[str, ...]
    has_values: bool
    tolerance: float

    @property
    def groups(self) -> list[Group]:
        """The changes by kind, template and what they are."""
        found: dict[tuple[str, ...], list[Change]] = {}
        for change in self.changes:
            said = () if change.kind in ("values", "close") else (change.a, change.b)
            found.setdefault((change.kind, star(change.name), *said), []).append(change)
        groups = [Group(same[0].kind, star(same[0].name), tuple(same)) for same in found.values()]
        order = ("only in A", "only in B", "shape", "dtype", "values", "close")
        return sorted(groups, key=lambda group: order.index(group.kind))

    @property
    def have_other_families(self) -> bool:
        """Whether the two are known to be of different families."""
        return None not in (self.a.family, self.b.family) and self.a.family != self.b.family

    @property
    def is_same(self) -> bool:
        """Whether nothing that was compared differs, beyond what is tolerated."""
        return (
            not self.have_other_families
            and all(change.is_tolerated for change in self.changes)
            and all(setting.is_assumed for setting in self.settings)
        )

    @property
    def verdict(self) -> str:
        """One line."""
        if not self.is_same:
            return "different: " + ", ".join(self._counts())
        if not self.has_values:
            return (
                f"same names, dtypes and shapes in {counted(self.compared, 'tensor')}; "
                "values not compared (--values reads them)"
            )
        if self.changes:
            return (
                f"close: {self.equal:,} of {counted(self.compared, 'tensor')} equal, "
                f"{len(self.changes):,} within {self.tolerance:g}"
            )
        return f"same: {counted(self.compared, 'tensor')}, equal to the byte"

    def _counts(self) -> list[str]:
        counts: dict[str, int] = {}
        for change in self.changes:
            if not change.is_tolerated:
                counts[change.kind] = counts.get(change.kind, 0) + 1
        words = {
            "only in A": "only in A",
            "only in B": "only in B",
            "shape": "of another shape",
            "dtype": "of another dtype",
            "values": "with other values",
        }
        said = [f"{counted(counts[kind], 'tensor')} {word}" for kind, word in words.items() if kind in counts]
        if self.have_other_families:
            said.insert(0, f"families {self.a.family} and {self.b.family}")
        settings = sum(not setting.is_assumed for setting in self.settings)
        return [*said, f"{counted(settings, 'config value')}"] if settings else said

    def as_json(self) -> dict[str, Any]:
        """The answer as plain JSON values."""
        return {
            "schema": SCHEMA,
            "a": _side(self.a),
            "b": _side(self.b),
            "same": self.is_same,
            "verdict": self.verdict,
            "names": self.names,
            "values": self.has_values,
            "tolerance": self.tolerance,
            "compared": self.compared,
            "equal": self.equal,
            "groups": [_group(group) for group in self.groups],
            "changes": [change.as_json() for change in self.changes],
            "config": [setting.as_json() for setting in self.settings],
            "notes": list(self.notes),
        }


def _group(group: Group) -> dict[str, Any]:
    worst = group.worst
    distance = worst.distance.as_json() if worst.distance else {}
    return {
        "kind": group.kind,
        "template": group.template,
        "count": len(group.changes),
        "a": worst.a or None,
        "b": worst.b or None,
        **distance,
        "worst": worst.name,
    }


def _side(report: Report) -> dict[str, Any]:
    layout = dict(report.layout) if isinstance(report.layout, Mapping) else report.layout
    return {
        "path": report.path,
        "format": report.format,
        "family": report.family,
        "layout": layout,
        "tensors": report.tensors,
        "whole": report.is_whole,
    }
