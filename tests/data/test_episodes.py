"""Episodes: data sets that lerobot wrote and plain folders give the same samples; broken ones one error."""

import json
import pickle
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pyarrow")

from dovetail.data.episodes import Episodes, Steps, is_episodes, open_episodes
from dovetail.errors import DovetailError, FormatError, MissingError, UnsafeError, UsageError
from dovetail.inputs.image_file import read_image_bytes

LEROBOT = Path(__file__).parents[1] / "golden" / "lerobot"
FORMS = ["v2.1-image", "v3.0-image"]


def written(folder: Path, episodes: Episodes, *, images: bool = True) -> Path:
    """The same data set as a plain folder; images as arrays."""
    folder.mkdir()
    steps = Steps(episodes, horizon=1)
    first = 0
    for i, length in enumerate(episodes.lengths):
        recorded = episodes.numbers(i)
        seen = [steps[first + j].cameras for j in range(length)]
        cameras = {name: np.stack([one[name].pixels() for one in seen]) for name in episodes.cameras}
        np.savez(
            folder / f"{i:03}.npz",
            state=recorded.state,
            actions=recorded.actions,
            instruction=recorded.instructions[0],
            **(cameras if images else {}),
        )
        first += length
    return folder


def test_every_form_gives_the_same_samples(tmp_path: Path) -> None:
    first = open_episodes(LEROBOT / "v3.0-image")
    older = tmp_path / "v2.0"
    shutil.copytree(LEROBOT / "v2.1-image", older)
    info = json.loads((older / "meta/info.json").read_text())
    (older / "meta/info.json").write_text(json.dumps({**info, "codebase_version": "v2.0"}))
    (older / "meta/episodes_stats.jsonl").unlink()
    others = [open_episodes(LEROBOT / "v2.1-image"), open_episodes(older)]
    others.append(open_episodes(written(tmp_path / "plain", first)))
    assert [one.form for one in others] == ["lerobot v2.1", "lerobot v2.0", "one .npz file for each episode"]
    assert first.lengths == (5, 3, 7)
    assert first.cameras == ("base", "wrist")
    assert first.state_names == ("x", "y", "grip")
    reference = Steps(first, horizon=4)
    for episodes in others:
        assert episodes.fingerprint == first.fingerprint
        steps = Steps(pickle.loads(pickle.dumps(episodes)), horizon=4)
        assert len(steps) == len(reference) == 15
        for one, two in zip(reference, steps, strict=True):
            assert (one.episode, one.frame, one.instruction) == (two.episode, two.frame, two.instruction)
            for name in ("state", "actions", "is_past"):
                assert np.array_equal(getattr(one, name), getattr(two, name)), name
            for name in first.cameras:
                assert np.array_equal(one.cameras[name].pixels(), two.cameras[name].pixels())


def test_a_chunk_ends_as_lerobot_has_it() -> None:
    steps = Steps(open_episodes(LEROBOT / "v3.0-image"), horizon=4)
    step = steps[6]  # the second frame of the second episode, which has three
    assert step.instruction == "put it down"
    assert step.actions[:, 0].tolist() == [1.5, 2.5, 2.5, 2.5]
    assert step.is_past.tolist() == [False, False, True, True]
    assert step.cameras["base"].pixels()[0, 0].tolist() == [25, 25, 25]
    assert step.place.endswith("v3.0-image, episode 1, frame 1")
    assert steps[-1].state.tolist() == [6, 2, 0.5]
    with pytest.raises(IndexError):
        steps[15]


@pytest.mark.parametrize("name", ["v2.1-video", "v3.0-video"])
def test_videos(name: str) -> None:
    """Frames lie near those of the images where PyAV is; elsewhere one error says what is missing."""
    steps = Steps(open_episodes(LEROBOT / name), horizon=2)
    assert steps.episodes.fingerprint == open_episodes(LEROBOT / "v3.0-image").fingerprint
    if find_spec("av") is None:
        with pytest.raises(UsageError, match="need PyAV") as refused:
            steps[0]
        assert refused.value.hint == "pip install av; or convert the data set so that its frames are images"
        return
    images = Steps(open_episodes(LEROBOT / "v3.0-image"), horizon=2)
    for one, two in zip(images, steps, strict=True):
        for camera in ("base", "wrist"):
            apart = one.cameras[camera].pixels().astype(int) - two.cameras[camera].pixels()
            assert np.abs(apart).max() <= 3


