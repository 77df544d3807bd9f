"""Records of all kinds as samples, and what is no sample."""

from pathlib import Path
from typing import Any

import pytest

from dovetail.data.image_root import ImageRoot
from dovetail.data.manifest import open_manifest
from dovetail.data.record import sample_of
from dovetail.data.sample import Picture, Sample, Turn, Video
from dovetail.errors import DataError, UsageError
from manifests.records import asked, seen, write_image, write_json

A, B, C = (Picture(f"root/{name}.png") for name in "abc")


def sample(record: Any, root: str = "root") -> Sample:
    return sample_of(record, ImageRoot(root), source="m.json", number=7)


def said(user: Any, assistant: Any = "yes", **more: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}],
        **more,
    }


def test_images_stand_where_their_placeholders_stood() -> None:
    yes = Turn("assistant", ("yes",))
    image, video = {"type": "image"}, {"type": "video"}
    cases: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
        (said("hello"), ("hello",)),
        (said("<image>\nwhat?", image="a.png"), (A, "\nwhat?")),
        (said("<image> or <image>", image=["a.png", "b.png"]), (A, " or ", B)),
        (said("one <image>", images=["a.png"]), ("one ", A)),
        (said([image, {"type": "text", "text": "what?"}], images=["a.png"]), (A, "what?")),
        (said([{**image, "image": "a.png"}, {**image, "path": "b.png"}]), (A, B)),
        (said([{"type": "image_url", "image_url": {"url": "a.png"}}, "text"]), (A, "text")),
        (said("<video>what?", video=["a.png", "b.png"]), (Video((A, B)), "what?")),
        (said("<image>what?", video=["a.png", "b.png"]), (Video((A, B)), "what?")),
        (said("<video><video>", videos=[["a.png"], ["b.png", "c.png"]]), (Video((A,)), Video((B, C)))),
        (said([{**video, "video": ["a.png"]}]), (Video((A,)),)),
        (said("<image><video>", image="a.png", video=["b.png", "c.png"]), (A, Video((B, C)))),
    ]
    for record, pieces in cases:
        assert sample(record).turns == (Turn("user", pieces), yes), record
    assert sample({"image": "a.png", "text": "a cat"}).turns == (
        Turn("user", (A,)),
        Turn("assistant", ("a cat",)),
    )


def test_both_ways_of_naming_turns() -> None:
    value = [("system", ""), ("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d")]
    llava = {"conversations": [{"from": role, "value": text} for role, text in value]}
    roles = ("system", "user", "assistant", "user", "assistant")
    openai = {
        "messages": [{"role": role, "content": text} for role, (_, text) in zip(roles, value, strict=True)]
    }
    assert sample(llava).turns == sample(openai).turns
    assert [turn.role for turn in sample(llava).turns] == list(roles)
    assert sample({**llava, "id": 12, "question_type": "colour"})[3:] == ("12", "colour")
    assert sample(llava).place == "m.json, record 7"


def test_frames_of_a_folder_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 100):
        write_image(tmp_path / f"clip/f{number}.png")
    found = next(sample(said("<video>", video="clip"), str(tmp_path)).seen())
    assert isinstance(found, Video)
    assert [Path(frame.name).name for frame in found.frames] == ["f9.png", "f10.png", "f100.png"]


WRONG: dict[str, Any] = {
    "has no conversation": {"id": 1},
    "is no list of turns": {"conversations": []},
    "a turn is no mapping": {"conversations": ["hello"]},
    "lacks its role or its text": {"conversations": [{"from": "human"}]},
    "nobody knows who `tool` is": {"conversations": [{"from": "tool", "value": "x"}]},
    "a turn of `gpt` says nothing": {"conversations": [{"from": "gpt", "value": ""}]},
    "no turn of the assistant": {"conversations": [{"from": "human", "value": "x"}]},
    "the text of a turn is no text": said({"text": "x"}),
    "a piece of a turn is no mapping": said([3]),
    "a piece of a turn is not understood": said([{"type": "audio"}]),
    "more `<image>` in the text than images": said("<image><image>", image="a.png"),
    "more `<video>` in the text than videos": said("<video>", image="a.png"),
    "the text has 0 `<image>`, the record has 1 image": said("what?", image="a.png"),
    "the text has 1 `<image>`, the record has 2 images": said("<image>", images=["a.png", "b.png"]),
    "the text has 0 `<video>`, the record has 1 video": said("what?", video=["a.png"]),
    "`image` is no file name": said("<image>", image=""),
    "`images` is no file name": said("<image>", images=[3]),
    "has no frames": said("<video>", videos=[[]]),
    "is a video file": said("<video>", video="a.mp4"),
    "cannot be read: No such file": said("<video>", video="none"),
    "lies outside the image root": said("<image>", image="/etc/passwd"),
    "`../b.png` lies outside": said("<image>", image="../b.png"),
    "`a/../../b.png` lies outside": said("<image>", image="a/../../b.png"),
    "an image is an address": said("<image>", image="http://host/a.png"),
    "has a zero byte": said("<image>", image="a\0.png"),
    "the caption is empty": {"image": "a.png", "text": " "},
}  # fmt: skip


def test_what_is_no_sample_is_one_error_with_its_place() -> None:
    for message, record in WRONG.items():
        with pytest.raises(DataError) as raised:
            sample(record)
        error = raised.value
        assert message in error.message
        assert (error.details["file"], error.details["record"]) == ("m.json", "7"), message
        assert error.exit_code == 1


def test_paths_stay_inside_the_root(tmp_path: Path) -> None:
    write_image(tmp_path / "in/a.png", color=9)
    inside = said("<image>", image=str(tmp_path / "in/a.png"))
    for root in (str(tmp_path / "in"), "/"):
        picture = next(sample(inside, root).seen())
        assert isinstance(picture, Picture)
        assert picture.pixels()[0, 0].tolist() == [9, 9, 9]
    with pytest.raises(DataError, match="outside"):
        sample(inside, str(tmp_path / "i"))  # not by the letters of its name
    manifest = open_manifest(
        write_json(tmp_path / "in/m.json", [seen("a.png"), seen("x/../none.png"), asked(1)])
    )
    assert [len([*one.seen()]) for one in manifest] == [1, 1, 0]
    with pytest.raises(UsageError, match="there is no image"):
        next(manifest[1].seen()).pixels()  # type: ignore[union-attr]
