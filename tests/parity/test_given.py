"""verify with what somebody gives: cameras, a state, noise, a prompt, another resolution, a backend of theirs."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dovetail
from commands import Answer
from commands import dovetail as command
from dovetail.cli import main
from dovetail.errors import UsageError
from dovetail.parity.backends import backend
from dovetail.parity.given import Given, chosen_inputs
from inputs.golden_images import noise
from run.tiny import SETTINGS, SIZES

SPEED = ("--dtype", "float32")  # what is given matters here, not what rounding does


@pytest.fixture(scope="module")
def pi0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pi0, with images, a state and noise beside it."""
    folder = tmp_path_factory.mktemp("pi0")
    dovetail.make("pi0", folder / "it", set=SIZES["pi0"][0], dtype="float32", seed=1)
    Image.fromarray(noise(30, 40)).save(folder / "base.png")
    Image.fromarray(noise(25, 21, seed=1)).save(folder / "wrist.png")
    np.save(folder / "state.npy", np.linspace(-1, 1, 9))
    np.save(folder / "noise.npy", np.random.default_rng(3).standard_normal((50, 13)))
    return folder


def verified(folder: Path, *words: str) -> dict[str, Any]:
    """The JSON of a command that is to succeed, run in the folder."""
    answer = in_folder(folder, "verify", "it", *SPEED, "--json", *words)
    assert answer.code == 0, answer.err
    values: dict[str, Any] = json.loads(answer.out)
    return values


def in_folder(folder: Path, *words: str) -> Answer:
    return command(*words, cwd=folder)


def shapes(values: dict[str, Any]) -> dict[str, list[int]]:
    return {stage["stage"]: stage["shape"] for stage in values["stages"]}


def test_a_policy_sees_the_cameras_state_and_noise_of_files(pi0: Path) -> None:
    files = ["--camera", "base=base.png", "--camera", "left_wrist=wrist.png", "--state", "state.npy"]
    files += ["--noise", "noise.npy"]
    values = verified(pi0, *files, "--tokens", "2,7,9", "--time", "0.25")
    assert values["good"]
    # two cameras of 16 patches and three tokens; a token of state and 50 of noise
    assert (shapes(values)["prefix"][1], shapes(values)["suffix"][1]) == (2 * 16 + 3, 51)
    assert "no image of right_wrist_0_rgb: masked" in values["note"]
    assert "8 zeros behind the state's 9 numbers" in values["note"]
    model = dovetail.load(pi0 / "it", dtype="float32")
    given = Given(
        prompt=[2, 7, 9],
        cameras={"base": noise(30, 40), "left_wrist": noise(25, 21, seed=1)},
        state=np.linspace(-1, 1, 9),
        noise=np.load(pi0 / "noise.npy"),
        time=0.25,
    )
    inputs = chosen_inputs(model, pi0 / "it", given).inputs
    assert inputs["t"].tolist() == [0.25]
    assert inputs["image_masks"].tolist() == [[True], [True]]
    np.testing.assert_allclose(inputs["x_t"][0].numpy(), np.load(pi0 / "noise.npy"), rtol=1e-6)
    np.testing.assert_allclose(inputs["state"][0, :9].numpy(), np.linspace(-1, 1, 9), rtol=1e-6)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--camera", "base=base.png"), "a policy is told what to do"),
        (("--tokens", "2,7", "--camera", "base=base.png"), "this policy needs the state of the robot"),
        (("--tokens", "2,7", "--state", "0.1,0.2"), "no camera is given"),
        (
            ("--tokens", "2,7", "--state", "0.1", "--camera", "rear=base.png"),
            "`rear` is no camera of this policy",
        ),
        (("--prompt", "go", "--state", "0.1", "--camera", "base=base.png"), "there is no tokenizer"),
        (("--image", "base.png"), "a policy has cameras"),
        (("--noise", "state.npy"), "the noise does not fit"),
        (("--noise", "none.npy"), "there is no file `none.npy`"),
        (("--time", "1.5"), "1.5 is no time"),
        (("--camera", "base"), "`--camera base` is no camera"),
        (("--interpolation", "cubic"), "positions cannot be interpolated `cubic`"),
        (("--resolution", "3"), "images of 3 pixels have no patch of 5"),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, tuple) else "",
)
def test_what_does_not_fit_a_policy_is_said(words: tuple[str, ...], message: str, pi0: Path) -> None:
    answer = in_folder(pi0, "verify", "it", *words)
    assert (answer.code, answer.out) == (2, "")
    assert f"error: {message}" in answer.err


