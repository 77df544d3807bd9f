"""A data set held against the statistics of a checkpoint, dimension by dimension.

    report = normalization(open_episodes("pick_up"), read_policy("pi0_base"))
    report.findings, report.is_good

A policy only knows numbers as its statistics normalise them. Data of another robot, in other units, in
another order or with another sign train and run without an error, and act wrongly. Found are dimensions
that are constant, outside, in other units, turned in sign, permuted, or that are changes where the
checkpoint's are places; and widths that differ.

What keeps mean, deviation and ends, such as another sign of a symmetric distribution, cannot be seen.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np

from dovetail.data.distribution import (
    Facts,
    band_of,
    center_of,
    distance,
    plus,
    spread_of,
    times,
)
from dovetail.data.episodes import Episodes
from dovetail.data.measured import Measured, measure
from dovetail.data.policy import PolicyFacts
from dovetail.data.policy_batches import CameraMap, mapped_cameras
from dovetail.data.spread import Spread
from dovetail.errors import UsageError, listed
from dovetail.inputs.statistics import Scale
from dovetail.report import Finding, counted

Kind = Literal["state", "actions"]

# Distances, in deviations: what is one distribution, and what certainly is not.
_SAME, _OTHER = 0.25, 0.6
# Data that lie outside what the checkpoint saw: a share of them, or so many of its units.
_MOST_OUTSIDE, _HALF, _FAR = 0.1, 0.5, 10.0
_UNITS = (
    (1000.0, "1000 times the checkpoint's, as millimetres are of metres"),
    (0.001, "a thousandth of the checkpoint's, as metres are of millimetres"),
    (100.0, "100 times the checkpoint's, as centimetres are of metres"),
    (0.01, "a hundredth of the checkpoint's, as metres are of centimetres"),
    (180 / math.pi, "180/pi times the checkpoint's: degrees where it has radians"),
    (math.pi / 180, "pi/180 of the checkpoint's: radians where it has degrees"),
)
SHOWN = ("mean", "std", "q01", "q99", "min", "max")


class Dimension(NamedTuple):
    """One number of a state or action: how it is spread in the data and in the checkpoint.

    `low` and `high` are the ends of the data as the checkpoint normalises them; `band` is what it takes for
    the range, `outside` the share of the data beyond it. `verdict` is a word. The histogram has the two ends
    and the count of each bar.
    """

    kind: Kind
    number: int
    name: str
    data: Facts
    checkpoint: Facts
    low: float | None
    high: float | None
    band: tuple[float, float] | None
    outside: float | None
    distance: float | None
    verdict: str
    histogram: tuple[tuple[float, float, int], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The dimension as plain JSON values."""
        found = self._asdict()
        found["data"], found["checkpoint"] = dict(self.data), dict(self.checkpoint)
        found["histogram"] = [list(one) for one in self.histogram]
        return found


class NormalizationReport(NamedTuple):
    """What a data set is beside the statistics of a checkpoint."""

    source: str
    form: str
    episodes: int
    frames: int
    checkpoint: str
    statistics: str | None
    dimensions: tuple[Dimension, ...]
    findings: tuple[Finding, ...]

    @property
    def is_good(self) -> bool:
        """Whether no error was found."""
        return all(one.severity != "error" for one in self.findings)

    def as_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {
            "schema": 1,
            **self._asdict(),
            "good": self.is_good,
            "dimensions": [one.as_json() for one in self.dimensions],
            "findings": [one.as_json() for one in self.findings],
        }


