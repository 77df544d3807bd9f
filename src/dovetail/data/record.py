"""One record of a manifest as a sample: whatever the field's formats call its turns, images and videos.

    {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat?"}, {"from": "gpt", …}]}
    {"images": ["a.jpg", "b.jpg"], "messages": [{"role": "user", "content": "<image> or <image>?"}, …]}
    {"messages": [{"role": "user", "content": [{"type": "image", "image": "a.jpg"}, {"type": "text", …}]}, …]}
    {"video": ["f1.jpg", "f2.jpg"], "conversations": [{"from": "human", "value": "<video>\\nWhat?"}, …]}
    {"image": "a.jpg", "text": "a caption"}

A placeholder stands where its image belongs and is replaced by it; texts stay letter by letter. There are as
many placeholders as images, or the record is refused.

Sources: LLaVA-VL/LLaVA-NeXT `llava/train/train.py:LazySupervisedDataset`; transformers@5.23.0
`processing_utils.py:apply_chat_template` (pieces of a content).
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from dovetail.data.image_root import Images
from dovetail.data.sample import Picture, Piece, Role, Sample, Seen, Turn, Video
from dovetail.errors import DataError, listed
from dovetail.report import counted

TURNS = ("conversations", "messages", "conversation")
IMAGES, VIDEOS = ("image", "images"), ("video", "videos")
KINDS = ("kind", "question_type", "type", "category")  # what a record may call the type of its question
_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_PLACE = re.compile(r"(<image>|<video>)")


def sample_of(record: Mapping[str, Any], images: Images, *, source: str, number: int) -> Sample:
    """The sample that a record describes.

    Raises:
        DataError: it is no conversation, or its placeholders and images do not match.
    """
    try:
        seen = _Seen.of(record, images)
        turns = _turns(record, seen, images)
        seen.refuse_rest(turns)
    except DataError as error:
        raise in_record(error, source, number) from None
    id = record.get("id")
    kind = next((record[key] for key in KINDS if isinstance(record.get(key), str)), None)
    return Sample(source, number, turns, None if id is None else str(id), kind)


def in_record(error: DataError, source: str, number: int) -> DataError:
    """The error with the place of the record where it happened."""
    return DataError(error.message, **{"file": source, "record": number, **error.details}, hint=error.hint)


class _Seen(NamedTuple):
    """The images and videos that a record names, still to be placed."""

    images: list[Picture]
    videos: list[Video]
    is_image_place: bool  # `<image>` stands for a video, as in LLaVA's own data

    @classmethod
    def of(cls, record: Mapping[str, Any], images: Images) -> "_Seen":
        named = [name for key in IMAGES for name in _names(record, key)]
        shown = [video for key in VIDEOS for video in _video_names(record, key)]
        pictures = [one if isinstance(one, Picture) else images.picture(one) for one in named]
        videos = [_video(one, images) for one in shown]
        return cls(pictures, videos, bool(videos) and not named)

    def take(self, place: str) -> Seen:
        """What the next placeholder stands for.

        Raises:
            DataError: there is none left.
        """
        is_video = place == "<video>" or self.is_image_place
        left: list[Any] = self.videos if is_video else self.images
        if not left:
            raise DataError(
                f"there are more `{place}` in the text than {'videos' if is_video else 'images'}",
                hint=f"write one `{place}` for each",
            )
        taken: Seen = left.pop(0)
        return taken

    def refuse_rest(self, turns: tuple[Turn, ...]) -> None:
        """Makes sure that everything has found its place.

        Raises:
            DataError: an image or a video has none.
        """
        for left, place in ((self.images, "<image>"), (self.videos, "<video>")):
            if left:
                placed = sum(
                    isinstance(piece, Video if place == "<video>" else Picture)
                    for turn in turns
                    for piece in turn.pieces
                )
                there = counted(placed + len(left), place[1:-1])
                raise DataError(
                    f"the text has {placed} `{place}`, the record has {there}",
                    hint=f"write `{place}` in the text where each belongs",
                )


def _names(record: Mapping[str, Any], key: str) -> list[str | Picture]:
    """The images under a key.

    Raises:
        DataError: they are no names.
    """
    value = record.get(key)
    names = [] if value is None else value if isinstance(value, list) else [value]
    for one in names:
        _check_name(one, key)
    return names


def _video_names(record: Mapping[str, Any], key: str) -> list[Any]:
    """The videos under a key: each a folder's name, or a list of its frames.

    Raises:
        DataError: they are no names.
    """
    value = record.get(key)
    if value is None:
        return []
    if key == "video" and isinstance(value, list) and not any(isinstance(one, list) for one in value):
        value = [value]  # the frames of one video
    videos = value if isinstance(value, list) else [value]
    for video in videos:
        if video == []:
            raise DataError(f"a video under `{key}` has no frames")
        for one in video if isinstance(video, list) else [video]:
            _check_name(one, key)
    return videos


def _check_name(name: object, key: str) -> None:
    if not isinstance(name, str | Picture) or not name:
        raise DataError(
            f"`{key}` is no file name",
            expected="a name, or a list of names",
            found=_shown(name),
            hint=f"leave `{key}` out of a record that has none",
        )


def _video(named: Any, images: Images) -> Video:
    if isinstance(named, str):
        return Video(images.frames(named))
    return Video(tuple(one if isinstance(one, Picture) else images.picture(one) for one in named))


def _turns(record: Mapping[str, Any], seen: _Seen, images: Images) -> tuple[Turn, ...]:
    """The conversation of a record.

    Raises:
        DataError: it has none, or a turn is not understood.
    """
    key = next((one for one in TURNS if record.get(one) is not None), None)
    if key is None:
        if seen.images and isinstance(record.get("text"), str):
            return _caption(record["text"], seen)
        raise DataError(
            "the record has no conversation",
            expected=f"one of {listed(TURNS)}",
            found=listed(record) or "an empty record",
        )
    given = record[key]
    if not isinstance(given, list) or not given:
        raise DataError(f"`{key}` is no list of turns", found=_shown(given))
    turns = []
    for i, one in enumerate(given):
        try:
            turns.append(_turn(one, seen, images))
        except DataError as error:
            raise DataError(error.message, **{"turn": i, **error.details}, hint=error.hint) from None
    if not any(turn.role == "assistant" for turn in turns):
        raise DataError("the conversation has no turn of the assistant, so there is nothing to learn")
    return tuple(turns)


def _caption(text: str, seen: _Seen) -> tuple[Turn, ...]:
    """Images and what they show: the images asked, the text answered."""
    if not text.strip():
        raise DataError("the caption is empty")
    pictures = tuple(seen.images)
    seen.images.clear()
    return Turn("user", pictures), Turn("assistant", (text,))


def _turn(given: Any, seen: _Seen, images: Images) -> Turn:
    if not isinstance(given, dict):
        raise DataError("a turn is no mapping", found=_shown(given))
    role_key, text_key = ("from", "value") if given.get("from") is not None else ("role", "content")
    role, content = given.get(role_key), given.get(text_key)
    if role is None or content is None:
        raise DataError(
            "a turn lacks its role or its text",
            expected="from and value, or role and content",
            found=listed(given) or "nothing",
        )
    if not isinstance(role, str) or role not in _ROLES:
        raise DataError(
            f"nobody knows who `{_shown(role)}` is", expected=listed(_ROLES), hint="rename it in the manifest"
        )
    pieces = tuple(_pieces(content, seen, images))
    if not pieces and role != "system":
        raise DataError(f"a turn of `{role}` says nothing")
    return Turn(_ROLES[role], pieces)


def _pieces(content: Any, seen: _Seen, images: Images) -> Iterator[Piece]:
    if isinstance(content, str):
        for text in _PLACE.split(content):
            if text in ("<image>", "<video>"):
                yield seen.take(text)
            elif text:
                yield text
        return
    if not isinstance(content, list):
        raise DataError(
            "the text of a turn is no text", expected="a text or a list of pieces", found=_shown(content)
        )
    for one in content:
        if isinstance(one, str):
            yield from _pieces(one, seen, images)
        elif isinstance(one, dict):
            yield from _piece(one, seen, images)
        else:
            raise DataError("a piece of a turn is no mapping", found=_shown(one))


def _piece(piece: Mapping[str, Any], seen: _Seen, images: Images) -> Iterator[Piece]:
    """One piece of a content: a text, or an image or video that is named there or comes next."""
    kind = piece.get("type")
    if kind == "text" and isinstance(piece.get("text"), str):
        if piece["text"]:
            yield piece["text"]
    elif kind in ("image", "video"):
        named = next((piece[key] for key in (kind, "path", "url") if piece.get(key) is not None), None)
        if named is None:
            yield seen.take(f"<{kind}>")
        elif kind == "image":
            _check_name(named, kind)
            yield named if isinstance(named, Picture) else images.picture(named)
        else:
            yield _video(_video_names({"video": named}, "video")[0], images)
    elif kind == "image_url" and isinstance(piece.get("image_url"), dict):
        url = piece["image_url"].get("url")
        _check_name(url, "image_url")
        yield images.picture(str(url).removeprefix("file://"))
    else:
        raise DataError(
            "a piece of a turn is not understood",
            expected='{"type": "text", "text": …}, {"type": "image"} or {"type": "video"}',
            found=_shown(piece),
        )


def _shown(value: object) -> str:
    """A value of a record for people, cut."""
    if isinstance(value, dict):
        return f"a mapping of {listed(value, 5) or 'nothing'}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = str(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
