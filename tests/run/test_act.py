"""`act` gives the chunks of openpi and of transformers; statistics, cameras and states of every kind."""

import contextlib
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from PIL import Image
from safetensors.torch import save_file

import dovetail
from dovetail.errors import CheckpointError, UsageError
from dovetail.inputs.framed import cleaned
from dovetail.inputs.images import HALF, normalize
from dovetail.inputs.instruction import steps
from dovetail.run.act import Actor
from files import MODELS
from inputs.golden_images import noise
from parity import assert_near, randomise
from run.beside import PALIGEMMA, sentence_pieces
from tiny_models import TEXT, TOWER

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

GOLDEN = Path(__file__).parents[1] / "golden"
TASK = "pick up the red_block\nand put it into the box "
STATE = [0.3, -0.2, 0.9]
BASE = {"base": noise(40, 56)}
THREE = {
    "base": noise(40, 56),
    "left_wrist": noise(28, 28, seed=1),
    "right_wrist": noise(90, 31, seed=2),
}
NAMES = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")


def paligemma_tokenizer() -> Any:
    return sentence_pieces(PALIGEMMA, "<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")


def policy(folder: Path, family: str = "pi0", layout: str = "openpi", **sizes: int) -> Path:
    """A tiny random policy with a tokenizer beside it."""
    tokenizer = paligemma_tokenizer()
    small = {
        **MODELS[family][0],
        "expert.d_model": 54,
        "vlm.head_dim": 8,
        "vlm.vocab": len(tokenizer),
        **sizes,
    }
    dovetail.make(family, folder, layout=layout, set=small, dtype="float32", seed=4)
    tokenizer.save_pretrained(folder)
    return folder


# -- the same as openpi and transformers


@pytest.mark.parametrize("family", ["pi0", "pi05"])
@pytest.mark.parametrize("row", [0, 1])
def test_a_chunk_is_what_openpi_recorded(family: str, row: int) -> None:
    recorded = dict(np.load(GOLDEN / family / "io.npz"))
    actor = Actor.load(GOLDEN / family)
    seen = recorded["image_masks"][:, row]
    images = {name: recorded["images"][i, row] for i, name in enumerate(NAMES) if seen[i]}
    tokens = recorded["lang_tokens"][row][recorded["lang_masks"][row]].tolist()
    for num_steps, atol in ((4, 2e-5), (10, 2e-4)):
        chunk = actor.act(
            images, tokens, recorded["state"][row], num_steps=num_steps, noise=recorded["noise"][row]
        )
        expected = recorded[f"sample{num_steps}"][row]
        assert_near(torch.from_numpy(chunk.actions), torch.from_numpy(expected), atol=atol)
    assert chunk.missing == tuple(name for i, name in enumerate(NAMES) if not seen[i])
    assert len(chunk.missing) == 1


