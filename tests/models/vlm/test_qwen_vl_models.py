"""The Qwen-VL families equal transformers on tiny models of many shapes, and however they are run."""

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file

import dovetail
from dovetail.errors import UsageError
from dovetail.inputs.mrope import mrope_positions
from dovetail.models.rotary import frequencies
from dovetail.models.taps import tapped
from dovetail.models.vlm.qwen3_vl import dealt, interleaved_rotation
from dovetail.run.engine import generate
from inputs.golden_images import noise
from models.running import check_running
from models.vlm.qwen_originals import CASES, IMAGE, ORIGINALS, VIDEO, theirs
from parity import assert_near, loaded
from run.tiny import SETTINGS, SIZES

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

# No row ends with an image: transformers 5.23 decodes from the last position of each axis instead of the largest.
# No two images touch: there it fails in two of the families.
ROWS = [[5, IMAGE, 17, IMAGE, 41], [8, 20, 7], [33, 4, 96, IMAGE, 3]]
PICTURES = [[noise(20, 33), noise(41, 12, seed=1)], [], [noise(19, 19, seed=2)]]


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def pair(request: Any, tmp_path_factory: Any) -> tuple[Any, Any]:
    family, shape = request.param
    one = ORIGINALS[family][0](shape)
    settings = {"min_pixels": 200, "max_pixels": 700}
    model = loaded(one, tmp_path_factory.mktemp("model"), settings=settings)
    assert model.values.family.id == family
    return one, model


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_and_taps(pair: tuple[Any, Any], side: str) -> None:
    original, model = pair
    inputs = model.prepare(ROWS, PICTURES, pad=side)
    names = ["vision.blocks.?", "merger", "text.blocks.?", "text.norm"]
    with torch.no_grad():
        expected = original(**theirs(inputs), output_hidden_states=True)
        seen = original.model.visual(inputs["pixels"], inputs["grids"], output_hidden_states=True)
        with tapped(model, *names) as taps:
            logits = model(**inputs)
    assert_near(logits, expected.logits, inputs["valid"])
    assert_near(taps["merger"], seen.pooler_output)
    assert_near(taps["text.norm"], expected.hidden_states[-1], inputs["valid"])
    if "windows" not in dir(model.vision):  # whose patches stand in another order inside (towers' own tests)
        for i, state in enumerate(seen.hidden_states[1:-1]):
            assert_near(taps[f"vision.blocks.{i}"], state)
    for i, state in enumerate(expected.hidden_states[1:-1]):
        assert_near(taps[f"text.blocks.{i}"], state, inputs["valid"])


def test_text_alone(pair: tuple[Any, Any]) -> None:
    original, model = pair
    inputs = model.prepare([[5, 17, 41, 2], [8, 20]])
    assert model.embed(**inputs).added is None
    with torch.no_grad():
        assert_near(model(**inputs), original(**theirs(inputs)).logits, inputs["valid"])


@pytest.mark.parametrize(("rows", "pictures"), [(ROWS, PICTURES), ([[5, 17, 41, 2], [8, 20]], ())])
def test_greedy_tokens(pair: tuple[Any, Any], rows: Any, pictures: Any) -> None:
    inputs = pair[1].prepare(rows, pictures)
    expected = pair[0].generate(**theirs(inputs), max_new_tokens=6, do_sample=False)
    found = generate(pair[1], inputs, max_new_tokens=6)
    assert found == expected[:, inputs["tokens"].shape[1] :].tolist()


def test_every_way_of_running(pair: tuple[Any, Any]) -> None:
    check_running(pair[1], ROWS, PICTURES, vocab=IMAGE)


def test_images_that_touch_follow_each_other() -> None:
    """Where nothing stands between two images; transformers 5.23 fails there in two of the families."""
    row = [1, *[9] * 6, *[9] * 2, 2]
    assert mrope_positions(row, [(1, 4, 6), (1, 4, 2)], 9, 2).tolist() == [
        [0, 1, 1, 1, 1, 1, 1, 4, 4, 6],
        [0, 1, 1, 1, 2, 2, 2, 4, 5, 6],
        [0, 1, 2, 3, 1, 2, 3, 4, 4, 6],
    ]


def test_a_video_is_refused(pair: tuple[Any, Any]) -> None:
    with pytest.raises(UsageError, match=f"a row holds token {VIDEO}, a video; videos are not written here"):
        pair[1].prepare([[5, VIDEO]])


