"""What dovetail found out about a checkpoint: frozen, JSON-stable, and without any formatting.

The JSON form is the schema of `inspect --json` and `validate --json`; `docs/reference/report.md`
documents it. Keys are only ever added within one SCHEMA number.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

SCHEMA = 1

Severity = Literal["error", "warning", "note"]


class Finding(NamedTuple):
    """One cause, in one line: what it is, which tensors show it, and what to do."""

    code: str
    severity: Severity
    message: str
    part: str | None = None
    tensors: tuple[str, ...] = ()
    hint: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The finding as plain JSON values."""
        return {
            "code": self.code,
            "severity": self.severity,
            "part": self.part,
            "message": self.message,
            "tensors": list(self.tensors),
            "hint": self.hint,
        }


class PartReport(NamedTuple):
    """One part of the model: what was expected of it and what is there."""

    kind: str
    layout: str | None
    prefix: str
    expected: int
    present: int
    parameters: int
    bytes: int
    dtypes: Mapping[str, int]
    features: tuple[str, ...] = ()
    tied: bool = False
    shapes: Mapping[str, tuple[int, ...]] = MappingProxyType({})

    def as_json(self) -> dict[str, Any]:
        """The part as plain JSON values."""
        return {
            "kind": self.kind,
            "layout": self.layout,
            "prefix": self.prefix,
            "expected": self.expected,
            "present": self.present,
            "tensors": self.present,
            "complete": self.present >= self.expected or self.tied,
            "tied": self.tied,
            "parameters": self.parameters,
            "bytes": self.bytes,
            "dtypes": dict(self.dtypes),
            "features": list(self.features),
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
        }


class Value(NamedTuple):
    """One value of the config, with its source and evidence."""

    value: Any
    source: str
    evidence: str

    def as_json(self) -> dict[str, Any]:
        """The value as plain JSON values."""
        return {"value": self.value, "source": self.source, "evidence": self.evidence}