class Pair(NamedTuple):
    """transformers' PI0 and the folder that it is in."""

    model: Any
    folder: Path
    processor: Any


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """With its processor, whose statistics are of 3 numbers of state and 4 of action."""
    tokenizer = paligemma_tokenizer()
    images = transformers.SiglipImageProcessorPil(size={"height": 28, "width": 28})
    images.image_seq_length = 4
    processor = transformers.PI0Processor(
        images,
        tokenizer,
        state_mean=[0.1, 0.2, 0.3],
        state_std=[0.5, 1.5, 0.7],
        actions_mean=[1.0, 2.0, 3.0, 4.0],
        actions_std=[0.1, 0.2, 0.3, 0.4],
        max_state_dim=5,
        chunk_size=6,
    )
    gemma = {**TEXT, "model_type": "gemma", "num_key_value_heads": 1, "head_dim": 12}
    gemma |= {"vocab_size": len(tokenizer), "eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0}
    vlm = {
        "model_type": "paligemma",
        "vision_config": TOWER,
        "text_config": gemma,
        "projection_dim": 32,
        "image_token_index": processor.image_token_id,
    }
    config = transformers.PI0Config(
        vlm_config=vlm,
        dit_config={**gemma, "hidden_size": 20},
        max_state_dim=5,
        max_action_dim=7,
        chunk_size=6,
    )
    model = randomise(transformers.PI0ForConditionalGeneration(config))
    folder = tmp_path_factory.mktemp("pi0")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Pair(model, folder, processor)


def in_float64(theirs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sines of its time, which transformers has of float32 angles."""

    def forward(t: Any) -> Any:
        share = np.linspace(0, 1, theirs.expert_hidden_size // 2)
        angles = t.double().numpy()[:, None] * 2 * np.pi / (4e-3 * 1000**share)
        return torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles)], axis=1)).float()

    monkeypatch.setattr(theirs.embed_action_time.sinusoid_embeds, "forward", forward)


def test_a_chunk_is_that_of_transformers(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way: text, images of the tower's size, state, statistics, two cameras of three."""
    in_float64(pair.model, monkeypatch)
    begin = torch.randn(1, 6, 7, generator=torch.Generator().manual_seed(5))
    pictures = [noise(28, 28), noise(28, 28, seed=1)]
    inputs = pair.processor(
        images=[[Image.fromarray(one) for one in pictures]],
        text=[cleaned(TASK, "one_line")],
        state=[STATE],
        return_tensors="pt",
    )
    with torch.no_grad():
        expected = pair.model.sample_actions(noise=begin, num_steps=4, **inputs)[0]
    scale = np.array([0.1, 0.2, 0.3, 0.4]), np.array([1.0, 2.0, 3.0, 4.0])
    robot = expected[:, :4].double().numpy() * scale[0] + scale[1]
    chunk = Actor.load(pair.folder).act(
        {"base": pictures[0], "left_wrist": pictures[1]}, TASK, STATE, num_steps=4, noise=begin[0]
    )
    assert_near(torch.from_numpy(chunk.actions), torch.from_numpy(robot).float(), atol=1e-5)
    assert chunk.statistics == "processor_config.json (mean and deviation)"
    assert chunk.notes == (
        "2 zeros behind the state's 3 numbers",
        "4 of 7 action columns are the robot's; the rest is padding",
        "no image of right_wrist_0_rgb: masked",
    )


@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_every_layout_gives_the_same_chunk(family: str, tmp_path: Path) -> None:
    given = policy(tmp_path / "given", family)
    expected = Actor.load(given).act(THREE, TASK, STATE, num_steps=2)
    assert np.isfinite(expected.actions).all()
    assert expected.actions.std() > 0
    for layout in ("openpi", "lerobot", *(("transformers",) if family == "pi0" else ())):
        dovetail.convert(given, tmp_path / layout, to=layout)
        found = Actor.load(tmp_path / layout).act(THREE, TASK, STATE, num_steps=2)
        if family == "pi05" and layout == "lerobot":
            assert "max_state_dim" not in json.loads((tmp_path / layout / "config.json").read_text())
        assert np.array_equal(found.actions, expected.actions), layout


# -- what is said


def test_the_prompt_of_pi0_ends_with_a_line_break(tmp_path: Path) -> None:
    actor, tokenizer = Actor.load(policy(tmp_path / "pi0")), paligemma_tokenizer()
    words = "pick up the red block and put it into the box"
    text = tokenizer(words, add_special_tokens=False)["input_ids"]
    whole = [tokenizer.bos_token_id, *text, tokenizer.convert_tokens_to_ids("<0x0A>")]
    by_text, by_tokens = (actor.act(BASE, told, STATE, num_steps=1) for told in (TASK, whole))
    assert np.array_equal(by_text.actions, by_tokens.actions)
    assert not np.array_equal(actor.act(BASE, "the sea", STATE, num_steps=1).actions, by_text.actions)


def test_the_prompt_of_pi05_has_the_state(tmp_path: Path) -> None:
    folder, tokenizer = policy(tmp_path / "pi05", "pi05"), paligemma_tokenizer()
    actor = Actor.load(folder)
    by_text = actor.act(BASE, "go", [-1.0, 0.0, 1.0], num_steps=1)

    def told(numbers: str) -> list[int]:
        text = f"Task: go, State: {numbers};\nAction: "
        return [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]

    assert np.array_equal(by_text.actions, actor.act(BASE, told("0 128 255"), num_steps=1).actions)
    said = json.loads((folder / "config.json").read_text())  # lerobot's has the width of a state
    (folder / "config.json").write_text(json.dumps({**said, "max_state_dim": 5}))
    padded = Actor.load(folder)
    lerobots = padded.act(BASE, "go", [-1.0, 0.0, 1.0], num_steps=1)
    expected = padded.act(BASE, told("0 128 255 128 128"), num_steps=1)
    assert np.array_equal(lerobots.actions, expected.actions)
    assert "2 zeros behind the state's 3 numbers" in lerobots.notes


def test_the_256_steps_of_a_state() -> None:
    values = np.concatenate([np.linspace(-1.2, 1.2, 1001), [-1, 1]])
    expected = np.digitize(values, bins=np.linspace(-1, 1, 256 + 1)[:-1]) - 1
    assert steps(values) == expected.tolist()
    assert steps(np.array([-1.0, 1.0])) == [0, 255]


# -- cameras


def test_cameras_by_any_name_and_in_any_order(tmp_path: Path) -> None:
    folder = policy(tmp_path / "pi0")
    expected = Actor.load(folder).act(THREE, TASK, STATE, num_steps=1)
    assert expected.cameras == NAMES
    assert expected.missing == ()
    other = {f"observation.images.{name}": image for name, image in zip(NAMES, THREE.values(), strict=True)}
    again = Actor.load(folder).act(dict(reversed(other.items())), TASK, STATE, num_steps=1)
    assert np.array_equal(again.actions, expected.actions)


def test_the_cameras_of_a_lerobot_folder(tmp_path: Path) -> None:
    folder = policy(tmp_path / "pi0", layout="lerobot")
    expected = Actor.load(folder).act(
        {"base": THREE["base"], "left_wrist": THREE["right_wrist"]}, TASK, STATE, num_steps=1
    )
    said = json.loads((folder / "config.json").read_text())
    features = {
        f"observation.images.{name}": {"type": "VISUAL", "shape": [3, 9, 9]} for name in ("top", "grip")
    }
    said["input_features"] = {"observation.state": {"type": "STATE", "shape": [3]}, **features}
    (folder / "config.json").write_text(json.dumps(said))
    step = {"registry_name": "rename_observations_processor"}
    step["config"] = {"rename_map": {"observation.images.wrist": "observation.images.grip"}}
    (folder / "policy_preprocessor.json").write_text(json.dumps({"steps": [step]}))
    actor = Actor.load(folder)
    assert actor.robot.cameras == ("top", "grip")
    chunk = actor.act({"wrist": THREE["right_wrist"], "top": THREE["base"]}, TASK, STATE, num_steps=1)
    assert np.array_equal(chunk.actions, expected.actions)
    with pytest.raises(UsageError, match="`base` is no camera of this policy") as error:
        actor.act(BASE, TASK, STATE)
    assert error.value.hint == "cameras: top, grip; renamed: wrist"


def test_missing_cameras_are_masked_and_said(tmp_path: Path) -> None:
    actor = Actor.load(policy(tmp_path / "pi0"))
    some = {name: image for name, image in THREE.items() if name != "left_wrist"}
    chunk = actor.act(some, TASK, STATE, num_steps=1)
    assert chunk.missing == ("left_wrist_0_rgb",)
    assert "no image of left_wrist_0_rgb: masked" in chunk.notes
    whole = actor.model.prepare(  # as lerobot feeds it: -1 everywhere, and a mask
        [[THREE["base"]], [np.zeros((35, 35, 3), np.uint8)], [THREE["right_wrist"]]],
        [[True], [False], [True]],
        [actor.robot._tokens(TASK, np.array(STATE))],
        torch.ones(1, len(actor.robot._tokens(TASK, np.array(STATE)))).bool(),
        [STATE],
    )
    expected = actor.model.sample_actions(whole, noise=actor._noise(None, 0), num_steps=1)[0]
    assert_near(torch.from_numpy(chunk.actions), expected, atol=1e-5)


WRONG_CAMERAS: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "none": ({}, "no camera is given"),
    "unknown": ({"front": noise(9, 9)}, "`front` is no camera of this policy"),
    "twice": ({"base": noise(9, 9), "base_0_rgb": noise(9, 9)}, "camera `base_0_rgb` is given twice"),
    "part of a word": ({"bas": noise(9, 9)}, "`bas` is no camera of this policy"),
}


@pytest.mark.parametrize("case", WRONG_CAMERAS)
def test_cameras_that_cannot_be(case: str, tmp_path: Path) -> None:
    images, message = WRONG_CAMERAS[case]
    with pytest.raises(UsageError, match=message) as error:
        Actor.load(policy(tmp_path / "pi0")).act(images, TASK, STATE)
    assert case == "twice" or ", ".join(NAMES) in str(error.value)


# -- state and actions


def test_a_state_of_another_width(tmp_path: Path) -> None:
    actor = Actor.load(policy(tmp_path / "pi0"))
    chunk = actor.act(BASE, TASK, STATE, num_steps=1)
    assert "14 zeros behind the state's 3 numbers" in chunk.notes
    assert "no statistics of the state: it is taken as it is given" in chunk.notes
    full = actor.act(BASE, TASK, [*STATE, *[0.0] * 14], num_steps=1)
    assert np.array_equal(full.actions, chunk.actions)
    assert not any("zero" in note for note in full.notes)
    for state, message in (
        ([0.0] * 18, "the state has 18 numbers, the policy 17"),
        ([[1.0], [2.0]], "no row of finite numbers"),
        ([float("nan")], "no row of finite numbers"),
        (None, "this policy needs the state"),
    ):
        with pytest.raises(UsageError, match=message):
            actor.act(BASE, TASK, state)


MEAN, STD = np.array([0.5, -1.0, 2.0]), np.array([2.0, 0.0, 0.25])
LOW, HIGH = np.array([-3.0, 1.0, 0.0]), np.array([5.0, 1.0, 0.5])


def lerobot_files(folder: Path, mode: str, **changes: Any) -> Path:
    """Statistics as lerobot 0.4 keeps them: two pipelines, each with a safetensors file."""
    kinds = {"MEAN_STD": ("mean", "std"), "MIN_MAX": ("min", "max")}
    kinds |= {"QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90"), "IDENTITY": ("mean", "std")}
    values = (MEAN, STD) if mode == "MEAN_STD" else (LOW, HIGH)
    features = {
        "observation.state": {"type": "STATE", "shape": [3]},
        "action": {"type": "ACTION", "shape": [3]},
    }
    for side, name in (("pre", "normalizer_processor"), ("post", "unnormalizer_processor")):
        file = f"policy_{side}processor_step_5_{name}.safetensors"
        tensors = {
            f"{feature}.{kind}": torch.from_numpy(value).float()
            for feature in features
            for kind, value in zip(kinds[mode], values, strict=True)
        }
        save_file(tensors, folder / file)
        norm_map = {"STATE": mode, "ACTION": mode, "VISUAL": "IDENTITY"}
        config = {"eps": 1e-8, "features": features, "norm_map": norm_map, **changes}
        step = {"registry_name": name, "config": config, "state_file": file}
        pipeline = {
            "name": f"policy_{side}processor",
            "steps": [{"registry_name": "to_batch_processor"}, step],
        }
        (folder / f"policy_{side}processor.json").write_text(json.dumps(pipeline))
    return folder


