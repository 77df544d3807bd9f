"""A data set beside the statistics of a checkpoint: each thing that may be wrong is found and named, alone."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.data.distribution import distance
from dovetail.data.episodes import open_episodes
from dovetail.data.measured import measure
from dovetail.data.normalization import NormalizationReport, normalization
from dovetail.data.normalization_html import normalization_html
from dovetail.data.normalization_page import normalization_page
from dovetail.data.policy import PolicyFacts, read_policy
from dovetail.data.spread import Spread
from dovetail.inputs.statistics import Statistics, read_openpi
from dovetail.render.plain import write_plain

GOLDEN = Path(__file__).parents[1] / "golden"
WIDTH = 5


def numbers(rows: int = 600, seed: int = 0) -> np.ndarray:
    """Five dimensions that no one would take for each other."""
    random = np.random.default_rng(seed)
    return random.normal([0.5, -3, 0.2, 4, 0.3], [0.2, 1.5, 0.01, 0.6, 0.1], size=(rows, WIDTH))


def statistics(values: dict[str, np.ndarray], *, is_quantiles: bool) -> Statistics:
    facts = {}
    for kind, rows in values.items():
        low, high = np.quantile(rows, 0.01, axis=0), np.quantile(rows, 0.99, axis=0)
        of = {"mean": rows.mean(axis=0), "std": rows.std(axis=0), "q01": low, "q99": high}
        facts[kind] = {name: one.tolist() for name, one in of.items()}
    text = json.dumps({"norm_stats": facts}).encode()
    return read_openpi(text, "norm_stats.json", is_quantiles=is_quantiles)


@pytest.fixture(scope="module")
def facts() -> PolicyFacts:
    found = read_policy(GOLDEN / "pi0")
    return found._replace(robot=replace(found.robot, cameras=("base_0_rgb",)))


def reported(
    facts: PolicyFacts, folder: Path, state: np.ndarray, actions: np.ndarray, known: Statistics | None
) -> NormalizationReport:
    for i, half in enumerate((slice(0, 200), slice(200, None))):
        image = np.zeros((len(state[half]), 2, 2, 3), np.uint8)
        np.savez(folder / f"{i}.npz", state=state[half], actions=actions[half], instruction="go", base=image)
    policy = facts._replace(robot=replace(facts.robot, statistics=known))
    return normalization(open_episodes(folder), policy, checkpoint="pi0")


def swapped(rows: np.ndarray) -> np.ndarray:
    return rows[:, [3, 1, 2, 0, 4]]


def times(column: int, factor: float, offset: float = 0) -> Any:
    def changed(rows: np.ndarray) -> np.ndarray:
        found = rows.copy()
        found[:, column] = found[:, column] * factor + offset
        return found

    return changed


def fixed(rows: np.ndarray) -> np.ndarray:
    found = rows.copy()
    found[:, 1] = 7
    return found


FAULTS = {
    "nothing": (lambda rows: rows, None, []),
    "millimetres": (times(0, 1000), "other-units", [0]),
    "degrees": (times(1, 180 / np.pi), "other-units", [1]),
    "radians, turned": (times(3, -np.pi / 180), "other-units", [3]),
    "sign": (times(3, -1), "other-sign", [3]),
    "open for closed": (times(4, -1, 1), "other-sign", [4]),
    "permuted": (swapped, "permuted-numbers", [0, 3]),
    "constant": (fixed, "constant-number", [1]),
    "outside": (times(2, 1, 0.2), "outside-checkpoint", [2]),
    "width": (lambda rows: rows[:, :4], "other-width", []),
}


@pytest.mark.parametrize("is_quantiles", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", [pytest.param("state", marks=pytest.mark.slow), "actions"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(
    facts: PolicyFacts, tmp_path: Path, fault: str, kind: str, is_quantiles: bool
) -> None:
    change, code, dimensions = FAULTS[fault]
    values = {"state": numbers(seed=1), "actions": numbers(seed=2)}
    known = statistics(values, is_quantiles=is_quantiles)
    other = {"state": numbers(seed=3), "actions": numbers(seed=4)}
    other[kind] = change(other[kind])
    report = reported(facts, tmp_path, other["state"], other["actions"], known)
    said = [(one.code, one.part) for one in report.findings]
    assert said == ([] if code is None else [(code, kind)]), [one.message for one in report.findings]
    assert report.is_good == (code in (None, "constant-number"))
    if dimensions:
        assert report.findings[0].tensors == tuple(f"{kind}.{i}" for i in dimensions)
    if fault == "permuted":
        assert "0 is its 3, 3 is its 0" in report.findings[0].message
    text = write_plain(normalization_page(report))
    page = normalization_html(report, command="dovetail data", date="today")
    for finding in report.findings:
        assert finding.message in text
        assert finding.code in page
    assert page.count("<svg") == len(report.dimensions)
    assert json.loads(json.dumps(report.as_json()))["good"] == report.is_good


def test_actions_that_are_changes_in_the_checkpoint(facts: PolicyFacts, tmp_path: Path) -> None:
    """openpi's `DeltaActions` are measured as changes; a data set of places beside them is named as one."""
    random, deviations = np.random.default_rng(0), np.array([0.01, 0.02, 0.3])
    state = np.array([1, 2, 30]) + np.cumsum(random.normal(0, deviations, size=(600, 3)), axis=0)
    actions = state + random.normal(0, deviations, size=state.shape)
    changes = np.concatenate([actions[k:] - state[: len(state) - k] for k in range(0, facts.horizon, 2)])
    known = statistics({"state": state, "actions": changes}, is_quantiles=False)
    report = reported(facts, tmp_path, state, actions, known)
    assert [one.code for one in report.findings] == ["changes-for-places"]
    assert report.findings[0].tensors == ("actions.0", "actions.1", "actions.2")


