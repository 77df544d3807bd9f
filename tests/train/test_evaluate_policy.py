"""How far a policy's actions are off: the differences between what `act` makes and what was recorded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("pyarrow")

import dovetail
from dovetail.cli import main
from dovetail.data.episodes import Steps, open_episodes
from dovetail.errors import UsageError
from dovetail.train.draws import draws
from dovetail.train.evaluate_policy import evaluate_policy
from train.test_policies import DATA, MAP, policy, tokenizer

__all__ = ["policy", "tokenizer"]  # fixtures
WORDS = ["--camera-map", "wrist=left_wrist_0_rgb", "--camera-map", "=right_wrist_0_rgb"]


def test_errors_are_those_of_the_actions_that_act_makes(policy: Path, tmp_path: Path, capsys: Any) -> None:
    found = evaluate_policy(policy, DATA, cameras=MAP, batch=3, limit=5)
    actor = dovetail.Actor.load(policy)
    steps = Steps(open_episodes(DATA), horizon=actor.model.action_shape[0])
    apart = []
    for number in range(5):
        step = steps[number]
        noise, _ = draws(torch.tensor([number]), actor.model.action_shape, seed=0, step=0)
        seen = {"base": step.cameras["base"].pixels(), "left_wrist": step.cameras["wrist"].pixels()}
        chunk = actor.act(seen, step.instruction, step.state, noise=noise[0].numpy()).actions
        apart.append(np.abs(chunk[:, :3] - step.actions)[~step.is_past])
    whole = np.concatenate(apart)
    assert found.total.count == whole.size < 5 * 3 * steps.horizon  # some are past the end
    assert found.total.mean == pytest.approx(whole.mean(), abs=1e-5)
    assert found.total.rms == pytest.approx(np.sqrt((whole**2).mean()), abs=1e-5)
    assert [one.largest for one in found.dimensions.values()] == pytest.approx(whole.max(axis=0), abs=1e-5)
    assert found.total.first == pytest.approx(np.stack([one[0] for one in apart]).mean(), abs=1e-5)
    assert (found.samples, found.of) == (5, len(steps))
    assert any("statistics" in one for one in found.notes)

    page = tmp_path / "page"
    words = ["evaluate", str(policy), "--data", str(DATA), *WORDS, "--limit", "5", "--batch", "3"]
    assert main([*words, "--html", str(page), "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["mean_abs"] == found.total.mean
    assert list(values["dimensions"]) == list(found.dimensions)
    assert f"{found.total.mean:.4g}" in (page / "evaluate.html").read_text()
    assert main(words) == 0
    assert f"mean error {found.total.mean:.4g} over" in capsys.readouterr().out


def test_what_does_not_fit_is_refused(policy: Path) -> None:
    with pytest.raises(UsageError, match="--limit 0 is none"):
        evaluate_policy(policy, DATA, limit=0)
    with pytest.raises(UsageError, match="which is no camera"):
        evaluate_policy(policy, DATA, cameras=MAP._replace(names={"top": "base_0_rgb"}))