def expected_of(mode: str, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The state that the policy sees and the actions of the robot, by lerobot's formulas."""
    state = np.array(STATE)
    if mode == "IDENTITY":
        return state, actions
    if mode == "MEAN_STD":
        return (state - MEAN) / (STD + 1e-8), actions[:, :3] * STD + MEAN
    gap = np.where(HIGH == LOW, 1e-8, HIGH - LOW)
    return 2 * (state - LOW) / gap - 1, (actions[:, :3] + 1) / 2 * gap + LOW


@pytest.mark.parametrize("mode", ["MEAN_STD", "MIN_MAX", "QUANTILES", "QUANTILE10", "IDENTITY"])
def test_the_statistics_of_lerobot(mode: str, tmp_path: Path) -> None:
    folder = policy(tmp_path / "pi0", layout="lerobot")
    plain = Actor.load(folder)
    chunk = Actor.load(lerobot_files(folder, mode)).act(BASE, TASK, STATE, num_steps=2)
    state, _ = expected_of(mode, np.zeros((1, 13)))
    own = plain.act(BASE, TASK, state, num_steps=2).actions
    expected = expected_of(mode, own.astype(np.float64))[1]
    np.testing.assert_allclose(chunk.actions, expected, rtol=2e-5, atol=1e-5)
    assert (chunk.statistics is None) == (mode == "IDENTITY")
    with pytest.raises(UsageError, match="the state has 4 numbers, its statistics 3"):
        Actor.load(lerobot_files(folder, "MIN_MAX")).act(BASE, TASK, [0.0] * 4)


def test_lerobot_files_without_statistics_change_nothing(tmp_path: Path) -> None:
    folder = policy(tmp_path / "pi0", layout="lerobot")  # as lerobot/pi0_base: no features
    expected = Actor.load(folder).act(BASE, TASK, STATE, num_steps=1)
    found = Actor.load(lerobot_files(folder, "MEAN_STD", features={})).act(BASE, TASK, STATE, num_steps=1)
    assert np.array_equal(found.actions, expected.actions)
    assert found.statistics is None


def openpi_file(path: Path) -> Path:
    one = {"mean": MEAN.tolist(), "std": STD.tolist(), "q01": LOW.tolist(), "q99": HIGH.tolist()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"norm_stats": {"state": one, "actions": one}}))
    return path