def normalization(
    episodes: Episodes,
    policy: PolicyFacts,
    *,
    checkpoint: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> NormalizationReport:
    """Measures the data set and holds it against the checkpoint.

    Raises:
        FormatError: an episode is damaged.
    """
    measured = measure(episodes, horizon=policy.horizon, progress=progress)
    statistics = policy.robot.statistics
    findings = [*_broken(measured), *_declared(episodes, measured), *_cameras(episodes, policy)]
    dimensions: list[Dimension] = []
    names = {"state": episodes.state_names, "actions": episodes.action_names}
    for kind, spread in (("state", measured.state), ("actions", measured.actions)):
        scale = (statistics.state if kind == "state" else statistics.actions) if statistics else None
        called = names[kind] if len(names[kind]) == spread.width else ()
        changes = measured.changes if kind == "actions" else None
        held = _Held(kind, called, spread, scale, changes)  # type: ignore[arg-type]
        found, said = held.compared()
        dimensions += found
        findings += said
    if statistics is None:
        findings.append(
            Finding(
                code="no-statistics",
                severity="warning",
                message="the checkpoint has no statistics: it is fed the data's numbers as they are",
                hint="give --statistics norm_stats.json; or train with --statistics data",
            )
        )
    return NormalizationReport(
        source=episodes.source,
        form=episodes.form,
        episodes=len(episodes.lengths),
        frames=episodes.frames,
        checkpoint=checkpoint,
        statistics=statistics.source if statistics else None,
        dimensions=tuple(dimensions),
        findings=tuple(findings),
    )


def _broken(measured: Measured) -> Iterator[Finding]:
    if measured.broken:
        yield Finding(
            code="not-finite-numbers",
            severity="error",
            message=f"{counted(len(measured.broken), 'frame')} with NaN or infinity: "
            f"{listed(measured.broken)}",
            hint="leave these episodes out: training refuses them",
        )


def _cameras(episodes: Episodes, policy: PolicyFacts) -> Iterator[Finding]:
    try:
        mapped_cameras(policy, episodes, CameraMap())
    except UsageError as error:
        yield Finding(
            code="other-cameras", severity="note", message=error.message, hint=f"train with {error.hint}"
        )


def _declared(episodes: Episodes, measured: Measured) -> Iterator[Finding]:
    """Where the data set's own statistics are not those of its numbers."""
    for kind, said in episodes.declared().items():
        spread = measured.state if kind == "state" else measured.actions
        found = spread.values()
        wrong = [
            f"{name} of {kind} {i} is {said[name][i]:.4g}, measured {found[name][i]:.4g}"
            for name in SHOWN
            for i in range(spread.width)
            if name in said
            and len(said[name]) == spread.width
            and abs(said[name][i] - found[name][i]) > 0.05 * (found["std"][i] + 1e-6)
        ]
        if wrong:
            yield Finding(
                code="declared-statistics",
                severity="note",
                message=f"meta/stats.json says other {kind} than the frames hold: {listed(wrong, 3)}",
                hint="lerobot takes the mean of the episodes' quantiles; what is compared here is measured",
            )


class _Held:
    """State or actions held against their scale."""

    def __init__(
        self, kind: Kind, names: tuple[str, ...], spread: Spread, scale: Scale | None, changes: Spread | None
    ) -> None:
        self.kind, self.names, self.spread, self.scale = kind, names, spread, scale
        self.one = "action" if kind == "actions" else "state"
        self.changes = changes
        self.values = spread.values()
        self.width = scale.width if scale else 0
        self.shared = min(spread.width, self.width)
        self.verdicts: dict[int, str] = {}
        self.findings: list[Finding] = []

    def compared(self) -> tuple[list[Dimension], list[Finding]]:
        """Every dimension, and what is wrong with them."""
        self._widths()
        self._constants()
        self._changes()
        for i in self._open():
            self._units(i)
        self._permutation()
        for i in range(self.shared):
            if i not in self.verdicts:
                self._outside(i)
        return [self._dimension(i) for i in range(self.spread.width)], self.findings

    def _open(self) -> list[int]:
        """Dimensions that no finding explains yet, and that are not the checkpoint's."""
        return [i for i in range(self.shared) if i not in self.verdicts and self._distance(i) > _OTHER]

    def called(self, i: int) -> str:
        """A dimension by number and name."""
        return f"{self.one} {i} ({self.names[i]})" if self.names else f"{self.one} {i}"

    def data(self, i: int) -> Facts:
        return {name: float(values[i]) for name, values in self.values.items()}

    def checkpoint(self, i: int) -> Facts:
        if self.scale is None or i >= self.width:
            return {}
        return {name: float(one[i]) for name, one in self.scale.said.items() if len(one) == self.width}

    def _distance(self, i: int, j: int | None = None, data: Facts | None = None) -> float:
        mode = self.scale.mode if self.scale else "MEAN_STD"
        return distance(data or self.data(i), self.checkpoint(i if j is None else j), mode)

    def _of(self, *numbers: int) -> dict[str, Any]:
        """What a finding is about."""
        return {"part": self.kind, "tensors": tuple(f"{self.kind}.{i}" for i in numbers)}

    def _widths(self) -> None:
        if self.scale is None or self.spread.width == self.width:
            return
        behind = range(self.shared, self.width)
        if self.width > self.spread.width and not any(any(self.checkpoint(i).values()) for i in behind):
            said = f"the checkpoint's {self.width} numbers of {self.kind} end in {len(behind)} of padding"
            hint = "the data's are the ones before"
            about = self._of(*behind)
            self.findings.append(
                Finding(code="padded-statistics", severity="note", message=said, hint=hint, **about)
            )
            return
        self.findings.append(
            Finding(
                code="other-width",
                severity="error",
                message=f"the data have {counted(self.spread.width, 'number')} of {self.kind}, the "
                f"checkpoint's statistics {self.width}",
                hint="another robot, or numbers left out: give --statistics, or train with --statistics data",
                **self._of(*range(self.shared, self.spread.width)),
            )
        )

    def _constants(self) -> None:
        for i in range(self.spread.width):
            data, said = self.data(i), self.checkpoint(i)
            is_constant = data["std"] <= 1e-6 * max(1.0, abs(data["mean"]))
            spread = spread_of(said, self.scale.mode if self.scale else "MEAN_STD")
            was_constant = spread is not None and spread <= 1e-6 * max(1.0, abs(center_of(said)))
            if is_constant and was_constant and abs(data["mean"] - center_of(said)) < 1e-4:
                self.verdicts[i] = "constant, as the checkpoint's"
            elif is_constant:
                self.verdicts[i] = "constant"
                theirs = (
                    "" if spread is None else f"; the checkpoint's is {center_of(said):.4g} +- {spread:.4g}"
                )
                self.findings.append(
                    Finding(
                        code="constant-number",
                        severity="warning",
                        message=f"{self.called(i)} is always {data['mean']:.4g} in the data{theirs}",
                        hint="a policy learns nothing of it",
                        **self._of(i),
                    )
                )
            elif was_constant:
                self.verdicts[i] = "constant in the checkpoint"
                far = max(abs(end) for end in self._ends(i))
                self.findings.append(
                    Finding(
                        code="constant-in-checkpoint",
                        severity="error",
                        message=f"{self.called(i)} is constant in the checkpoint's statistics and is not "
                        f"in the data: normalised, it reaches {far:.3g}",
                        hint="train with --statistics data",
                        **self._of(i),
                    )
                )

    def _changes(self) -> None:
        """Whether the checkpoint's actions are changes from the state, and the data's are places."""
        found = self._open()
        if self.changes is None or not found:
            return
        values = self.changes.values()
        of = {i: self._distance(i, data={name: float(one[i]) for name, one in values.items()}) for i in found}
        alike = [i for i in found if of[i] < _OTHER and of[i] < self._distance(i) / 3]
        if len(alike) < 2 or len(alike) * 2 <= len(found):
            return
        self.verdicts |= dict.fromkeys(alike, "changes in the checkpoint")
        self.findings.append(
            Finding(
                code="changes-for-places",
                severity="error",
                message=f"{_several('action', alike)} of the checkpoint look like changes from the state, "
                "and the data's are places: less the state, they fit",
                hint="openpi's DeltaActions; write actions as changes from the state that a chunk begins at",
                **self._of(*alike),
            )
        )

    def _units(self, i: int) -> None:
        """Other units, another sign, or open for closed."""
        data = self.data(i)
        factors = [
            (
                self._distance(i, data=times(data, sign / factor)),
                what + (" and of the other sign" * (sign < 0)),
            )
            for factor, what in _UNITS
            for sign in (1, -1)
        ]
        opened = plus(times(data, -1.0), 1.0)
        signs = [
            (self._distance(i, data=times(data, -1.0)), "has the other sign"),
            (self._distance(i, data=opened), "is 1 less the checkpoint's: open where it has closed"),
        ]
        unit, sign = min(factors), min(signs)
        if min(unit[0], sign[0]) >= _SAME:
            return
        hint, about = "convert the data set before it is learnt", self._of(i)
        if unit[0] <= sign[0]:
            self.verdicts[i] = "other units"
            said = f"{self.called(i)} is {unit[1]}"
            found = Finding(code="other-units", severity="error", message=said, hint=hint, **about)
        else:
            self.verdicts[i] = "other sign"
            said = f"{self.called(i)} {sign[1]}"
            found = Finding(code="other-sign", severity="error", message=said, hint=hint, **about)
        self.findings.append(found)

    def _permutation(self) -> None:
        """Dimensions that are the checkpoint's under another number."""
        found: dict[int, int] = {}
        for i in self._open():
            near = sorted((self._distance(i, j), j) for j in range(self.width) if j != i)
            if near and near[0][0] < _SAME and (len(near) == 1 or near[1][0] > 2 * near[0][0] + 0.1):
                found[i] = near[0][1]
        if len(set(found.values())) < len(found) or not found:
            return
        self.verdicts |= {i: f"is {j} of the checkpoint" for i, j in found.items()}
        pairs = ", ".join(f"{i} is its {j}" for i, j in found.items())
        self.findings.append(
            Finding(
                code="permuted-numbers",
                severity="error",
                message=f"{_several(self.one, list(found))} of the data are spread as others of the "
                f"checkpoint: {pairs}",
                hint="the order is another one: sort the numbers of the data set as the checkpoint has them",
                **self._of(*found),
            )
        )

    def _outside(self, i: int) -> None:
        assert self.scale is not None
        share, ends = self._outside_share(i), self._ends(i)
        far = max(abs(end) for end in ends)
        if not (share > _MOST_OUTSIDE or far > _FAR):
            if self._distance(i) > _OTHER:
                self.verdicts[i] = "spread otherwise"
            return
        self.verdicts[i] = "outside"
        limits = "three deviations" if self.scale.mode == "MEAN_STD" else "range"
        said = (
            f"{self.called(i)}: {share:.0%} of the data lie outside the checkpoint's {limits}; normalised, "
            f"it goes from {ends[0]:.3g} to {ends[1]:.3g}"
        )
        hint = "another robot, or another task: train with --statistics data, or give --statistics"
        about = self._of(i)
        self.findings.append(
            Finding(code="outside-checkpoint", severity="error", message=said, hint=hint, **about)
            if share > _HALF
            else Finding(code="outside-checkpoint", severity="warning", message=said, hint=hint, **about)
        )

    def _ends(self, i: int) -> tuple[float, float]:
        assert self.scale is not None
        both = np.array([self.values["min"][i], self.values["max"][i]])
        low, high = (both - self.scale.center[i]) / self.scale.spread[i]
        return float(low), float(high)

    def _outside_share(self, i: int) -> float:
        band, rows = self._band(i), self.spread.rows[:, i]
        return float(np.mean((rows < band[0]) | (rows > band[1]))) if band else math.nan

    def _band(self, i: int) -> tuple[float, float] | None:
        return band_of(self.checkpoint(i), self.scale.mode) if self.scale and i < self.width else None

    def _dimension(self, i: int) -> Dimension:
        is_held = i < self.shared
        ends = self._ends(i) if is_held else (None, None)
        counts, edges = np.histogram(self.spread.rows[:, i], bins=32)
        verdict = self.verdicts.get(i, "fits" if is_held else "not in the checkpoint" if self.scale else "")
        return Dimension(
            kind=self.kind,
            number=i,
            name=self.names[i] if self.names else "",
            data=self.data(i),
            checkpoint=self.checkpoint(i),
            low=ends[0],
            high=ends[1],
            band=self._band(i),
            outside=self._outside_share(i) if is_held else None,
            distance=self._distance(i) if is_held else None,
            verdict=verdict,
            histogram=tuple(
                (float(low), float(high), int(count))
                for low, high, count in zip(edges, edges[1:], counts, strict=False)
            ),
        )


def _several(one: str, numbers: list[int]) -> str:
    """`actions 0, 1 and 2`."""
    return f"{one} {numbers[0]}" if len(numbers) == 1 else f"{one}s {', '.join(map(str, numbers))}"
