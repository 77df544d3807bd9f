"""Batches: targets stand at their tokens for every family; nothing is cut; groups are the same every time."""

import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dovetail.data.batches import Batches, expanded, sizes_of
from dovetail.data.grouping import grouped_by_length, grouped_to_budget
from dovetail.data.labels import Labelled
from dovetail.data.sample import Picture, Video
from dovetail.errors import DataError, UsageError
from inputs.every_family import LANGUAGE, inputs_for
from inputs.golden_images import noise

PLACE = "train.jsonl, record 3"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: Any) -> list[Picture]:
    folder = tmp_path_factory.mktemp("images")
    made = []
    for i, (height, width) in enumerate([(23, 31), (40, 12), (31, 20)]):
        path = folder / f"{i}.png"
        Image.fromarray(noise(height, width, seed=i)).save(path)
        made.append(Picture(str(path)))
    return made


def row(tokens: list[int], learned: int, *images: Any) -> Labelled:
    """A row whose last tokens are learned."""
    count = len(tokens) - learned
    return Labelled(tuple(tokens), (-100,) * count + tuple(tokens[count:]), images, None, PLACE)


def rows_of(inputs: Any, pictures: list[Picture]) -> list[Labelled]:
    """Rows with an image, without one, and with two where the family shows several."""
    token = inputs.image_token
    made = [row([5, token, 7, 8, 9], 2, pictures[0]), row([5, 6, 7, 8], 1)]
    if inputs.family != "panovlm":  # whose rows have as many views
        made.append(row([5, token, 7, token, 8, 9, 4], 3, *pictures[1:]))
    if not inputs.prompt.has_image_tokens:
        made.append(row([5, 7, 8, 9], 2, pictures[0]))
    return made


@pytest.mark.parametrize("family", [*LANGUAGE, "qwen2"])
def test_targets_are_at_their_tokens(family: str, pictures: list[Picture]) -> None:
    inputs = inputs_for(family)
    rows = [row([5, 6, 7], 2), row([8, 9], 1)] if family == "qwen2" else rows_of(inputs, pictures)
    for pad in ("right", "left"):
        batches = pickle.loads(pickle.dumps(Batches(inputs, pad=pad)))
        found = batches(rows)
        tokens, targets = found["inputs"]["tokens"], found["targets"]
        assert tokens.shape == targets.shape
        assert targets.dtype == np.int64
        for one, of, ids, valid in zip(rows, targets, tokens, found["inputs"]["valid"], strict=True):
            wanted = [target for target in one.targets if target != -100]
            assert of[of != -100].tolist() == wanted
            assert ids[valid][-len(wanted) :].tolist() == wanted  # the end of the row, wherever images went
            assert valid.sum() == batches.length(one)
        if inputs.takes_images:
            images = [[picture.pixels() for picture in one.images] for one in rows]
            prompts = [one.tokens for one in rows]
            more = {}
            if inputs.sees_prompt_whole:
                more["suffixes"] = [[t for t in one.targets if t != -100] for one in rows]
                prompts = [
                    [t for t, n in zip(one.tokens, one.targets, strict=True) if n == -100] for one in rows
                ]
            direct = inputs(prompts, images, pad=pad, **more)
            assert direct.keys() == found["inputs"].keys()
            assert all((found["inputs"][name] == array).all() for name, array in direct.items())


def test_a_video_has_its_tokens(pictures: list[Picture]) -> None:
    inputs = inputs_for("llava_onevision")
    one = row([5, inputs.video_token, 7, 8], 1, Video((pictures[0], pictures[0])))
    found = Batches(inputs)([one])
    assert found["inputs"]["lengths"].tolist() == [2]
    assert found["targets"][0].tolist() == [-100] * (found["targets"].shape[1] - 1) + [8]
    with pytest.raises(DataError) as caught:
        Batches(inputs)([row([5, inputs.video_token, 7], 1, Video(tuple(pictures[:2])))])
    assert str(caught.value).startswith(
        "the frames of a video have one size\n  sample  train.jsonl, record 3\n  found   23 x 31, 40 x 12"
    )


def test_a_row_that_is_too_long_is_refused_and_says_what_would_fit(pictures: list[Picture]) -> None:
    inputs = inputs_for("qwen2_vl")
    one = row([5, inputs.image_token, 7, 8, 9], 2, pictures[0])
    length = Batches(inputs).length(one)
    images = length - 4
    assert Batches(inputs, max_length=length)([one])["targets"].shape == (1, length)
    with pytest.raises(DataError) as caught:
        Batches(inputs, max_length=length - 2)([one])
    edge = inputs.patch.patch * inputs.merge
    fitting = (images - 2) * edge**2
    assert str(caught.value) == (
        f"the sample has {length} tokens, and a row has at most {length - 2}\n"
        "  sample  train.jsonl, record 3\n"
        f"  tokens  {images} of images, 4 of text\n\n"
        f"hint: --max-length {length} holds it; so do images of fewer pixels: --set max_pixels={fitting}; "
        "--on-error skip leaves it out and lists it"
    )
    smaller = inputs_for("qwen2_vl", min_pixels=edge**2, max_pixels=fitting)
    assert Batches(smaller, max_length=length - 2).length(one) <= length - 2
    with pytest.raises(DataError, match="a row has at most 2"):
        Batches(inputs_for("qwen2"), max_length=2)([row([5, 6, 7], 1)])
    with pytest.raises(UsageError, match="a row of at most 0 tokens is none"):
        Batches(inputs, max_length=0)