@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_the_statistics_of_openpi(family: str, tmp_path: Path) -> None:
    folder = policy(tmp_path / "pi", family)
    plain = Actor.load(folder)
    if family == "pi0":
        state = (np.array(STATE) - MEAN) / (STD + 1e-6)
    else:
        state = (np.array(STATE) - LOW) / (HIGH - LOW + 1e-6) * 2 - 1
    own = plain.act(BASE, TASK, state, num_steps=2).actions[:, :3].astype(np.float64)
    ranges = (own + 1) / 2 * (HIGH - LOW + 1e-6) + LOW
    expected = own * (STD + 1e-6) + MEAN if family == "pi0" else ranges
    elsewhere = openpi_file(tmp_path / "elsewhere" / "norm_stats.json")
    for place in ("norm_stats.json", "assets/droid/norm_stats.json"):
        file = openpi_file(folder / place)
        found = Actor.load(folder).act(BASE, TASK, STATE, num_steps=2)
        np.testing.assert_allclose(found.actions, expected, rtol=2e-5, atol=1e-5)
        words = "mean and deviation" if family == "pi0" else "q01 to q99"
        assert found.statistics == f"{place} ({words})"
        file.unlink()
    for given in (elsewhere, elsewhere.parent):
        found = Actor.load(folder, statistics=given).act(BASE, TASK, STATE, num_steps=2)
        np.testing.assert_allclose(found.actions, expected, rtol=2e-5, atol=1e-5)
    openpi_file(folder / "assets/droid/norm_stats.json")
    openpi_file(folder / "assets/libero/norm_stats.json")
    with pytest.raises(UsageError, match="statistics of 2 data sets") as error:
        Actor.load(folder)
    assert error.value.hint == "name the file of yours with --statistics"


