"""Inputs that do not fit are refused by name, with what to do."""

from typing import Any

import numpy as np
import pytest

from dovetail.errors import UsageError
from inputs.every_family import LANGUAGE, TEXT, inputs_for
from inputs.golden_images import noise

IMAGE = noise(20, 30)
READERS = [*LANGUAGE, *TEXT]


@pytest.fixture(params=READERS)
def inputs(request: Any) -> Any:
    return inputs_for(request.param)


def refused(call: Any, *given: Any, **more: Any) -> str:
    with pytest.raises(UsageError) as error:
        call(*given, **more)
    return str(error.value)


@pytest.mark.parametrize("token", [211, -1, 10**9])
def test_a_token_outside_the_vocabulary(inputs: Any, token: int) -> None:
    expected = f"token {token} is none of the model's 211\n  source  row 1\n\nhint: ids count from 0"
    assert refused(inputs, [[5, 6], [7, token]]) == expected
    assert inputs([[0, 210]])["tokens"].tolist() == [[0, 210]]


def test_placeholders_may_lie_outside() -> None:
    assert inputs_for("prismatic").image_token == -200
    assert inputs_for("qwen2_vl").image_token == 151655 > 211


def test_a_side_that_there_is_not(inputs: Any) -> None:
    assert refused(inputs, [[5]], pad="Left") == (
        'rows cannot be padded on the side `Left`\n\nhint: give pad="left"'
    )
    assert refused(inputs, [[5]], pad="middle").startswith("rows cannot be padded on the side `middle`")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("input_ids", "what Hugging Face calls `input_ids` is made from `tokens` here"),
        ("pixel_values", "what Hugging Face calls `pixel_values` is made from `images` here"),
        ("padding_side", "what Hugging Face calls `padding_side` is made from `pad` here"),
        ("attention_mask", "`valid` is made here, from tokens and images; leave `attention_mask` out"),
        ("image_grid_thw", "`grids` is made here, from tokens and images; leave `image_grid_thw` out"),
        ("anything", "arguments: tokens, images, pad, suffixes"),
    ],
)
def test_words_of_hugging_face(inputs: Any, name: str, hint: str) -> None:
    assert refused(inputs, **{name: [[5]]}) == f"inputs are made from no `{name}`\n\nhint: {hint}"


def test_a_model_names_its_inputs_too() -> None:
    pytest.importorskip("torch")
    from dovetail.models import build
    from inputs.every_family import values_for

    model = build(values_for("qwen2"))
    assert refused(model, input_ids=None) == (
        "a model takes no `input_ids`\n\n"
        "hint: it is `tokens` here; model.prepare(tokens, images) makes all inputs"
    )


@pytest.mark.parametrize("tokens", [[5, 6], ["hello"], [[5.0]], [[True]], ["5"], [[[5]]], [None]])
def test_what_is_no_row_of_tokens(inputs: Any, tokens: Any) -> None:
    assert refused(inputs, tokens).startswith("row 0 is no row of token ids\n  expected  whole numbers\n")


def test_no_row_or_an_empty_one(inputs: Any) -> None:
    for tokens in ([], [[]], [[5], []]):
        assert "at least one row, and a row at least one token" in refused(inputs, tokens)


def test_rows_may_be_arrays(inputs: Any) -> None:
    array = np.array([[5, 6], [7, 8]])
    assert inputs(array)["tokens"].tolist() == array.tolist()
    assert inputs(tuple(map(tuple, array.tolist())))["tokens"].tolist() == array.tolist()


@pytest.mark.parametrize("id", TEXT)
def test_an_image_for_a_text_model(id: str) -> None:
    inputs = inputs_for(id)
    expected = f"{id} is a text model: it takes no images\n\nhint: leave the images out"
    assert refused(inputs, [[5]], [[IMAGE]]) == expected
    assert refused(inputs.num_features, 20, 30) == expected
    assert refused(inputs.expanded, [5], [(20, 30)]) == expected


@pytest.mark.parametrize("id", LANGUAGE)
@pytest.mark.parametrize(
    ("image", "found"),
    [
        (IMAGE / 255.0, "float64 (20, 30, 3)"),
        (IMAGE.transpose(2, 0, 1), "uint8 (3, 20, 30)"),
        (IMAGE[:, :, 0], "uint8 (20, 30)"),
        ("photo.jpg", "str"),
    ],
    ids=["floats", "channels-first", "grey", "path"],
)
def test_an_image_that_is_not_decoded(id: str, image: Any, found: str) -> None:
    inputs = inputs_for(id)
    rows = [[5], [5, inputs.image_token, inputs.image_token]]
    message = refused(inputs, rows, [[], [IMAGE, image]])
    assert message.startswith(
        f"not a decoded image\n  expected  uint8 (height, width, 3)\n  found     {found}\n"
        "  source    image 1 of row 1\n"
    )


