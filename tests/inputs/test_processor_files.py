"""Pixels equal those of the processors of transformers, whatever these write beside the weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import dovetail
from dovetail.errors import UsageError
from dovetail.store.remote.http import HttpFolder
from files import MODELS, header_of, plan_of, write_listing
from hubserver import hub_server
from inputs.golden_images import noise
from parity import assert_near, randomise
from tiny_models import TEXT, TOWER, VISION

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
COLOURS = {"image_mean": MEAN, "image_std": STD}
PATCH = 5  # of every tiny tower; those of squares have 7 x 7 patches
SQUEEZED = {"size": {"height": 35, "width": 35}}
CUT = {"size": {"shortest_edge": 35}, "crop_size": {"height": 35, "width": 35}}
AREA = {"size": {"shortest_edge": 800, "longest_edge": 5000}, "patch_size": PATCH}
PINPOINTS = [[35, 70], [70, 35], [70, 70]]
TILES = {**SQUEEZED, "image_grid_pinpoints": PINPOINTS}
# a name -> the family, the class of the image processor, what it is told
FILES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "siglip": ("siglip", "SiglipImageProcessorPil", {**SQUEEZED, **COLOURS}),
    "siglip2 is bilinear": ("siglip", "SiglipImageProcessorPil", {**SQUEEZED, "resample": 2}),
    "no mean": ("siglip", "SiglipImageProcessorPil", {**SQUEEZED, "do_normalize": False}),
    "bytes": ("siglip", "SiglipImageProcessorPil", {**SQUEEZED, **COLOURS, "do_rescale": False}),
    "other scale": ("siglip", "SiglipImageProcessorPil", {**SQUEEZED, "rescale_factor": 1 / 128}),
    "clip's ways": ("siglip", "CLIPImageProcessorPil", CUT),
    "dinov2": ("dinov2", "BitImageProcessorPil", {**CUT, "size": {"shortest_edge": 44}, **COLOURS}),
    "dinov2, smaller": (
        "dinov2",
        "BitImageProcessorPil",
        {"size": {"shortest_edge": 40}, "crop_size": {"height": 30, "width": 30}},
    ),
    "llava": ("llava", "CLIPImageProcessorPil", {**CUT, **COLOURS}),
    "llava, old sizes": ("llava", "CLIPImageProcessorPil", {"size": 35, "crop_size": 35, "resample": 1}),
    "llava, padded": ("llava", "LlavaImageProcessorPil", {**CUT, "do_pad": True}),
    "llava, squeezed": ("llava", "SiglipImageProcessorPil", SQUEEZED),
    "paligemma": ("paligemma", "SiglipImageProcessorPil", {**SQUEEZED, **COLOURS, "resample": 0}),
    "llava_onevision": ("llava_onevision", "LlavaOnevisionImageProcessorPil", {**TILES, **COLOURS}),
    "tiles, bilinear": ("llava_onevision", "LlavaOnevisionImageProcessorPil", {**TILES, "resample": 2}),
    "qwen2_vl": ("qwen2_vl", "Qwen2VLImageProcessorPil", {**AREA, **COLOURS}),
    "qwen2_5_vl": ("qwen2_5_vl", "Qwen2VLImageProcessorPil", {**AREA, "resample": 2}),
    "qwen3_vl": ("qwen3_vl", "Qwen2VLImageProcessorPil", {**AREA, **COLOURS, "do_normalize": False}),
}
IMAGES = [noise(60, 90), noise(47, 31, seed=1)]


def processor_of(name: str) -> Any:
    _, kind, told = FILES[name]
    return getattr(transformers, kind)(**told)


def written(folder: Path, name: str, style: str) -> Path:
    """A listing of a tiny model, with the file of its image processor as a version of transformers has it."""
    family = FILES[name][0]
    layout = "hf" if family != "dinov2" else "timm"
    listing = write_listing(folder / "listing.json", header_of(plan_of(family, MODELS[family][0]), layout))
    one = processor_of(name)
    if style == "5":  # as `ProcessorMixin.to_dict` nests it; another file beside it is ignored
        nested = {"processor_class": "Any", "image_processor": json.loads(one.to_json_string())}
        (folder / "processor_config.json").write_text(json.dumps(nested))
        (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [9.0] * 3, "resample": 4}))
    else:
        one.save_pretrained(folder)
        (folder / "processor_config.json").write_text(json.dumps({"image_mean": [9.0] * 3}))
    return listing


def pixels(inputs: Any, image: np.ndarray) -> np.ndarray:
    """What a family makes of one image."""
    if not hasattr(inputs, "image_token"):
        return inputs([image])["pixels"]  # type: ignore[no-any-return]
    return inputs([[5, inputs.image_token]], [[image]])["pixels"]  # type: ignore[no-any-return]


@pytest.mark.parametrize("style", ["4", "5"])
@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_of_the_processor(name: str, style: str, tmp_path: Path) -> None:
    heads = {"vision.heads": 2} if FILES[name][0] != "llava" else {}
    inputs = dovetail.load_inputs(written(tmp_path, name, style), settings=settings_of(name) | heads)
    for image in IMAGES:
        expected = np.asarray(processor_of(name)([image], return_tensors="np")["pixel_values"])
        found = pixels(inputs, image)
        np.testing.assert_array_equal(found, expected.reshape(found.shape), strict=False)


def settings_of(name: str) -> dict[str, Any]:
    """What the config of the model would say."""
    more = {"mrope_section": [2, 1, 1]} if "qwen" in name else {}
    return {"grid_pinpoints": PINPOINTS} if FILES[name][0] == "llava_onevision" else more


def test_patches_are_those_of_naflex(tmp_path: Path) -> None:
    sizes = {"vision": "siglip_naflex", **{k: v for k, v in MODELS["siglip"][0].items() if "." in k}}
    header = header_of(plan_of("siglip", sizes), "hf")
    listing = write_listing(tmp_path / "listing.json", header)
    one = transformers.Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=20, **COLOURS)
    nested = {"image_processor": json.loads(one.to_json_string())}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    inputs = dovetail.load_inputs(listing, settings={"vision.heads": 2})
    for image in IMAGES:
        expected, found = one([image], return_tensors="np"), inputs([image])
        rows, columns = found["grids"][0]
        assert expected["spatial_shapes"].tolist() == [[rows, columns]]
        np.testing.assert_array_equal(found["patches"], expected["pixel_values"][0][: rows * columns])


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"size": {"height": 40, "width": 40}}, "makes squares of 40 pixels, the tower was made for 35"),
        ({"size": {"height": 35, "width": 30}}, "the image processor's `size` is not written here"),
        ({"size": {"max_height": 35, "max_width": 35}}, "the image processor's `size` is not written here"),
        ({"do_resize": False}, "gives an image of a size that the tower does not take"),
        ({"size": 35}, "gives an image of a size that the tower does not take"),
        ({"resample": 9}, "images cannot be resized by `resample` 9"),
        ({"do_resize": "no"}, "do_resize cannot be 'no'"),
        ({"image_mean": [0.5, "x", 0.5]}, "image_mean"),
        ({"image_mean": [0.5]}, "image_mean"),
        ({"image_std": [0.5, 0, 0.5]}, "make NaN or infinity of bytes"),
        ({"image_mean": [1e308] * 3}, "make NaN or infinity of bytes"),
        ({"rescale_factor": 1e300}, "make NaN or infinity of bytes"),
    ],
    ids=str,
)
def test_what_a_tower_cannot_see_is_refused(told: dict[str, Any], message: str, tmp_path: Path) -> None:
    listing = write_listing(
        tmp_path / "listing.json", header_of(plan_of("siglip", MODELS["siglip"][0]), "hf")
    )
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": told}))
    with pytest.raises(UsageError, match=message):
        dovetail.load_inputs(listing, settings={"vision.heads": 2})([noise(60, 90)])


def test_policies_see_what_the_processor_of_transformers_makes(tmp_path: Path) -> None:
    """Which has another ground and place than openpi's, whose checkpoints have no such file.

    It needs torchvision; the same settings run in transformers' own backend for Pillow.
    """

    class Fitted(transformers.image_processing_backends.PilBackend):  # type: ignore[misc]
        resample, image_mean, image_std = 3, [0.5] * 3, [0.5] * 3
        size, pad_size = {"max_height": 35, "max_width": 35}, {"height": 35, "width": 35}
        do_resize = do_rescale = do_normalize = do_convert_rgb = do_pad = True

    listing = write_listing(
        tmp_path / "listing.json", header_of(plan_of("pi0", MODELS["pi0"][0]), "transformers")
    )
    ours = dovetail.load_inputs(listing, settings={"vision.heads": 2, "vlm.head_dim": 8})
    nested = {"image_processor": json.loads(Fitted().to_json_string())}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    theirs = dovetail.load_inputs(listing, settings={"vision.heads": 2, "vlm.head_dim": 8})
    for image in (*IMAGES, noise(20, 9)):
        expected = Fitted()([image], return_tensors="np")["pixel_values"][0]
        given = ([[image]], [[True]], [[5]], [[True]], np.zeros((1, 3), np.float32))
        np.testing.assert_array_equal(theirs(*given)["pixels"][0, 0], expected)
        assert not np.array_equal(ours(*given)["pixels"][0, 0], expected)


def test_a_web_server_is_asked_for_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no list of what is there: what is not asked for by name is not found."""
    beside = ("processor_config.json", "chat_template.jinja", "tokenizer.json", "special_tokens_map.json")
    with hub_server(tmp_path, monkeypatch) as server:
        folder = tmp_path / "www" / "model"
        dovetail.make("siglip", folder, set=MODELS["siglip"][0])
        for name in beside:
            (folder / name).write_text('{"image_processor": {"resample": 2}}')
        address = f"{server.url}/files/model/"
        assert {*beside} <= HttpFolder(address).files().keys()
        assert dovetail.inspect(address).config["resample"].value == 2


