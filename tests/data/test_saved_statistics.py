"""Statistics of a data set, saved as each layout keeps them, are read back as the policy will read them."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from dovetail.data.episodes import open_episodes
from dovetail.data.measured import Measured, measure
from dovetail.data.policy import read_policy
from dovetail.data.saved_statistics import saved_statistics
from dovetail.errors import FormatError
from dovetail.inputs.statistics import read_statistics
from dovetail.store.open import open_checkpoint

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def measured() -> Measured:
    return measure(open_episodes(GOLDEN / "lerobot" / "v3.0-image"))


@pytest.mark.parametrize("family", ["pi0", "pi05"])
@pytest.mark.parametrize("layout", ["openpi", "lerobot", "transformers"])
def test_what_is_saved_is_read(measured: Measured, tmp_path: Path, layout: str, family: str) -> None:
    if (layout, family) == ("transformers", "pi05"):
        pytest.skip("transformers has no pi0.5")
    facts = read_policy(GOLDEN / family)._replace(layout=layout)
    saved = saved_statistics(measured, facts)
    place = tmp_path / "policy"
    place.mkdir()
    for name, content in saved.files.items():
        (place / name).write_bytes(content)
    for name in ("config.json", "model.safetensors"):
        (place / name).write_bytes((GOLDEN / family / name).read_bytes())
    with open_checkpoint(place) as store:
        found = read_statistics(store, is_quantiles=family == "pi05")
    assert found is not None
    row = np.array([1.25, 0.5, 0.5])
    for kind in ("state", "actions"):
        mine, read = getattr(saved.statistics, kind), getattr(found, kind)
        assert read.mode == mine.mode == ("QUANTILES" if family == "pi05" else "MEAN_STD")
        assert read.normalized(row) == pytest.approx(mine.normalized(row), rel=1e-5, abs=1e-5)
        assert read.unnormalized(row[None]) == pytest.approx(mine.unnormalized(row[None]), rel=1e-5)
    expected = measured.actions.values()["mean" if family == "pi0" else "q99"]
    one = np.zeros((1, 3)) if family == "pi0" else np.ones((1, 3))
    assert saved.statistics.actions.unnormalized(one)[0] == pytest.approx(expected, abs=1e-5)


def test_a_pipeline_that_is_there_keeps_its_other_steps(measured: Measured) -> None:
    facts = read_policy(GOLDEN / "pi0")._replace(layout="lerobot")
    first = saved_statistics(measured, facts)
    said = json.loads(first.files["policy_preprocessor.json"])
    said["steps"][0]["config"]["rename_map"] = {"observation.images.top": "observation.images.base"}
    said["steps"][-1]["config"]["norm_map"]["STATE"] = "QUANTILES"
    there = {**first.files, "policy_preprocessor.json": json.dumps(said).encode()}
    again = saved_statistics(measured, facts, there)
    changed = json.loads(again.files["policy_preprocessor.json"])
    assert changed["steps"] == said["steps"]
    assert again.statistics.state.mode == "QUANTILES"
    assert again.statistics.actions.mode == "MEAN_STD"
    with pytest.raises(FormatError, match="the file is no JSON"):
        saved_statistics(measured, facts, {"policy_preprocessor.json": b"{"})
    with pytest.raises(FormatError, match="no step `normalizer_processor`"):
        saved_statistics(measured, facts, {"policy_preprocessor.json": b'{"steps": []}'})


def test_other_features_stay_in_the_file(measured: Measured) -> None:
    from safetensors.numpy import load, save

    facts = read_policy(GOLDEN / "pi0")._replace(layout="lerobot")
    first = saved_statistics(measured, facts)
    name = next(one for one in first.files if one.startswith("policy_preprocessor_step"))
    image = {"observation.images.base.mean": np.full((3, 1, 1), 0.5, np.float32)}
    there = {**first.files, name: save({**load(first.files[name]), **image})}
    kept = load(saved_statistics(measured, facts, there).files[name])
    assert np.array_equal(kept["observation.images.base.mean"], image["observation.images.base.mean"])
    assert kept["action.mean"] == pytest.approx(measured.actions.mean)


def test_old_policies_keep_them_among_their_weights(measured: Measured) -> None:
    facts = read_policy(GOLDEN / "pi0")._replace(layout="lerobot-0.3")
    saved = saved_statistics(measured, facts)
    assert not saved.files
    assert saved.statistics.state is not None
    assert saved.statistics.state.center == pytest.approx(measured.state.mean)