def test_a_broken_image_is_an_error_with_its_sample(pictures: list[Picture], tmp_path: Path) -> None:
    inputs = inputs_for("llava")
    whole = Path(pictures[0].name).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for name, message in (("gone.png", "there is no image"), ("cut.png", "the image `")):
        one = row([5, inputs.image_token, 7], 1, Picture(str(tmp_path / name)))
        with pytest.raises(DataError) as caught:
            Batches(inputs)([one])
        assert caught.value.message.startswith(message)
        assert caught.value.details["sample"] == PLACE


def test_sizes_are_read_from_headers(tmp_path: Path) -> None:
    """As the camera was held, and without decoding: the pixels of this file are not even there."""
    for orientation in range(1, 9):
        path = tmp_path / f"{orientation}.jpg"
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(noise(20, 36)).save(path, exif=exif)
        picture = Picture(str(path))
        assert picture.size() == picture.pixels().shape[:2]
        assert Picture("x.jpg", path.read_bytes()).size() == picture.size()
        assert Video((picture, picture)).size() == (2, *picture.size())
        path.write_bytes(path.read_bytes()[:-200])
        assert sizes_of(row([1, 2], 1, picture)) == [picture.size()]
    with pytest.raises(UsageError, match="a video has no frames"):
        Video(()).size()


def test_a_row_with_other_places_than_images_names_its_sample() -> None:
    with pytest.raises(DataError) as caught:
        expanded(inputs_for("llava"), row([5, 7, 8], 1), [(20, 20)])
    assert caught.value.details["sample"] == PLACE


LENGTHS = st.lists(st.integers(1, 100), min_size=1, max_size=300)


@settings(max_examples=30)
@given(LENGTHS, st.integers(0, 3), st.integers(0, 2), st.integers(100, 400))
def test_groups_hold_every_sample_once_within_the_budget(
    lengths: list[int], seed: int, epoch: int, budget: int
) -> None:
    groups = grouped_to_budget(lengths, budget, seed=seed, epoch=epoch)
    found = list(groups)
    assert sorted(index for group in found for index in group) == list(range(len(lengths)))
    totals = sorted(sum(lengths[index] for index in group) for group in found)
    assert totals[-1] <= budget
    assert all(a + b > budget for a, b in pairwise(totals))  # no two groups are one
    assert found == list(grouped_to_budget(lengths, budget, seed=seed, epoch=epoch))
    position = len(found) // 2
    assert list(groups.after(position)) == found[position:]
    assert len(groups.after(position)) == len(found) - position


@settings(max_examples=30)
@given(LENGTHS, st.integers(1, 9))
def test_batches_of_like_lengths_hold_every_sample_once(lengths: list[int], size: int) -> None:
    found = list(grouped_by_length(lengths, size, seed=1))
    assert sorted(index for group in found for index in group) == list(range(len(lengths)))
    assert sorted(map(len, found))[1:] == [size] * (len(found) - 1)


def test_groups_waste_little_and_change_with_seed_and_epoch() -> None:
    lengths = np.random.default_rng(0).integers(20, 700, 5000).tolist()
    groups = list(grouped_to_budget(lengths, 2048))
    assert sum(lengths) / (len(groups) * 2048) > 0.97
    assert groups != list(grouped_to_budget(lengths, 2048, epoch=1))
    assert groups != list(grouped_to_budget(lengths, 2048, seed=1))
    near = list(grouped_by_length(lengths, 8))
    padded = sum(max(lengths[i] for i in group) * len(group) for group in near)
    assert sum(lengths) / padded > 0.95
    assert [len(group) for group in near[:20]] != sorted(len(group) for group in near[:20]) or len(
        near
    ) == 625


def test_groups_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError) as caught:
        grouped_to_budget([3, 900, 5], 512)
    assert str(caught.value) == (
        "sample 1 has 900 tokens, and 512 are packed into a batch\n\n"
        "hint: pack at least 900, or leave longer samples out by --max-length 512"
    )
    with pytest.raises(UsageError, match="a batch of 0 samples is none"):
        grouped_by_length([3], 0)
    with pytest.raises(UsageError, match="an epoch of 1 batches has no batch 2"):
        grouped_to_budget([3], 5).after(2)
