"""What dovetail found out about a checkpoint: frozen, JSON-stable, and without any formatting.

The JSON form is the schema of `inspect --json` and `validate --json`; `docs/reference/report.md`
documents it. Keys are only ever added within one SCHEMA number.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from dovetail.errors import printable

SCHEMA = 1

Severity = Literal["error", "warning", "note"]


def counted(count: int, noun: str) -> str:
    """`1 tensor`, `2 tensors`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def more(count: int) -> str:
    """` and 3 more`, or nothing."""
    return f" and {count} more" if count > 0 else ""


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
    shapes: Mapping[str, tuple[int, ...] | None]
    features: tuple[str, ...] = ()
    tied_to: str | None = None

    @property
    def is_complete(self) -> bool:
        """Whether all expected tensors are there, or the part shares another's."""
        return self.tied_to is not None or self.present >= self.expected

    def as_json(self) -> dict[str, Any]:
        """The part as plain JSON values."""
        return {
            "kind": self.kind,
            "layout": self.layout,
            "prefix": self.prefix,
            "complete": self.is_complete,
            "expected": self.expected,
            "tensors": self.present,
            "parameters": self.parameters,
            "bytes": self.bytes,
            "dtypes": dict(self.dtypes),
            "features": list(self.features),
            "tied_to": self.tied_to,
            "shapes": {name: None if shape is None else list(shape) for name, shape in self.shapes.items()},
        }


class Tie(NamedTuple):
    """A tensor that may be another's: what the file holds, and what the config says."""

    role: str
    leaf: str
    is_stored: bool
    flag: bool | None
    are_equal: bool | None = None

    @property
    def is_lost(self) -> bool:
        """Whether the tensor is not here and, as the config says, is no other's either."""
        return not self.is_stored and self.flag is False

    def as_json(self) -> dict[str, Any]:
        """The tie as plain JSON values."""
        return {
            "part": self.role,
            "leaf": self.leaf,
            "stored": self.is_stored,
            "config_flag": self.flag,
            "equal": self.are_equal,
        }


class Value(NamedTuple):
    """One value of the config, with its source and evidence."""

    value: Any
    source: str
    evidence: str

    def as_json(self) -> dict[str, Any]:
        """The value as plain JSON values."""
        return {"value": self.value, "source": self.source, "evidence": self.evidence}


class Accounting(NamedTuple):
    """Where every name of the file went; the numbers add up to all of them."""

    used: int
    dead: int
    duplicates: int
    ignored: Mapping[str, int]
    unexplained: int

    def as_json(self) -> dict[str, Any]:
        """The numbers as plain JSON values."""
        return {
            "used": self.used,
            "dead": self.dead,
            "duplicates": self.duplicates,
            "ignored": dict(self.ignored),
            "unexplained": self.unexplained,
        }


class Quantisation(NamedTuple):
    """How the weights are packed: by whom, in what form, to how many bits, and how many of them."""

    by: str
    form: str
    bits: tuple[int, ...] = ()
    weights: int = 0

    @property
    def text(self) -> str:
        """`quantised by GPTQ to 4 bits`."""
        return (
            "quantised"
            + (f" by {self.by}" if self.by else "")
            + (f" to {' and '.join(map(str, self.bits))} bits" if self.bits else "")
            + (f" ({self.form})" if self.form else "")
        )

    def as_json(self) -> dict[str, Any]:
        """The quantisation as plain JSON values."""
        return {
            "by": self.by or None,
            "form": self.form or None,
            "bits": list(self.bits),
            "weights": self.weights,
        }


class Adapter(NamedTuple):
    """An adapter in the file: of which kind and rank, for which base, and whether the base is not here."""

    kind: str
    rank: int | None
    base: str | None
    is_alone: bool
    tensors: int

    @property
    def text(self) -> str:
        """`a LoRA adapter of rank 8 for Qwen/Qwen3-0.6B`."""
        article = "an" if self.kind[0] in "AEIO" else "a"
        rank = f" of rank {self.rank}" if self.rank else ""
        return f"{article} {self.kind} adapter{rank}" + (f" for {self.base}" if self.base else "")

    def as_json(self) -> dict[str, Any]:
        """The adapter as plain JSON values."""
        return {
            "kind": self.kind,
            "rank": self.rank,
            "base": self.base,
            "alone": self.is_alone,
            "tensors": self.tensors,
        }