def test_another_size_may_be_asked_for(tmp_path: Path) -> None:
    """Which interpolates the positions of the tower; the file's own size counts no more."""
    listing = written(tmp_path, "llava", "5")
    inputs = dovetail.load_inputs(listing, settings={"vision.image_size": 60})
    assert inputs.num_features(60, 90) == 144
    expected = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 60}, crop_size={"height": 60, "width": 60}, **COLOURS
    )([IMAGES[0]], return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(pixels(inputs, IMAGES[0]), expected)


def tower(kind: str) -> tuple[Any, Any, dict[str, Any]]:
    """A model of transformers, its image processor, and what the model is given beside pixels."""
    plain = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "patch_size": 14}
    if kind == "dinov2":  # made for 70 pixels, shown 28: positions are interpolated
        cut = {"size": {"shortest_edge": 40}, "crop_size": {"height": 28, "width": 28}}
        config = transformers.Dinov2Config(**plain, mlp_ratio=2, image_size=70)
        return transformers.Dinov2Model(config), transformers.BitImageProcessorPil(**cut, **COLOURS), {}
    squeezed = transformers.SiglipImageProcessorPil(size={"height": 28, "width": 28}, resample=2)
    if kind == "siglip":
        return transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**VISION)), squeezed, {}
    config = transformers.LlavaConfig(
        text_config={**TEXT, "model_type": "llama"},
        vision_config={**TOWER},
        image_token_id=90,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    ids = torch.tensor([[5, 90, 90, 90, 90, 7]])
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return transformers.LlavaForConditionalGeneration(config), squeezed, given


@pytest.mark.parametrize("kind", ["dinov2", "siglip", "llava"])
def test_a_model_of_transformers_sees_the_same(kind: str, tmp_path: Path) -> None:
    model, images, given = tower(kind)
    randomise(model).save_pretrained(tmp_path)
    images.save_pretrained(tmp_path)
    one: Any = dovetail.load(tmp_path, dtype="float32")
    with torch.no_grad():
        output = model(**given, **images([IMAGES[0]], return_tensors="pt"))
        found = one(**(one.prepare([[5, 90, 7]], [[IMAGES[0]]]) if given else one.prepare([IMAGES[0]])))
    expected = output.logits if given else output.last_hidden_state[:, -found.shape[1] :]
    assert_near(found, expected)