def test_a_plain_folder_names_image_files(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (6, 4), (9, 8, 7)).save(tmp_path / "a.png")
    arrays = {"state": np.zeros((2, 3)), "actions": np.ones((2, 2)), "instruction": np.array(["go", "stop"])}
    np.savez(tmp_path / "one.npz", front=np.array(["a.png", "a.png"]), **arrays)
    step = Steps(open_episodes(tmp_path), horizon=3)[1]
    assert step.instruction == "stop"
    assert step.cameras["front"].pixels()[0, 0].tolist() == [9, 8, 7]
    np.savez(tmp_path / "one.npz", front=np.array(["../a.png", "a.png"]), **arrays)
    with pytest.raises(UnsafeError, match="points outside"):
        Steps(open_episodes(tmp_path), horizon=3)[0]


ARRAYS: dict[str, Any] = {"state": np.zeros((4, 3)), "actions": np.zeros((4, 2)), "instruction": "go"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"state": None}, "the episode has no state"),
        ({"actions": np.zeros((3, 2))}, "`state` is no array of an episode of 3 frames"),
        ({"state": np.zeros(4)}, "`state` is no array of an episode of 4 frames"),
        ({"front": np.zeros((4, 6, 6, 3))}, "`front` is no array of an episode of 4 frames"),
        ({"state": np.array([[object()] * 3] * 4)}, "objects of Python"),
        ({"instruction": np.array(["a", "b"])}, "`instruction` is no array of an episode of 4 frames"),
    ],
)
def test_a_broken_plain_folder(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    arrays = {name: value for name, value in {**ARRAYS, **change}.items() if value is not None}
    np.savez(tmp_path / "one.npz", **arrays)
    with pytest.raises(FormatError) as refused:
        open_episodes(tmp_path)
    assert said in refused.value.message


def test_folders_that_hold_no_episodes(tmp_path: Path) -> None:
    assert is_episodes(LEROBOT / "v3.0-image")
    assert not is_episodes(tmp_path)
    with pytest.raises(UsageError, match="holds no episodes"):
        open_episodes(tmp_path)
    with pytest.raises(MissingError, match="no such folder"):
        open_episodes(tmp_path / "none")
    np.savez(tmp_path / "a.npz", **ARRAYS)
    np.savez(tmp_path / "b.npz", **{**ARRAYS, "state": np.zeros((4, 7))})
    with pytest.raises(FormatError, match="other arrays than the first one"):
        open_episodes(tmp_path)
    (tmp_path / "b.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:300])
    with pytest.raises(FormatError, match="cannot be read"):
        open_episodes(tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_a_broken_data_set_of_lerobot(tmp_path: Path, form: str) -> None:
    def changed(**values: Any) -> Path:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(LEROBOT / form, folder)
        info = json.loads((folder / "meta/info.json").read_text())
        (folder / "meta/info.json").write_text(json.dumps({**info, **values}))
        return folder

    def refusal(folder: Path) -> str:
        with pytest.raises(DovetailError) as refused:
            Steps(open_episodes(folder), horizon=2)[-1]
        return f"{type(refused.value).__name__}: {refused.value.message}"

    features = json.loads((LEROBOT / form / "meta/info.json").read_text())["features"]
    assert refusal(changed(codebase_version="v1.6")) == "UsageError: the data set is of version v1.6"
    assert "`data_path` in meta/info.json is no path" in refusal(changed(data_path="{episode_index.real}"))
    assert "points outside" in refusal(changed(data_path="../../etc/passwd"))
    lost = {name: one for name, one in features.items() if name != "action"}
    assert refusal(changed(features=lost)) == "UsageError: the data set has no `action`"
    cut = changed()
    sorted(cut.glob("data/*/*.parquet"))[-1].unlink()
    assert refusal(cut) == "MissingError: a file of the data set is missing"
    half = changed()
    for file in half.glob("data/*/*.parquet"):
        file.write_bytes(file.read_bytes()[:999])
    assert "the file is no parquet" in refusal(half)
    swapped = changed()
    files = sorted(swapped.glob("data/*/*.parquet"))
    shutil.copy(files[0], files[-1])
    assert refusal(swapped) == "FormatError: the rows are not those of the episode"


def test_nan_is_named(tmp_path: Path) -> None:
    state = np.zeros((4, 3))
    state[2, 1] = np.nan
    np.savez(tmp_path / "one.npz", **{**ARRAYS, "state": state})
    steps = Steps(open_episodes(tmp_path), horizon=2)
    assert steps[1].frame == 1
    with pytest.raises(FormatError, match="the state holds NaN") as refused:
        steps[2]
    assert refused.value.details["where"].endswith("episode 0, frame 2")


def test_only_the_wanted_frame_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    monkeypatch.setattr(
        "dovetail.data.sample.read_image_bytes",
        lambda content, name: decoded.append(name) or read_image_bytes(content, name),
    )
    step = Steps(open_episodes(LEROBOT / "v2.1-image"), horizon=2)[9]
    assert not decoded
    step.cameras["wrist"].pixels()
    assert len(decoded) == 1