class NodeMemory(NamedTuple):
    """What one node takes: its weights by dtype, and what it keeps of the sequences, in bytes."""

    layers: range
    weights: Mapping[str, int]
    cache: int | None

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(self.weights.values()) + (self.cache or 0)

    def as_json(self) -> dict[str, Any]:
        """The node as plain JSON values."""
        return {
            "layers": [self.layers.start, self.layers.stop - 1] if self.layers else None,
            "weights": dict(self.weights),
            "cache": self.cache,
            "bytes": self.bytes,
        }


class Memory(NamedTuple):
    """What a model takes that runs `batch` sequences of `context` tokens.

    `per_token` are the bytes that all layers keep of a token, as `cache_dtype`; where they are not known,
    `why_not` says why.
    """

    context: int
    batch: int
    per_token: int | None
    cache_dtype: str | None
    why_not: str | None
    nodes: tuple[NodeMemory, ...]

    def as_json(self) -> dict[str, Any]:
        """The memory as plain JSON values."""
        return {**self._asdict(), "nodes": [node.as_json() for node in self.nodes]}


class Closest(NamedTuple):
    """The family that comes closest where none fits, and the parts that were recognised anywhere."""

    family: str | None
    layout: str | None
    missing: int
    unexplained: int
    fits: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The closest family as plain JSON values."""
        return {
            "family": self.family,
            "layout": self.layout,
            "missing": self.missing,
            "unexplained": self.unexplained,
            "fits": list(self.fits),
        }


class Report:
    """Everything about one checkpoint."""

    def __init__(
        self,
        *,
        path: str,
        format: str,
        files: tuple[str, ...],
        family: str | None,
        title: str | None,
        variant: str | None,
        layout: str | Mapping[str, str] | None,
        same_layouts: tuple[str, ...],
        candidates: tuple[str, ...],
        wrappers: tuple[str, ...],
        chunks: tuple[Mapping[str, Any], ...],
        parts: Mapping[str, PartReport],
        config: Mapping[str, Value],
        ties: tuple[Tie, ...],
        tensors: int,
        parameters: int | None,
        bytes: int | None,
        dtypes: Mapping[str, int],
        accounting: Accounting,
        findings: tuple[Finding, ...],
        closest: Closest | None,
        unchecked: tuple[str, ...],
        seconds: Mapping[str, float],
        forward: tuple[Mapping[str, Any], ...] | None = None,
        quantisation: Quantisation | None = None,
        adapter: Adapter | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.path = path
        self.format = format
        self.files = files
        self.family = family
        self.title = title
        self.variant = variant
        self.layout = layout
        self.same_layouts = same_layouts
        self.candidates = candidates
        self.wrappers = wrappers
        self.chunks = chunks
        self.parts = parts
        self.config = config
        self.ties = ties
        self.tensors = tensors
        self.parameters = parameters
        self.bytes = bytes
        self.dtypes = dtypes
        self.accounting = accounting
        self.findings = findings
        self.closest = closest
        self.unchecked = unchecked
        self.seconds = seconds
        self.forward = forward
        self.quantisation = quantisation
        self.adapter = adapter
        self.memory = memory

    @property
    def state(self) -> Literal["whole", "not whole", "unknown"]:
        """The verdict in a word: a model that no family comes close to is neither whole nor damaged."""
        return "whole" if self.is_whole else "not whole" if self.parts else "unknown"

    @property
    def is_whole(self) -> bool:
        """Whether the checkpoint is known and nothing about it is an error."""
        return self.family is not None and not any(finding.severity == "error" for finding in self.findings)

    @property
    def head(self) -> str:
        """One line: `Qwen2-VL-2B: qwen2_vl in layout hf, 729 tensors, 2,208,985,600 parameters, whole`."""
        layout = f"layout {self.layout}" if isinstance(self.layout, str) else "mixed layouts"
        what = "of no known family" if self.family is None else f"{self.family} in {layout}"
        numbers = [counted(self.tensors, "tensor")]
        if self.parameters is not None:
            numbers.append(counted(self.parameters, "parameter"))
        errors = sum(finding.severity == "error" for finding in self.findings)
        verdict = "whole" if self.is_whole else counted(errors, "error")
        return f"{self.path}: {', '.join([what, *numbers, verdict])}"

    @property
    def called(self) -> str:
        """What it is in a few words: `Qwen2 / Qwen2.5, quantised by GPTQ to 4 bits`, `a LoRA adapter`."""
        if self.family is None and self.adapter and self.adapter.is_alone:
            return self.adapter.text
        variant = f" ({self.variant})" if self.family and self.variant not in (None, "base") else ""
        packed = f", {self.quantisation.text}" if self.quantisation else ""
        return f"{self.title or self.family or 'unknown'}{variant}{packed}"

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """The parts as a table, its heads first."""
        return [
            ("part", "kind", "tensors", "parameters", "dtype"),
            *(
                (role, part.kind, f"{part.present:,}", f"{part.parameters:,}", ", ".join(part.dtypes))
                if part.tied_to is None
                else (role, part.kind, "", f"tied to {part.tied_to}", "")
                for role, part in self.parts.items()
            ),
        ]

    def __repr__(self) -> str:
        """The head, the parts, and the findings that are errors or warnings."""
        said = [f"{one.severity}: {one.message}" for one in self.findings if one.severity != "note"]
        lines = [self.head, *(_aligned(self.rows) if self.parts else ()), *said]
        return "\n".join(map(printable, lines))

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        from html import escape

        heads, *rows = self.rows
        body = [_html_row("th", heads), *(_html_row("td", row) for row in rows)] if rows else []
        said = [
            f"<li><b>{one.severity}</b>: {escape(printable(one.message))}</li>"
            for one in self.findings
            if one.severity != "note"
        ]
        table = f"<table>{''.join(body)}</table>" if body else ""
        return f"<p>{escape(printable(self.head))}</p>{table}" + (f"<ul>{''.join(said)}</ul>" if said else "")

    def with_findings(self, *findings: Finding) -> "Report":
        """The same report with more findings."""
        return self.replace(findings=sort_findings((*self.findings, *findings)))

    def replace(self, **changes: Any) -> "Report":
        """The same report with some fields changed."""
        return Report(**{**self.__dict__, **changes})

    def as_json(self) -> dict[str, Any]:
        """The report as plain JSON values, in the documented order."""
        return {
            "schema": SCHEMA,
            "path": self.path,
            "format": self.format,
            "files": list(self.files),
            "family": self.family,
            "variant": self.variant,
            "layout": self.layout if isinstance(self.layout, str | None) else dict(self.layout),
            "same_layouts": list(self.same_layouts),
            "candidates": list(self.candidates),
            "wrappers": list(self.wrappers),
            "chunks": [dict(chunk) for chunk in self.chunks],
            "parts": {role: part.as_json() for role, part in self.parts.items()},
            "config": {name: value.as_json() for name, value in self.config.items()},
            "ties": [tie.as_json() for tie in self.ties],
            "tensors": self.tensors,
            "parameters": self.parameters,
            "bytes": self.bytes,
            "dtypes": dict(self.dtypes),
            "accounting": self.accounting.as_json(),
            "findings": [finding.as_json() for finding in self.findings],
            "whole": self.is_whole,
            "closest": self.closest.as_json() if self.closest else None,
            "unchecked": list(self.unchecked),
            "seconds": {name: round(value, 6) for name, value in self.seconds.items()},
            "forward": None if self.forward is None else [dict(stage) for stage in self.forward],
            "quantisation": self.quantisation.as_json() if self.quantisation else None,
            "adapter": self.adapter.as_json() if self.adapter else None,
            "memory": self.memory.as_json() if self.memory else None,
        }


_ORDER = {"error": 0, "warning": 1, "note": 2}


def sort_findings(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Errors first, then warnings, then notes; otherwise as they came."""
    return tuple(sorted(findings, key=lambda finding: _ORDER[finding.severity]))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines of columns, two spaces apart."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(f"{one:<{width}}" for one, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _html_row(tag: str, cells: Iterable[str]) -> str:
    from html import escape

    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"