def test_images_at_another_resolution(pi0: Path) -> None:
    """A tower of 4 x 4 patches of 5 pixels sees 3 x 3 of them; positions are interpolated as it is said."""
    ways: dict[str, float] = {}
    for words, way in (
        (("--resolution", "15"), "bicubic"),
        (("--resolution", "15", "--interpolation", "bicubic-antialias"), "bicubic-antialias"),
    ):
        values = verified(pi0, *words)
        edge = int(words[1])
        patches = (edge // 5) ** 2
        assert shapes(values)["vision.patch_embed"][2:] == [edge // 5] * 2
        assert shapes(values)["vision.blocks.0"][1] == patches
        assert f"images of {edge} x {edge} pixels" in values["note"]
        assert f"its 16 positions are interpolated: {way}" in values["note"]
        settings = {"vision.image_size": edge, "vision.antialias": way == "bicubic-antialias"}
        model = dovetail.load(pi0 / "it", dtype="float32", settings=settings)
        with torch.no_grad():
            ways[" ".join(words)] = float(model.vision(torch.ones(1, 3, edge, edge)).sum())
    assert len(set(ways.values())) == 2


@pytest.mark.parametrize(
    ("family", "sizes", "count"),
    [
        ("paligemma", SIZES["paligemma"][0], 49),
        ("llava", SIZES["llava"][0], 49),
        ("siglip", SIZES["siglip"][0], 49),
        ("dinov2", SIZES["dinov2"][0], 49),
    ],
)
def test_every_square_tower_may_see_another_resolution(
    family: str, sizes: dict[str, Any], count: int, tmp_path: Path
) -> None:
    dovetail.make(family, tmp_path / "it", set=sizes, dtype="float32")
    given = [
        word for name, value in SETTINGS.get(family, {}).items() for word in ("--set", f"{name}={value}")
    ]
    values = verified(tmp_path, "--resolution", "35", *given)
    assert shapes(values)["vision.patch_embed"][2:] == [7, 7]
    expected = count + {"llava": 1, "dinov2": 3}.get(family, 0)
    assert shapes(values)["vision.blocks.0"][1] == expected


def test_images_of_their_own_size_have_no_resolution(tmp_path: Path) -> None:
    dovetail.make("qwen2_vl", tmp_path / "it", set=SIZES["qwen2_vl"][0])
    answer = in_folder(tmp_path, "verify", "it", "--resolution", "384")
    assert answer.code == 2
    assert "no tower of this checkpoint has positions for squares of one size" in answer.err


def test_a_tower_alone_takes_images(tmp_path: Path) -> None:
    dovetail.make("siglip", tmp_path / "it", set=SIZES["siglip"][0], dtype="float32")
    for i in range(2):
        Image.fromarray(noise(20, 30, seed=i)).save(tmp_path / f"{i}.png")
    values = verified(tmp_path, "--image", "0.png", "--image", "1.png")
    assert shapes(values)["vision.blocks.0"][0] == 2
    for words, message in (
        (("--tokens", "1,2"), "this model reads no tokens"),
        (("--state", "1,2"), "--state are for policies"),
    ):
        answer = in_folder(tmp_path, "verify", "it", *words)
        assert (answer.code, message in answer.err) == (2, True), answer.err


# What somebody else's package holds: a backend that runs in float64, with a mistake that its options plant.
PACKAGE = '''
"""Runs stages in float64."""

from copy import deepcopy

import torch

from dovetail.parity.measures import Tolerance


class Doubles:
    name = "doubles"
    note = "in float64"

    def __init__(self, *, dtype, device):
        if dtype != "float32":
            raise ValueError(f"no {dtype} here")
        self.tolerance = Tolerance(pcc=0.9999, relative=1e-5)

    def compile(self, stage, example):
        twin = deepcopy(stage).double()

        def run(*tensors):
            there = [one.double() if one.is_floating_point() else one for one in tensors]
            with torch.no_grad():
                return tuple(one.float() for one in twin(*there))

        return run


class Wrong(Doubles):
    name = "wrong"

    def compile(self, stage, example):
        run = super().compile(stage, example)
        return lambda *tensors: tuple(one * 1.5 for one in run(*tensors))


class Nothing:
    def __init__(self, *, dtype, device):
        self.name = 7
'''


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A text model, and a package of somebody else that can be imported."""
    package = tmp_path / "elsewhere" / "their_engine"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "parity.py").write_text(PACKAGE)
    (package / "broken.py").write_text("import package_that_nobody_has")
    dovetail.make("qwen3", tmp_path / "it", set=SIZES["qwen3"][0], dtype="float32")
    monkeypatch.syspath_prepend(package.parent)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("their_engine")]:
        del sys.modules[name]


def test_a_backend_of_another_package(theirs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = dovetail.verify(theirs / "it", "their_engine.parity:Doubles").as_json()
    assert (found["backend"], found["note"], found["good"]) == ("doubles", "in float64", True)
    assert found["tolerance"] == {"pcc": 0.9999, "relative_norm": 1e-5}
    words = ["verify", str(theirs / "it"), *SPEED, "--backend", "their_engine.parity:Wrong"]
    assert main(words) == 1
    assert "first divergent stage: text.embed (prefill): differs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "their_engine.parity:Nothing",
            "Nothing` is no backend: name, tolerance, compile are not as it must be",
        ),
        ("their_engine.parity:None_", "AttributeError: module 'their_engine.parity' has no attribute"),
        ("their_engine.broken:Any", "ModuleNotFoundError: No module named 'package_that_nobody_has'"),
        ("nowhere:Any", "ModuleNotFoundError: No module named 'nowhere'"),
        (":Any", "cannot be used: ValueError"),
        ("their_engine.parity:Doubles", "ValueError: no bfloat16 here"),
    ],
)
def test_what_is_no_backend_is_said(name: str, message: str, theirs: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        backend(name, dtype="bfloat16")


def test_given_inputs_of_a_language_model(tmp_path: Path) -> None:
    dovetail.make("qwen3", tmp_path / "it", set=SIZES["qwen3"][0], dtype="float32")
    model = dovetail.load(tmp_path / "it", dtype="float32")
    assert chosen_inputs(model, tmp_path / "it", Given(prompt=[5, 9])).inputs["tokens"].tolist() == [[5, 9]]
    for given, message in (
        (Given(prompt="hi"), "there is no tokenizer beside the weights"),
        (Given(images=[noise(9, 9)]), "images belong to a prompt"),
        (Given(time=0.5), "--time are for policies"),
    ):
        with pytest.raises(UsageError, match=message):
            chosen_inputs(model, tmp_path / "it", given)
