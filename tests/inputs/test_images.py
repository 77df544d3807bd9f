"""Pixels equal to the recorded ones, and to transformers' own processors on any size."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageOps

from dovetail.errors import UsageError
from dovetail.inputs.images import (
    CLIP,
    HALF,
    IMAGENET,
    clip_pixels,
    decoded,
    normalize,
    pi0_pixels,
    prismatic_pixels,
    siglip_pixels,
)
from dovetail.inputs.panorama import perspective, sliding
from dovetail.inputs.patches import patches
from dovetail.inputs.tiles import pinpoints, square, tiles
from inputs.golden_images import golden, noise

EDGE = st.integers(1, 90)


def test_siglip_is_the_recorded_processor() -> None:
    recorded = golden("siglip")
    found = siglip_pixels(recorded["proc_in"], (56, 56))
    np.testing.assert_array_equal(found[None], recorded["proc_out"])


@pytest.mark.parametrize("name", ["paligemma", "prismatic"])
def test_an_image_at_model_size_is_only_normalized(name: str) -> None:
    recorded = golden(name)
    images = [recorded[key] for key in ("imageA", "imageB") if key in recorded]
    found = np.stack([siglip_pixels(image, (56, 56)) for image in images])
    np.testing.assert_array_equal(found, recorded["pixel_values"])


@pytest.mark.parametrize("case", ["wide", "tall", "up"])
def test_pi0_is_openpi(case: str) -> None:
    recorded = golden("pi0")
    found = pi0_pixels(recorded[f"{case}.in"], (56, 56)).transpose(1, 2, 0)
    np.testing.assert_allclose(found, recorded[f"{case}.f32"], atol=2e-6, rtol=0)
    bytes_ = np.rint((found + 1) * 127.5)
    assert np.abs(bytes_ - recorded[f"{case}.u8"]).max() <= 1


def test_pi0_leaves_an_image_of_the_right_size_alone() -> None:
    image = noise(56, 56)
    np.testing.assert_array_equal(pi0_pixels(image, (56, 56)), normalize(image, HALF))


@given(height=EDGE, width=EDGE, target=st.tuples(EDGE, EDGE))
def test_pi0_pads_around_what_torch_interpolates(height: int, width: int, target: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    image = noise(height, width)
    ratio = max(height / target[0], width / target[1])
    inner = int(height / ratio), int(width / ratio)
    if 0 in inner:
        return
    found = pi0_pixels(image, target)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    expected = torch.nn.functional.interpolate(pixels, inner, mode="bilinear", align_corners=False)[0]
    top, left = (target[0] - inner[0]) // 2, (target[1] - inner[1]) // 2
    np.testing.assert_allclose(
        found[:, top : top + inner[0], left : left + inner[1]], expected, atol=2e-5, rtol=0
    )
    found[:, top : top + inner[0], left : left + inner[1]] = -1
    assert (found == -1).all()


@pytest.mark.parametrize("statistics", [HALF, CLIP, IMAGENET], ids=["half", "clip", "imagenet"])
def test_every_byte_is_normalized_as_torchvision_does(statistics: object) -> None:
    """ToTensor divides in float32, the image processors multiply in float64: one result for all bytes."""
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    mean, std = (np.float32(part)[:, None, None] for part in statistics[:2])  # type: ignore[index]
    expected = (image.transpose(2, 0, 1).astype(np.float32) / np.float32(255) - mean) / std
    np.testing.assert_array_equal(normalize(image, statistics), expected)  # type: ignore[arg-type]


@given(height=EDGE, width=EDGE)
@settings(max_examples=30)
def test_siglip_and_clip_are_the_processors_of_transformers(height: int, width: int) -> None:
    pytest.importorskip("transformers")
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    image = noise(height, width)
    given_ = {"images": image, "return_tensors": "np", "input_data_format": "channels_last"}
    siglip = SiglipImageProcessorPil(size={"height": 28, "width": 42})
    np.testing.assert_array_equal(
        siglip_pixels(image, (28, 42)), siglip.preprocess(**given_)["pixel_values"][0]
    )
    clip = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    np.testing.assert_array_equal(clip_pixels(image, 28), clip.preprocess(**given_)["pixel_values"][0])


def torchvision_crop(image: Pillow.Image, size: int) -> Pillow.Image:
    """Resize(size) and CenterCrop(size) as torchvision's documentation defines them."""
    short, long = sorted(image.size)
    edges = {short: size, long: int(size * long / short)}
    image = image.resize((edges[image.size[0]], edges[image.size[1]]), Pillow.Resampling.BICUBIC)
    left, top = (round((edge - size) / 2.0) for edge in image.size)
    return image.crop((left, top, left + size, top + size))


@given(height=EDGE, width=EDGE)
def test_prismatic_strategies(height: int, width: int) -> None:
    image = noise(height, width)
    pillow = Pillow.fromarray(image)
    naive = pillow.resize((28, 28), Pillow.Resampling.BICUBIC)
    gap = int((max(height, width) - width) / 2), int((max(height, width) - height) / 2)
    boxed = ImageOps.expand(pillow, (gap[0], gap[1], gap[0], gap[1]), fill=(123, 116, 103))
    for strategy, expected in {
        "resize-naive": naive,
        "resize-crop": torchvision_crop(pillow, 28),
        "letterbox": torchvision_crop(boxed, 28),
    }.items():
        found = prismatic_pixels(image, 28, strategy=strategy, statistics=IMAGENET)
        np.testing.assert_array_equal(found, normalize(np.asarray(expected), IMAGENET))


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (noise(4, 4).astype(np.float32), "float32 (4, 4, 3)"),
        (noise(4, 4)[:, :, 0], "uint8 (4, 4)"),
        (noise(3, 4).transpose(2, 0, 1), "uint8 (3, 3, 4)"),
        ("photo.jpg", "str"),
    ],
)
def test_what_is_not_decoded_is_refused(image: object, found: str) -> None:
    with pytest.raises(UsageError) as error:
        decoded(image)
    assert str(error.value) == (
        f"not a decoded image\n  expected  uint8 (height, width, 3)\n  found     {found}\n\n"
        "hint: give the bytes of an RGB image: np.asarray(Image.open(FILE).convert('RGB'))"
    )


@pytest.mark.parametrize(
    "pixels",
    [
        lambda image: siglip_pixels(image, (28, 28)),
        lambda image: clip_pixels(image, 28),
        lambda image: prismatic_pixels(image, 28, strategy="letterbox"),
        lambda image: pi0_pixels(image, (28, 28)),
        patches,
        lambda image: tiles(image, 28, resolutions=pinpoints(28)),
        lambda image: square(image, 28),
        lambda image: sliding(image, (28, 28)),
        lambda image: perspective(image, (28, 28)),
    ],
)
def test_every_recipe_asks_for_a_decoded_image(pixels: Callable[[np.ndarray], object]) -> None:
    with pytest.raises(UsageError, match="not a decoded image"):
        pixels(noise(4, 4).astype(np.float32))


def test_an_empty_image_is_refused() -> None:
    with pytest.raises(UsageError, match="the image is empty"):
        siglip_pixels(np.zeros((0, 4, 3), np.uint8), (28, 28))


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(UsageError, match="no image resize strategy is called `stretch`"):
        prismatic_pixels(noise(4, 4), 28, strategy="stretch")