@pytest.mark.parametrize("id", LANGUAGE)
def test_images_without_rows_or_for_other_rows(id: str) -> None:
    inputs = inputs_for(id)
    assert refused(inputs, [[5, inputs.image_token]], [IMAGE]).endswith(
        "hint: give [[image]] for one row with one image"
    )
    assert "images are given for 1 rows, there are 2" in refused(inputs, [[5], [6]], [[IMAGE]])


def test_an_empty_video() -> None:
    inputs = inputs_for("llava_onevision")
    video = np.zeros((0, 20, 30, 3), np.uint8)
    assert refused(inputs, [[5, inputs.video_token]], [[video]]) == (
        "the video has no frames\n  source  image 0 of row 0\n\nhint: give at least one frame"
    )


@pytest.mark.parametrize("id", LANGUAGE)
def test_a_suffix_holds_no_image(id: str) -> None:
    inputs = inputs_for(id)
    message = refused(inputs, [[5]], suffixes=[[inputs.image_token]])
    assert message.startswith("suffix 0 holds the placeholder of an image")
    found = inputs([[5], [6, 7]], suffixes=[[8, 9], []])
    assert found["tokens"].tolist() == [[5, 8, 9], [0, 6, 7]]


STATE = [[0.5] * 17]


@pytest.mark.parametrize("id", ["pi0", "pi05"])
def test_what_a_policy_refuses(id: str) -> None:
    inputs = inputs_for(id)
    given = {
        "images": [[IMAGE]],
        "image_masks": [[True]],
        "tokens": [[5]],
        "token_mask": [[True]],
        "state": STATE,
    }
    assert list(inputs(**given)) == [
        *("pixels", "image_masks", "tokens", "token_mask"),
        *(["state"] if id == "pi0" else []),
    ]

    def message(**changes: Any) -> str:
        return refused(inputs, **{**given, **changes})

    assert message(image_masks=[[True], [True]]).startswith(
        "the cameras of images and image_masks do not agree\n  images       1 cameras, 1 rows\n"
    )
    assert message(image_masks=[[True, False]]).startswith("images and image_masks do not agree")
    assert message(token_mask=[[True, False]]).startswith("images, tokens and token_mask do not agree")
    assert message(tokens=[[211]]).startswith("token 211 is none of the policy's 211")
    assert message(images=[[IMAGE], []]).startswith("every camera has an image for every row")
    assert "  source    camera 0, row 0" in message(images=[[IMAGE / 255]])
    assert message(images=[]).startswith("there is no camera")
    nan = np.full((1, 1, 3, 35, 35), np.nan, np.float32)
    assert message(images=nan).startswith("pixels are NaN or infinite")
    assert np.isnan(inputs(**{**given, "images": nan, "image_masks": [[False]]})["pixels"]).all()
    assert message(pixel_values=nan) == (
        "inputs are made from no `pixel_values`\n\n"
        "hint: what Hugging Face calls `pixel_values` is made from `images` here"
    )
    if id == "pi0":
        assert message(state=[[0.5, np.nan]]).startswith("the state holds NaN or infinity")
        assert message(state=[[0.5] * 18]).startswith(
            "the state does not fit the policy\n  expected  (1, at most 17)\n  found     (1, 18)\n"
        )
        assert message(state=None).startswith("this policy needs the state of the robot")
        narrow = inputs(**{**given, "state": [[1.0, 2.0]]})["state"]
        assert narrow.tolist() == [[1.0, 2.0, *[0.0] * 15]]


@pytest.mark.parametrize("id", ["siglip", "dinov2"])
def test_what_a_tower_refuses(id: str) -> None:
    inputs = inputs_for(id)
    assert refused(inputs, []) == "there is no image\n\nhint: give a list of decoded images"
    assert "  source    image 1" in refused(inputs, [IMAGE, IMAGE / 255])
    assert refused(inputs, pixel_values=[IMAGE]).startswith("inputs are made from no `pixel_values`")
    assert refused(inputs.texts, [[1]]) == (
        "this is a vision tower alone, and reads no texts\n\nhint: give images only"
    )
