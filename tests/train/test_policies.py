"""Policies learn from episodes: batches, which numbers count, seeded noise, training and resuming."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("pyarrow")

import dovetail
from dovetail.data.episodes import Steps, open_episodes
from dovetail.data.policy import counting, read_policy
from dovetail.data.policy_batches import CameraMap, PolicyBatches, camera_map
from dovetail.errors import DovetailError, UsageError
from dovetail.inputs.statistics import MeanStd, statistics_of_weights
from dovetail.models.arrays import tensors
from dovetail.models.trainable import drawn_times
from dovetail.render.plain import write_plain
from dovetail.run.act import Actor
from dovetail.train.draws import draws
from dovetail.train.module import TrainingModule, num_items
from dovetail.train.trainer import Trainer
from files import MODELS
from run.beside import PALIGEMMA, sentence_pieces

GOLDEN = Path(__file__).parents[1] / "golden"
DATA = GOLDEN / "lerobot" / "v3.0-image"
MAP = CameraMap({"wrist": "left_wrist_0_rgb"}, (), ("right_wrist_0_rgb",))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return sentence_pieces(PALIGEMMA, "<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")


@pytest.fixture(scope="module", params=["pi0", pytest.param("pi05", marks=pytest.mark.slow)])
def policy(request: Any, tokenizer: Any, tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("policy") / request.param
    small = {
        **MODELS[request.param][0],
        "expert.d_model": 54,
        "vlm.head_dim": 8,
        "vlm.vocab": len(tokenizer),
    }
    dovetail.make(request.param, folder, layout="openpi", set=small, dtype="float32", seed=4)
    tokenizer.save_pretrained(folder)
    return folder


def batches(path: Path, **more: Any) -> tuple[PolicyBatches, Steps]:
    facts = read_policy(path, settings={"action_horizon": 4})
    episodes = open_episodes(DATA)
    return PolicyBatches(facts, episodes, cameras=MAP, **more), Steps(episodes, horizon=facts.horizon)


def test_a_batch_is_what_the_policy_is_fed_when_it_acts(policy: Path) -> None:
    collate, steps = batches(policy)
    collate = pickle.loads(pickle.dumps(collate))
    batch = collate([steps[0], steps[6]])
    facts = read_policy(policy)
    model = dovetail.load(policy)
    assert batch["inputs"]["pixels"].shape[:2] == (2, 2)
    assert num_items({"targets": torch.from_numpy(batch["targets"])}) == batch["targets"].size
    for row, step in enumerate((steps[0], steps[6])):
        seen = {"base": step.cameras["base"].pixels(), "left_wrist": step.cameras["wrist"].pixels()}
        alone = facts.robot(seen, step.instruction, step.state).arrays
        length = alone["tokens"].shape[1]
        assert np.array_equal(batch["inputs"]["tokens"][row, :length], alone["tokens"][0])
        assert batch["inputs"]["token_mask"][row].sum() == length
        assert np.array_equal(batch["inputs"]["pixels"][:, row], alone["pixels"][:, 0])
        assert ("state" in alone) == (model.d_state > 0)
        if "state" in alone:
            assert np.array_equal(batch["inputs"]["state"][row], alone["state"][0])
        assert np.array_equal(batch["targets"][row][:, :3], step.actions.astype(np.float32))
        assert not batch["targets"][row][:, 3:].any()
    assert batch["samples"].tolist() == [0, 6]
    assert "right_wrist_0_rgb: masked" in collate.notes[1]


def test_actions_are_normalised_as_the_robot_s(policy: Path) -> None:
    facts = read_policy(policy)
    scale = [np.array([1.0, 2.0, 3.0]), np.array([0.5, 2.0, 4.0])]
    known = statistics_of_weights(MeanStd(*scale), MeanStd(*scale))
    facts = facts._replace(robot=replace(facts.robot, statistics=known))
    episodes = open_episodes(DATA)
    batch = PolicyBatches(facts, episodes, cameras=MAP)([Steps(episodes, horizon=4)[6]])
    assert batch["targets"][0, 0, :3] == pytest.approx([(1.5 - 1) / 0.5, (1 - 2) / 2, (-1 - 3) / 4])
    back = facts.robot.actions(batch["targets"][0].astype(np.float64)).values
    assert back == pytest.approx(Steps(episodes, horizon=4)[6].actions, abs=1e-5)


def test_which_numbers_count(policy: Path) -> None:
    """As the trainer of each layout has it; a policy of 13 columns, a robot of three, two steps past the end."""
    expected = {"openpi": (True, True), "lerobot": (False, True), "lerobot-0.3": (True, False)}
    for layout, (columns, past) in expected.items():
        assert counting(layout)[:2] == (columns, past)
    facts = read_policy(policy)
    episodes = open_episodes(DATA)
    step = Steps(episodes, horizon=4)[6]
    width = facts.robot.inputs.d_action
    for layout, padding, count in [
        ("openpi", "auto", 4 * width),
        ("lerobot", "auto", 4 * 3),
        ("lerobot-0.3", "auto", 2 * width),
        ("openpi", "skip", 2 * 3),
        ("lerobot", "learn", 4 * width),
    ]:
        made = PolicyBatches(facts._replace(layout=layout), episodes, cameras=MAP, padding=padding)
        batch = made([step])
        assert batch["counts"].sum() == count
        assert num_items({name: torch.as_tensor(batch[name]) for name in ("targets", "counts")}) == count


@torch.no_grad()
def test_the_loss_is_over_what_counts(policy: Path) -> None:
    collate, steps = batches(policy, padding="skip")
    batch = collate([steps[6], steps[9]])
    module = TrainingModule(dovetail.load(policy, settings={"action_horizon": 4}))
    inputs = tensors(batch["inputs"], torch.device("cpu"))
    targets, counts = torch.from_numpy(batch["targets"]), torch.from_numpy(batch["counts"])
    noise, t = draws(torch.tensor([6, 9]), targets.shape[1:], seed=0, step=0)
    errors = module.model.squared_errors(inputs, targets, noise=noise, t=t)
    loss = module(inputs, targets, counts=counts, samples=torch.tensor([6, 9]))["loss"]
    assert float(loss) == pytest.approx(float(errors[counts].mean()), abs=1e-6)
    assert float(loss) != pytest.approx(float(errors.mean()), abs=1e-3)
    scored = module(inputs, targets, is_scored=True, counts=counts, samples=torch.tensor([6, 9]))
    assert float(scored["loss"] / scored["items"]) == pytest.approx(float(loss), abs=1e-6)


def test_noise_is_of_the_sample_the_step_and_the_seed() -> None:
    first = draws(torch.tensor([3, 8]), (4, 5), seed=1, step=7)
    other = draws(torch.tensor([8, 2, 3]), (4, 5), seed=1, step=7)
    assert torch.equal(first[0][0], other[0][2])
    assert torch.equal(first[1][1], other[1][0])
    for seed, step in ((1, 8), (2, 7)):
        assert not torch.equal(first[0], draws(torch.tensor([3, 8]), (4, 5), seed=seed, step=step)[0])
    noise, times = draws(torch.arange(4000), (4, 5), seed=0, step=1)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    assert float(noise.std()) == pytest.approx(1, abs=0.02)
    reference = drawn_times(4000, torch.Generator().manual_seed(0), torch.device("cpu"))
    for quantile in (0.1, 0.5, 0.9):
        assert float(times.quantile(quantile)) == pytest.approx(float(reference.quantile(quantile)), abs=0.03)


CAMERAS = [
    ([], "`wrist` is no camera of this policy: say which of the data set is which of the policy"),
    (["wrist="], "the data set has no image of left_wrist_0_rgb, right_wrist_0_rgb"),
    (["wrist=left"], "`--camera-map` names `left`, which is no camera"),
    (["top=left_wrist_0_rgb"], "`--camera-map` names `top`, which is no camera"),
    (["base=left_wrist_0_rgb", "wrist=left_wrist_0_rgb"], "two cameras are `left_wrist_0_rgb`"),
    (["base=", "wrist="], "the data set has no camera"),
    (["wrist"], "`--camera-map wrist` maps nothing"),
]


def test_cameras_that_do_not_match(policy: Path) -> None:
    episodes, facts = open_episodes(DATA), read_policy(policy)
    for texts, said in CAMERAS:
        with pytest.raises(UsageError) as refused:
            PolicyBatches(facts, episodes, cameras=camera_map(texts))
        assert refused.value.message.startswith(said), texts
        assert "--camera-map" in str(refused.value.hint)


def test_widths_that_do_not_match(policy: Path, tmp_path: Path) -> None:
    facts = read_policy(policy)
    arrays = {"state": np.zeros((3, 2)), "actions": np.zeros((3, 99)), "instruction": "go"}
    np.savez(tmp_path / "a.npz", base=np.zeros((3, 9, 9, 3), np.uint8), **arrays)
    masked = CameraMap({}, (), ("left_wrist_0_rgb", "right_wrist_0_rgb"))
    with pytest.raises(UsageError, match="the action of the data set has 99 numbers, the policy takes"):
        PolicyBatches(facts, open_episodes(tmp_path), cameras=masked)


def trainer(policy: Path, out: Path, **args: Any) -> Trainer:
    collate, steps = batches(policy)
    module = TrainingModule(dovetail.load(policy, settings={"action_horizon": 4}))
    given = {
        "output_dir": str(out),
        "use_cpu": True,
        "remove_unused_columns": False,
        "report_to": [],
        "disable_tqdm": True,
        "logging_steps": 1,
        "learning_rate": 3e-3,
        "lr_scheduler_type": "constant",
        **args,
    }
    arguments = transformers.TrainingArguments(**given)
    return Trainer(module, arguments, data=steps, val_data=steps, collate=collate, like=policy)


def losses(one: Trainer) -> list[float]:
    return [entry["loss"] for entry in one.state.log_history if "loss" in entry]


def test_it_learns_whatever_the_batches_are(policy: Path, tmp_path: Path) -> None:
    one = trainer(policy, tmp_path / "a", max_steps=9, save_strategy="no", per_device_train_batch_size=5)
    before = one.evaluate()["eval_loss"]
    assert before == one.evaluate()["eval_loss"]
    one.train()
    assert one.evaluate()["eval_loss"] < 0.8 * before
    split = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 5}
    parts = trainer(policy, tmp_path / "b", max_steps=2, save_strategy="no", **split)
    parts.train()
    assert losses(parts) == pytest.approx(losses(one)[:2], abs=1e-5)


WORDS = {
    "data": DATA,
    "camera_map": ["wrist=left_wrist_0_rgb", "=right_wrist_0_rgb"],
    "statistics": "data",
    "settings": {"action_horizon": 4},
    "report_to": [],
    "disable_tqdm": True,
    "use_cpu": True,
    "per_device_train_batch_size": 5,
    "learning_rate": 1e-3,
    "logging_steps": 1,
}


def logged(run: Path) -> list[float]:
    entries = json.loads((run / "last" / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in entries if "loss" in entry]


@pytest.mark.slow
def test_train_saves_a_policy_that_acts_with_the_statistics_of_the_data(policy: Path, tmp_path: Path) -> None:
    """And a run that goes on is the same run, bit by bit."""
    pages: list[str] = []
    whole = tmp_path / "whole"
    words: dict[str, Any] = {**WORDS, "val_data": DATA, "eval_strategy": "steps", "eval_steps": 3}
    words |= {"max_steps": 5, "save_steps": 3}
    dovetail.train(policy, output_dir=whole, show=lambda page: pages.append(write_plain(page)), **words)
    said = "\n".join(pages)
    assert "learns from" in said
    assert "cameras: base is base_0_rgb, wrist is left_wrist_0_rgb" in said
    assert "columns behind the robot's count" in said
    stats = json.loads((whole / "last" / "norm_stats.json").read_text())["norm_stats"]
    assert stats["actions"]["mean"] == pytest.approx([2.7666667, 1.1333333, -1])
    actor = Actor.load(whole / "last")
    step = Steps(open_episodes(DATA), horizon=1)[7]
    seen = {"base": step.cameras["base"].pixels(), "left_wrist": step.cameras["wrist"].pixels()}
    chunk = actor.act(seen, step.instruction, step.state, num_steps=2)
    assert chunk.actions.shape[1] == 3
    assert "norm_stats.json" in str(chunk.statistics)
    part = tmp_path / "part"
    dovetail.train(policy, output_dir=part, resume=str(whole / "checkpoint-3"), **words)
    assert logged(part) == logged(whole)
    assert dovetail.fingerprint(part / "last") == dovetail.fingerprint(whole / "last")


def test_what_training_on_episodes_refuses(policy: Path, tmp_path: Path) -> None:
    def refusal(**words: Any) -> str:
        with pytest.raises(DovetailError) as refused:
            dovetail.train(policy, output_dir=tmp_path / "out", max_steps=1, **{**WORDS, **words})
        return str(refused.value)

    assert "no statistics to normalise states" in refusal(statistics="checkpoint")
    assert "--statistics data measures them" in refusal(statistics="checkpoint")
    assert "--packing is for conversations" in refusal(packing=True)
    assert "there are no statistics `mine`" in refusal(statistics="mine")
    assert "`wrist` is no camera of this policy" in refusal(camera_map=[])
    state = np.zeros((3, 3))
    state[1, 2] = np.nan
    arrays = {"state": state, "actions": np.zeros((3, 3)), "instruction": "go"}
    np.savez(tmp_path / "a.npz", base=np.zeros((3, 9, 9, 3), np.uint8), **arrays)
    assert "1 frame with NaN or infinity: episode 0, frame 1: state" in refusal(data=tmp_path)
    assert not (tmp_path / "out").exists()
