"""Manifests that are broken or mean harm: one clear error each, with bounded time and memory."""

import json
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands import dovetail, python
from dovetail.data.manifest import open_manifest
from dovetail.data.sample import Picture
from dovetail.errors import DataError, DovetailError, UsageError
from manifests.records import asked, seen, write_image, write_json, write_lines

GOOD = json.dumps(asked(1)).encode()
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
CONFLICT = b"<<<<<<< HEAD\n" + GOOD

# Content of a file, what its error says, and the line that is named.
BROKEN: dict[str, tuple[bytes, str, str | None]] = {
    "empty": (b"", "the manifest is empty", None),
    "blank": (b" \r\n\n", "the manifest is empty", None),
    "a pointer": (LFS, "this is a Git LFS pointer", None),
    "compressed": (b"\x1f\x8b\x08" + GOOD, "it is compressed by gzip", None),
    "UTF-16": (b"\xff\xfe[\x00]\x00", "it is UTF-16", None),
    "parquet": (b"PAR1" + GOOD, "it is a parquet file", None),
    "a web page": (b"<!doctype html><title>Sign in</title>", "neither a list nor a mapping begins here", None),
    "a conflict": (CONFLICT, "neither a list nor a mapping begins here", None),
    "a number": (b"12", "neither a list nor a mapping begins here", None),
    "cut": (b"[" + GOOD + b",\n" + GOOD[:30], "record 1 is no JSON", "2"),
    "cut between": (b"[" + GOOD + b",\n", "record 1 is no mapping", "2"),
    "not closed": (b"[" + GOOD, "the JSON ends in the middle", "1"),
    "no comma": (b"[" + GOOD + b"\n" + GOOD + b"]", "a `,` or `]` is missing", "2"),
    "more behind": (b"[" + GOOD + b"]\n[]", "something stands behind the end of the JSON", "2"),
    "a list of texts": (b'["a"]', "record 0 is no mapping", "1"),
    "an empty list": (b"[]", "has no samples", None),
    "an empty mapping": (b"{}", "has no samples", None),
    "another mapping": (b'{"data": []}', "data in the mapping is no record", None),
    "twice in the mapping": (b'{"a": {}, "a": {}}', "the JSON names `a` twice", "1"),
    "deep": (b"[" * 200_000, "record 0 is no mapping", "1"),
    "deep inside": (b"[{" + b'"a": [' * 1 + b"[" * 200_000, "record 0 is nested too deep", "1"),
    "a huge number": (b'[{"a": ' + b"9" * 5000 + b"}]", "Exceeds the limit", "1"),
}  # fmt: skip
# A line of json lines, and what is said of it when it is read; the lines around it are good.
BAD_LINES: dict[str, tuple[bytes, str]] = {
    "no JSON": (b"{'id': 1}", "it is no JSON"),
    "words": (b"hello", "it is no JSON"),
    "a list": (b"[]", "a record is no mapping"),
    "two records": (GOOD + b" " + GOOD, "it is no JSON: Extra data"),
    "half a record": (GOOD[:-1], "it is no JSON"),
    "twice": (b'{"id": 1, "id": 2}', "it names `id` twice"),
    "twice inside": (GOOD.replace(b'"from"', b'"value": "x", "from"', 1), "it names `value` twice"),
    "NaN": (b'{"id": NaN}', "`NaN` is no number in JSON"),
    "infinity": (b'{"id": -Infinity}', "`-Infinity` is no number in JSON"),
    "huge": (b'{"id": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
    "deep": (b'{"id": ' + b"[" * 200_000 + b"}", "it is nested too deep"),
    "not UTF-8": (b'{"id": "\xff"}', "it is not UTF-8"),
    "no letters": (b"\0" * 40, "it is no JSON"),
    "spaces": (b"   ", "it is no JSON"),
}  # fmt: skip


def refused(path: Path, first: int | None = None, **options: Any) -> DataError:
    """The error of opening a manifest, or of reading a sample of it."""
    with pytest.raises(DataError) as raised:
        open_manifest(path, **options)[first or 0]
    return raised.value


def test_files_that_are_no_manifest(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    for name, (content, said, line) in BROKEN.items():
        path.write_bytes(content)
        error = refused(path)
        assert said in error.message, name
        assert error.details.get("line") == line, name
        assert str(path) in str(error), name


def test_lines_that_are_no_record(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    for name, (line, said) in BAD_LINES.items():
        path.write_bytes(b"\n".join([GOOD, b"", line, GOOD]))
        manifest = open_manifest(path)
        assert [manifest[i].id for i in (0, 2)] == ["1", "1"], name
        error = refused(path, 1)
        assert said in error.message, name
        assert (error.details["record"], error.details["line"]) == ("1", "3"), name


def test_a_line_or_record_of_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dovetail.data.json_index.MAX_RECORD", 4000)
    monkeypatch.setattr("dovetail.data.json_index._READ", 1000)
    path = tmp_path / "m.jsonl"
    path.write_bytes(GOOD + b"\n" + GOOD.replace(b"What", b"W" * 5000))
    error = refused(path)
    assert (error.message, error.details["line"]) == ("a line is too long for a record", "2")
    path.write_bytes(b"[" + GOOD + b",\n" + GOOD.replace(b"What", b"W" * 9000) + b"]")
    assert refused(path).message == "record 1 is longer than 4,000 bytes"


LISTS: dict[str, tuple[str, str]] = {
    "a circle": ("datasets: &a [*a]", "it uses aliases"),
    "a billion laughs": ("a: &a [x, x]\nb: &b [*a, *a]\ndatasets: [*b, *b]", "it uses aliases"),
    "a list of lists": ("datasets: [{json_path: other.yaml}]", "a list names another list"),
    "itself": ("datasets: [{json_path: m.yaml}]", "a list names another list"),
    "an object": ("datasets: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
    "no yaml": ("datasets: [", "the list cannot be read"),
    "no list": ("datasets: a.json", "the list has no `datasets`"),
    "another word": ("data: []", "the list has no `datasets`"),
    "nothing": ("", "the list has no `datasets`"),
    "an empty list": ("datasets: []", "the list has no `datasets`"),
    "no path": ("datasets: [{sampling_strategy: all}]", "an entry has no json_path"),
    "a slip": ("datasets: [{json_path: a.json, sampling_stategy: 'first:1'}]", "an entry has `sampling_stategy`"),
    "no strategy": ("datasets: [{json_path: a.json, sampling_strategy: last:1}]", "no sampling strategy `last`"),
    "a number": ("datasets: [{json_path: a.json, sampling_strategy: 3}]", "a sampling strategy is no word"),
    "too many": ("datasets: [{json_path: a.json, sampling_strategy: 'random:9'}]", "more records than there are"),
    "none": ("datasets: [{json_path: a.json, sampling_strategy: 'end:0'}]", "has no samples"),
    "long": ("#" * (1 << 20) + "\ndatasets: [{json_path: a.json}]", "longer than 1,048,576 characters"),
    "deep": ("datasets: " + "[" * 5000, "nested more than"),
    "no text": ("datasets: [{json_path: \udcff}]", "the list cannot be read"),
}  # fmt: skip


def test_lists_that_are_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", [asked(1)])
    path = tmp_path / "m.yaml"
    for name, (text, said) in LISTS.items():
        path.write_bytes(text.encode(errors="surrogateescape"))
        assert said in refused(path).message, name
    path.write_text("datasets: [{json_path: none.json}]")
    with pytest.raises(UsageError, match=r"there is no manifest `.*none.json`"):
        open_manifest(path)


def test_special_files_and_links_are_no_manifest(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "loop.json").symlink_to("loop.json")
    (tmp_path / "gone.json").symlink_to("nothing")
    for name in ("pipe.json", "loop.json", "gone.json", "nul\0.json", "x" * 5000):
        with pytest.raises(DovetailError):
            open_manifest(tmp_path / name)
    with pytest.raises(DovetailError):
        open_manifest("/dev/zero")
    write_json(tmp_path / "m.json", [asked(1)])
    (tmp_path / "link.json").symlink_to("m.json")
    assert len(open_manifest(tmp_path / "link.json")) == 1


def bomb(path: Path, side: int) -> Path:
    """A PNG whose header says side x side, in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((side // 8 + 1) * 16), 9)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )
    return path


def test_images_that_mean_harm_are_named(tmp_path: Path) -> None:
    bomb(tmp_path / "large.png", 10_000)
    bomb(tmp_path / "huge.png", 60_000)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "gone.png").symlink_to("nothing")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "pointer.png").write_bytes(LFS)
    names = {
        "large.png": "too many pixels",
        "huge.png": "too many pixels",
        "pipe.png": "is a pipe",
        "loop.png": "symbolic links",
        "gone.png": "there is no image",
        "folder.png": "is a folder",
        "device.png": "is a device",
        "pointer.png": "is no image that can be read",
        "x" * 5000: "File name too long",
    }
    write_image(tmp_path / "good.png")
    (tmp_path / "good link.png").symlink_to("good.png")
    write_lines(tmp_path / "m.jsonl", [*map(seen, names), seen("good link.png")])
    manifest = open_manifest(tmp_path / "m.jsonl")
    for sample, said in zip(manifest, names.values(), strict=False):
        picture = next(sample.seen())
        assert isinstance(picture, Picture)
        with pytest.raises(UsageError, match=said):
            picture.pixels()
    answer = dovetail("data", "m.jsonl", "--check", "--json", "--image-root", ".", cwd=tmp_path)
    found = json.loads(answer.out)
    assert (answer.code, found["refused"], found["images"]["whole"]) == (1, len(names), 1)


def damaged(content: bytes, dice: random.Random) -> bytes:
    """The bytes with a few changed, cut out or doubled."""
    text = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(text))
        kind = dice.randrange(3)
        if kind == 0:
            text[at] = dice.choice(b'{}[]",:\\\n\0\xff9-e')
        elif kind == 1:
            del text[at : at + dice.randint(1, 20)]
        else:
            text[at:at] = text[at : at + dice.randint(1, 20)]
        if not text:
            break
    return bytes(text)


@pytest.mark.parametrize("block", [16, 16 << 20])
def test_whatever_is_damaged_is_a_sample_or_our_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr("dovetail.data.json_index._READ", block)
    dice = random.Random(13)
    records = [asked(1), seen("a.png"), {**asked(2), "messages": None, "video": ["a.png"]}]
    texts: list[Callable[[], bytes]] = [
        lambda: json.dumps(records).encode(),
        lambda: b"\n".join(json.dumps(one).encode() for one in records),
        lambda: json.dumps({"samples": records}).encode(),
        lambda: json.dumps(dict(zip("abc", records, strict=True))).encode(),
        lambda: b"datasets: [{json_path: a.json, sampling_strategy: 'first:50%'}]",
    ]
    write_json(tmp_path / "a.json", records)
    outcomes, unplaced = set(), 0
    for i in range(75):
        path = tmp_path / ("m.yaml" if i % 5 == 4 else "m.json")
        path.write_bytes(damaged(texts[i % 5](), dice))
        try:
            manifest = open_manifest(path)
        except DovetailError as error:
            outcomes.add(type(error))
            continue
        for k in range(len(manifest)):
            try:
                outcomes.add(type(manifest[k]))
            except DataError as error:
                outcomes.add(type(error))
                unplaced += error.details["record"] != str(manifest.place(k)[1])
    assert {one.__name__ for one in outcomes} >= {"Sample", "DataError"}
    assert unplaced == 0


MILLION = """
import resource, sys, time
from dovetail.data.manifest import open_manifest
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin = time.perf_counter()
found = open_manifest(sys.argv[1])
took = time.perf_counter() - begin
print(len(found), took, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, found[-1].id)
"""


@pytest.mark.slow
def test_a_million_lines_open_in_seconds_with_flat_memory(tmp_path: Path) -> None:
    line = json.dumps(seen("images/000000.jpg", id="i", note="x" * 150)) + "\n"
    with open(tmp_path / "m.jsonl", "w") as file:
        for _ in range(1000):
            file.write(line * 1000)
    with open(tmp_path / "m.json", "w") as file:
        file.write(f"[{line.strip()}" + f",\n{line.strip()}" * 999_999 + "]")
    for name, most in (("m.jsonl", 10), ("m.json", 60)):
        answer = python("-c", MILLION, tmp_path / name)
        length, took, megabytes, last = answer.out.split()
        assert (answer.code, length, last) == (0, "1000000", "i"), answer.err
        assert float(took) < most
        assert int(megabytes) < 250, "the file has 300 MB, its records as objects 2 GB"


def test_a_checkpoint_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UsageError, match="is a folder of weights, no manifest"):
        open_manifest(tmp_path)