def test_the_statistics_among_the_weights(tmp_path: Path) -> None:
    sizes = {"normalizer.d_robot_state": 3, "normalizer.d_robot_action": 4}
    actor = Actor.load(policy(tmp_path / "old", layout="lerobot-0.3", **sizes))
    chunk = actor.act(BASE, TASK, STATE, num_steps=1)
    assert chunk.actions.shape == (50, 4)
    assert chunk.statistics == "normalizer among the weights (mean and deviation)"
    state = actor.model.normalizer.state(torch.tensor([STATE]))
    tokens = actor.robot._tokens(TASK, state[0].double().numpy())
    inputs = actor.model.prepare([[BASE["base"]]], [[True]], [tokens], [[True] * len(tokens)], state)
    own = actor.model.sample_actions(inputs, noise=actor._noise(None, 0), num_steps=1)
    expected = actor.model.normalizer.actions(own)[0].detach()
    np.testing.assert_allclose(chunk.actions, expected.numpy(), rtol=1e-5, atol=1e-5)


BROKEN = {
    "no file": ("policy_preprocessor_step_5_normalizer_processor.safetensors", None, "is not here"),
    "no JSON": ("policy_preprocessor.json", "[]", "no JSON object"),
    "another file": ("norm_stats.json", "{}", "no statistics of openpi"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_statistics(case: str, tmp_path: Path) -> None:
    name, text, message = BROKEN[case]
    folder = policy(tmp_path / "pi0", layout="lerobot")
    if case != "another file":
        lerobot_files(folder, "MEAN_STD")
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        Actor.load(folder)


def test_an_unknown_way_to_normalise(tmp_path: Path) -> None:
    folder = lerobot_files(policy(tmp_path / "pi0", layout="lerobot"), "MEAN_STD", norm_map={"STATE": "LOG"})
    with pytest.raises(CheckpointError, match="no way to normalise is called `LOG`"):
        Actor.load(folder)


# -- noise, tokens, other models


def test_noise_by_seed_or_by_itself(tmp_path: Path) -> None:
    actor = Actor.load(policy(tmp_path / "pi0"))
    by_seed = [actor.act(BASE, TASK, STATE, num_steps=1, seed=seed).actions for seed in (0, 0, 1)]
    assert np.array_equal(by_seed[0], by_seed[1])
    assert not np.array_equal(by_seed[0], by_seed[2])
    given = torch.randn((1, 50, 13), generator=torch.Generator().manual_seed(1)).numpy()
    for one in (given, given[0]):
        assert np.array_equal(actor.act(BASE, TASK, STATE, num_steps=1, noise=one).actions, by_seed[2])
    with pytest.raises(UsageError, match="the noise does not fit"):
        actor.act(BASE, TASK, STATE, noise=given[:, :, :5])
    with pytest.raises(UsageError, match="in 0 steps"):
        actor.act(BASE, TASK, STATE, num_steps=0)


def test_instructions_that_cannot_be(tmp_path: Path) -> None:
    folder = policy(tmp_path / "pi0")
    actor = Actor.load(folder)
    with pytest.raises(UsageError, match="the policy was made for at most 48"):
        actor.act(BASE, "sea " * 60, STATE)
    with pytest.raises(UsageError, match="token 99999 is none of the policy's"):
        actor.act(BASE, [1, 99999], STATE)
    with pytest.raises(UsageError, match="the instruction is empty"):
        actor.act(BASE, [], STATE)
    shutil.move(folder / "tokenizer.json", tmp_path / "tokenizer.json")
    shutil.copy(folder / "tokenizer_config.json", tmp_path / "tokenizer_config.json")
    with pytest.raises(UsageError, match="no tokenizer beside the weights"):
        Actor.load(folder).act(BASE, TASK, STATE)
    again = Actor.load(folder, tokenizer=tmp_path / "tokenizer.json").act(BASE, TASK, STATE, num_steps=1)
    assert np.array_equal(again.actions, actor.act(BASE, TASK, STATE, num_steps=1).actions)
    with pytest.raises(UsageError, match="there is no tokenizer at"):
        Actor.load(folder, tokenizer=tmp_path / "nowhere")


def test_language_models_do_not_act(tmp_path: Path) -> None:
    dovetail.make("qwen2", tmp_path / "qwen2", set=MODELS["qwen2"][0], dtype="float32")
    with pytest.raises(UsageError, match="TextModel does not act"):
        Actor.load(tmp_path / "qwen2")


def test_images_of_other_sizes_are_resized_and_padded(tmp_path: Path) -> None:
    actor = Actor.load(policy(tmp_path / "pi0"))
    wide = np.full((20, 40, 3), 255, np.uint8)
    pixels = np.full((3, 35, 35), -1, np.float32)
    pixels[:, 9:26] = 1
    by_image = actor.act({"base": wide}, TASK, STATE, num_steps=1)
    by_pixels = actor.act({"base": pixels}, TASK, STATE, num_steps=1)
    assert_near(torch.from_numpy(by_image.actions), torch.from_numpy(by_pixels.actions))
    whole = noise(35, 35)
    same = [actor.act({"base": one}, TASK, STATE, num_steps=1) for one in (whole, normalize(whole, HALF))]
    assert np.array_equal(same[0].actions, same[1].actions)


# -- the command


def run(*words: str | Path, cwd: Path) -> tuple[int, str, str]:
    """A command in this process."""
    from dovetail.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(map(str, words)))
    return code, out.getvalue(), err.getvalue()


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with a policy, an image and a state."""
    policy(tmp_path / "pi0")
    Image.fromarray(BASE["base"]).save(tmp_path / "a.png")
    np.save(tmp_path / "x.npy", np.array(STATE, np.float32))
    return tmp_path


def test_the_command(desk: Path) -> None:
    words = ["act", "pi0", "--camera", "base=a.png", "--instruction", "go", "--steps", 2]
    code, out, err = run(*words, "--state", "x.npy", "--json", "--plot", "chunk.png", cwd=desk)
    assert (code, err) == (0, "wrote chunk.png\n")
    state = np.array(STATE, np.float32).astype(np.float64)
    chunk = Actor.load(desk / "pi0").act(BASE, "go", state, num_steps=2)
    assert json.loads(out) == chunk.as_json()
    picture = np.asarray(Image.open(desk / "chunk.png").convert("L"))
    assert picture.shape[0] > 400
    assert 0.01 < (picture < 128).mean() < 0.3
    code, out, err = run(*words, "--state", "0.3,-0.2,0.9", cwd=desk)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split() == ["step", *map(str, range(13))]
    assert [float(word) for word in lines[1].split()[1:]] == pytest.approx(chunk.actions[0], abs=6e-5)
    assert len(lines) == 51
    assert err.splitlines() == ["statistics: none", *(f"note: {note}" for note in chunk.notes)]


WRONG: Mapping[str, tuple[tuple[str, ...], str]] = {
    "no state": ((), "error: this policy needs the state of the robot\n"),
    "no such state": (("--state", "y.npy"), "error: there is no file `y.npy`\n"),
    "words for a state": (("--state", "a b"), "error: `a b` holds no numbers: could not convert string"),
    "an image for a state": (("--state", "z.npy"), "error: `z.npy` holds no numbers: "),
    "no name": (("--state", "1", "--camera", "a.png"), "error: `--camera a.png` is no camera\n"),
    "no image": (("--state", "1", "--camera", "left_wrist=b.png"), "error: there is no image `b.png`\n"),
    "twice": (("--state", "1", "--camera", "base=a.png"), "error: camera `base` is given twice\n"),
    "no picture": (("--state", "1", "--plot", "a.txt"), "error: `a.txt` is no picture\n"),
    "no folder": (("--state", "1", "--plot", "b/a.png"), "error: there is no folder `b`\n"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_commands(case: str, desk: Path) -> None:
    words, message = WRONG[case]
    shutil.copy(desk / "a.png", desk / "z.npy")
    code, out, err = run("act", "pi0", "--camera", "base=a.png", "--instruction", "go", *words, cwd=desk)
    assert (code in (1, 2), out) == (True, "")
    assert err[: len(message)] == message


def test_the_verb_is_a_function_too(desk: Path) -> None:
    cameras = {"base": np.asarray(Image.open(desk / "a.png"))}
    expected = Actor.load(desk / "pi0").act(cameras, "go", np.load(desk / "x.npy"), num_steps=2, seed=5)
    state = np.load(desk / "x.npy")
    found = dovetail.act(desk / "pi0", cameras, instruction="go", state=state, steps=2, seed=5)
    assert found.as_json() == expected.as_json()