def test_what_a_checkpoint_never_saw_move(facts: PolicyFacts, tmp_path: Path) -> None:
    values = {"state": numbers(seed=1), "actions": fixed(numbers(seed=2))}
    known = statistics(values, is_quantiles=False)
    report = reported(facts, tmp_path, numbers(seed=3), numbers(seed=4), known)
    assert [(one.code, one.severity) for one in report.findings] == [("constant-in-checkpoint", "error")]


def test_nan_and_no_statistics(facts: PolicyFacts, tmp_path: Path) -> None:
    state = numbers()
    state[250, 1] = np.nan
    report = reported(facts, tmp_path, state, numbers(), None)
    assert [one.code for one in report.findings] == ["not-finite-numbers", "no-statistics"]
    assert "episode 1, frame 50: state" in report.findings[0].message
    assert report.dimensions[1].data["mean"] == pytest.approx(np.nanmean(state[:, 1]), rel=0.01)


def test_padded_statistics_are_no_fault(facts: PolicyFacts, tmp_path: Path) -> None:
    wide = [np.pad(numbers(seed=i), ((0, 0), (0, 3))) for i in (1, 2)]
    known = statistics({"state": wide[0], "actions": wide[1]}, is_quantiles=False)
    report = reported(facts, tmp_path, numbers(seed=3), numbers(seed=4), known)
    assert [one.code for one in report.findings] == ["padded-statistics"] * 2
    assert report.is_good


def test_lerobot_s_own_quantiles_are_not_those_of_the_frames() -> None:
    """lerobot 0.4.4 writes the mean of the episodes' quantiles into meta/stats.json."""
    pytest.importorskip("pyarrow")
    report = normalization(open_episodes(GOLDEN / "lerobot" / "v3.0-image"), read_policy(GOLDEN / "pi0"))
    said = [one.message for one in report.findings if one.code == "declared-statistics"]
    assert len(said) == 2
    assert "q99 of actions 1 is 1.133, measured 2" in said[1]
    (cameras,) = [one for one in report.findings if one.code == "other-cameras"]
    assert cameras.message.startswith("`wrist` is no camera of this policy")


def test_spread_equals_numpy_in_bounded_memory() -> None:
    rows = numbers(5000)
    spread, few = Spread(), Spread(most=500)
    for start in range(0, 5000, 700):
        spread.add(rows[start : start + 700])
        few.add(rows[start : start + 700])
    found = spread.values()
    expected = {"mean": rows.mean(0), "std": rows.std(0), "min": rows.min(0), "max": rows.max(0)}
    expected |= {"q01": np.quantile(rows, 0.01, axis=0), "q99": np.quantile(rows, 0.99, axis=0)}
    for name, one in expected.items():
        assert found[name] == pytest.approx(one, abs=1e-9), name
    assert len(few.rows) == 500
    assert few.std == pytest.approx(rows.std(0))
    assert few.quantile(0.5) == pytest.approx(np.median(rows, axis=0), abs=0.2)


def test_distance_is_that_of_the_wider_one() -> None:
    one = {"mean": 1.0, "std": 2.0, "q01": -3.0, "q99": 5.0}
    assert distance(one, one, "QUANTILES") == 0
    assert distance(one, {"mean": 2.0, "std": 2.0}, "MEAN_STD") == 0.5
    assert distance(one, {}, "MEAN_STD") == float("inf")


def test_measuring_takes_episodes_one_by_one() -> None:
    pytest.importorskip("pyarrow")
    seen: list[tuple[int, int]] = []
    found = measure(
        open_episodes(GOLDEN / "lerobot" / "v3.0-image"),
        horizon=3,
        progress=lambda done, of: seen.append((done, of)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert found.changes is not None
    assert found.changes.count == 45


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a data set that lerobot wrote and a policy that openpi wrote."""
    pytest.importorskip("pyarrow")
    from dovetail.cli import main

    data, page = str(GOLDEN / "lerobot" / "v3.0-image"), str(tmp_path / "out")
    stats = {name: {"mean": [2.0, 0.9, 0.4], "std": [1.5, 0.8, 0.2]} for name in ("state", "actions")}
    file = tmp_path / "norm_stats.json"
    file.write_text(json.dumps({"norm_stats": stats}))
    words = ["data", data, "--policy", str(GOLDEN / "pi0"), "--statistics", str(file)]
    assert main([*words, "--html", page, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["code"] for one in found["findings"] if one["severity"] != "note"] == ["constant-number"] * 2
    assert "grip" in Path(page, "normalization.html").read_text()
    assert json.loads(Path(page, "normalization.json").read_text())["frames"] == 15
    assert main(words) == 0
    assert "action 2 (grip) is always -1 in the data" in capsys.readouterr().out
    assert main(["data", data]) == 2
    assert "dovetail data FOLDER --policy CKPT" in capsys.readouterr().err