@pytest.mark.parametrize("sections", [[24, 20, 20], [2, 2, 2], [3, 1, 1], [3, 2, 2], [2, 2, 1]])
def test_angles_are_dealt_as_transformers_deals_them(sections: list[int]) -> None:
    config = ORIGINALS["qwen3_vl"][0]("one-level").config.text_config
    config.rope_parameters = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": sections}
    config.head_dim = 2 * sum(sections)
    rope = transformers.models.qwen3_vl.modeling_qwen3_vl.Qwen3VLTextRotaryEmbedding(config)
    positions = torch.randint(0, 50, (3, 2, 7), generator=torch.Generator().manual_seed(1))
    cos, sin = rope(torch.zeros(1), positions)
    frequency = frequencies(config.head_dim, 1e4)
    found = interleaved_rotation(positions, frequency, sections, torch.float32)
    assert_near(found.cos, cos)
    assert_near(found.sin, sin)


@pytest.mark.parametrize("sections", [[1, 2, 2], [0, 3, 3], [2, 1, 3], [4, 2]])
def test_sections_that_cannot_be_dealt_are_refused(sections: list[int]) -> None:
    with pytest.raises(UsageError) as error:
        dealt(sections)
    assert str(error.value) == (
        f"rotary sections {sections} cannot be dealt in turn to time, height and width\n\n"
        "hint: give --set mrope_section=T,H,W"
    )


WRONG = {
    "sections": (
        {"mrope_section": [4, 2, 2]},
        r"rotary sections \[4, 2, 2\] are not the 7 frequencies of a head",
    ),
    "levels": ({"deepstack.vision_layers": [1]}, r"2 mergers cannot stand behind the layers \[1\]"),
}


@pytest.mark.parametrize("case", WRONG)
def test_settings_that_do_not_fit_are_refused(case: str, tmp_path: Any) -> None:
    given, message = WRONG[case]
    dovetail.make("qwen3_vl", tmp_path / "m", set=SIZES["qwen3_vl"][0], dtype="float32")
    with pytest.raises(UsageError, match=message):
        run_text(tmp_path / "m", {**SETTINGS["qwen3_vl"], **given})


def run_text(folder: Any, settings: dict[str, Any]) -> Any:
    model = dovetail.load(folder, settings=settings)
    return model(**model.prepare([[5, 9]]))


def test_a_merger_behind_which_no_layer_stands_is_unreachable(tmp_path: Any) -> None:
    """Three levels and a decoder of two layers: what the third puts out is added nowhere, as in transformers."""
    sizes = {**SIZES["qwen3_vl"][0], "text.layers": 2, "deepstack.levels": 3}
    dovetail.make("qwen3_vl", tmp_path / "m", set=sizes, dtype="float32", seed=1)
    model = dovetail.load(tmp_path / "m", settings=SETTINGS["qwen3_vl"])
    third = {name for name, _ in model.deepstack["2"].named_parameters(prefix="deepstack.2")}
    assert set(model.unreachable) == third
    inputs = model.prepare([[5, model.config.image_token, 7, 8]], [[noise(23, 31)]])
    model.loss(inputs, inputs["tokens"] % 211).backward()
    assert {name for name, one in model.named_parameters() if not one.grad.any()} == third


@pytest.mark.parametrize("family", ORIGINALS)
def test_a_bare_model_is_whole_runs_and_comes_back_to_the_byte(family: str, tmp_path: Path) -> None:
    """`Qwen2VLModel` and its like: no `model.` before the names, and no head."""
    shape = next(shape for one, shape in CASES if one == family)
    bare = ORIGINALS[family][0](shape).model
    mine = loaded(bare, tmp_path / "saved", settings={"min_pixels": 200, "max_pixels": 700})
    report = dovetail.validate(tmp_path / "saved")
    assert (report.family, report.layout, report.is_whole) == (family, "hf-base", True)
    inputs = mine.prepare(ROWS, PICTURES)
    with torch.no_grad():
        expected = bare(**theirs(inputs)).last_hidden_state
        assert_near(mine.hidden(mine.embed(**inputs)), expected, inputs["valid"])
    dovetail.convert(tmp_path / "saved", tmp_path / "there", to="hf")
    dovetail.convert(tmp_path / "there", tmp_path / "back", to="hf-base")
    before, after = (load_file(tmp_path / one / "model.safetensors") for one in ("saved", "back"))
    assert {name: one.numpy().tobytes() for name, one in after.items()} == {
        name: one.numpy().tobytes() for name, one in before.items()
    }
