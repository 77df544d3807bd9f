"""Tar shards that `webdataset` writes and folders that `datasets` saves give the samples of the files they came from."""

import gc
import json
import pickle
import tarfile
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dovetail.data.manifest import Manifest, open_manifest
from dovetail.data.sample import Picture, Sample
from dovetail.errors import DataError, UsageError
from manifests.records import asked, seen, write_image, write_json

RECORDS = [seen(f"images/{i}.png", id=str(i)) for i in range(4)]
TWO = {
    "id": "two",
    "image": ["images/1.png", "images/3.png"],
    "messages": [
        {"role": "user", "content": "<image> or <image>?"},
        {"role": "assistant", "content": "both"},
    ],
}


def colors(sample: Sample) -> list[int]:
    """The colour of each image."""
    return [int(one.pixels()[0, 0, 0]) for one in sample.seen() if isinstance(one, Picture)]


def shown(manifest: Manifest) -> list[tuple[Any, ...]]:
    """What a model would see of each sample."""
    turns = [[(turn.role, turn.text) for turn in one.turns] for one in manifest]
    return [(one.id, said, colors(one)) for one, said in zip(manifest, turns, strict=True)]


@pytest.fixture
def plain(tmp_path: Path) -> Manifest:
    """The records in a file, beside their images."""
    for i in range(4):
        write_image(tmp_path / f"images/{i}.png", color=40 * i)
    return open_manifest(write_json(tmp_path / "plain.json", [*RECORDS, TWO, asked(5)]))


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size = len(content)
    tar.addfile(about, BytesIO(content))


def test_shards_that_webdataset_wrote(tmp_path: Path, plain: Manifest) -> None:
    import webdataset

    paths = [str(tmp_path / f"s-{i}.tar") for i in range(2)]
    for path, half in zip(paths, (slice(3), slice(3, 6)), strict=True):
        with webdataset.TarWriter(path) as shard:
            for i, record in enumerate([*RECORDS, TWO, asked(5)][half]):
                named = record.get("image", [])
                images = [named] if isinstance(named, str) else named
                files = {f"{k}.png": (tmp_path / name).read_bytes() for k, name in enumerate(images)}
                loose = {key: value for key, value in record.items() if key != "image" or len(images) == 1}
                shard.write({"__key__": f"a/{i:03}", "json": json.dumps(loose).encode(), **files})
    found = open_manifest(str(tmp_path / "s-{0..1}.tar"))
    assert shown(found) == shown(plain)
    assert shown(pickle.loads(pickle.dumps(found))[3:5]) == shown(plain)[3:5]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves files open
        theirs = [*webdataset.WebDataset(paths, shardshuffle=False)]
        gc.collect()
    assert [json.loads(one["json"])["id"] for one in theirs] == [one.id for one in found]
    assert [found.sources[0].records.fields(i)["id"] for i in range(6)] == [one.id for one in found]
    assert found.fingerprint == open_manifest(str(tmp_path / "s-{0,1}.tar")).fingerprint
    listing = tmp_path / "a.yaml"
    listing.write_text("datasets: [{json_path: 's-{0..1}.tar', sampling_strategy: 'end:50%'}]")
    assert shown(open_manifest(listing)) == shown(plain)[3:]


def test_names_of_images_in_an_archive(tmp_path: Path) -> None:
    pixels = [write_image(tmp_path / f"{i}.png", color=i).read_bytes() for i in range(3)]
    said = TWO["messages"]
    one = [{"role": "user", "content": "<image>?"}, said[1]]
    cases: list[tuple[dict[str, bytes], list[int]]] = [
        ({"k.json": json.dumps({"image": ["1.PNG", "k.0.png"], "messages": said}).encode()}, [1, 0]),
        ({"k.json": json.dumps({"messages": said}).encode()}, [0, 1]),
        ({"k.txt": b"a caption", "k.json": b'{"width": 3}'}, [0, 1]),
        ({"k.json": json.dumps({"image": "far/away.jpg", "messages": one}).encode()}, [0]),
    ]
    for files, wanted in cases:
        path = tmp_path / "k.tar"
        with tarfile.open(path, "w") as tar:
            for name, content in files.items():
                add(tar, name, content)
            for i in range(max(wanted) + 1):
                add(tar, f"k.{i}.png", pixels[i])
            add(tar, "__index__", b"no sample")
        assert colors(open_manifest(path)[0]) == wanted, files


def test_archives_that_are_refused(tmp_path: Path) -> None:
    path, image = tmp_path / "k.tar", write_image(tmp_path / "a.png").read_bytes()
    link = tarfile.TarInfo("k.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    good = json.dumps(seen("x.png")).encode()
    cases: dict[str, list[tuple[str, bytes] | tarfile.TarInfo]] = {
        "`k.png` in an archive is no plain file": [("k.json", good), link],
        "has no name with an ending": [("README", b"x")],
        "a file is twice in a sample": [("k.png", image), ("k.png", image)],
        "the image `x.png` is not beside its record": [("k.json", good)],
        "more `<image>` in the text": [("k.json", json.dumps(asked(1)).replace("What", "<image>").encode())],
        "is no JSON": [("k.json", b"{"), ("k.png", image)],
        "is no mapping": [("k.json", b"[]"), ("k.png", image)],
        "is not UTF-8": [("k.txt", b"\xff"), ("k.png", image)],
        "has no conversation": [("k.png", image)],
        "has no samples": [],
    }
    for message, files in cases.items():
        with tarfile.open(path, "w") as tar:
            for one in files:
                tar.addfile(one) if isinstance(one, tarfile.TarInfo) else add(tar, *one)
        with pytest.raises(DataError) as raised:
            open_manifest(path)[0]
        assert message in raised.value.message
    with tarfile.open(path, "w") as tar:
        add(tar, "k.json", good)
        add(tar, "k.png", image * 50)
    whole = path.read_bytes()
    spoilt = whole[:1024] + b"x" * 512 + whole[1536:]  # the head of the second file, where tarfile ends
    for cut in (spoilt, whole[:1500], whole[:700], b"no archive", b"", b"\x1f\x8b" + whole):
        path.write_bytes(cut)
        with pytest.raises(DataError, match=r"is no whole tar archive|ends too early"):
            open_manifest(path)
    for missing in ("none.tar", "k-{0..3}.tar", "{.tar"):
        with pytest.raises(UsageError):
            open_manifest(tmp_path / missing)


@pytest.mark.slow
def test_a_folder_that_datasets_saved(tmp_path: Path, plain: Manifest) -> None:
    from datasets import Dataset, DatasetDict, Features, Image, List, Value

    records = [*RECORDS, TWO, asked(5)]
    turns = [
        [
            {"role": turn.role, "content": (open_turn)}
            for turn, open_turn in zip(one.turns, texts(one), strict=True)
        ]
        for one in plain
    ]
    images = [
        [{"bytes": (tmp_path / name).read_bytes(), "path": None} for name in names_of(one)] for one in records
    ]
    columns = {"id": [one.id for one in plain], "images": images, "messages": turns}
    text = Value("string")
    features = Features(
        {"id": text, "images": List(Image()), "messages": List({"role": text, "content": text})}
    )
    saved = Dataset.from_dict(columns, features=features)
    saved.save_to_disk(str(tmp_path / "saved"))
    found = open_manifest(tmp_path / "saved")
    assert shown(found) == shown(plain)
    assert shown(pickle.loads(pickle.dumps(found))[4:]) == shown(plain)[4:]
    assert found.sources[0].as_json()["form"] == "datasets"
    DatasetDict({"train": saved}).save_to_disk(str(tmp_path / "splits"))
    assert shown(open_manifest(tmp_path / "splits/train")) == shown(plain)
    with pytest.raises(UsageError, match="several splits") as raised:
        open_manifest(tmp_path / "splits")
    assert "train" in raised.value.hint
    named = Dataset.from_dict({"image": ["images/2.png"], "conversations": [RECORDS[2]["conversations"]]})
    named.save_to_disk(str(tmp_path / "named"))
    assert colors(open_manifest(tmp_path / "named", image_root=str(tmp_path))[0]) == [80]
    (tmp_path / "named/state.json").write_text("{}")
    with pytest.raises(DataError, match="cannot be read"):
        open_manifest(tmp_path / "named")


def names_of(record: dict[str, Any]) -> list[str]:
    named = record.get("image", [])
    return [named] if isinstance(named, str) else named


def texts(sample: Sample) -> list[str]:
    return [
        "".join("<image>" if isinstance(piece, Picture) else str(piece) for piece in turn.pieces)
        for turn in sample.turns
    ]


def test_an_archive_that_changes_is_named(tmp_path: Path) -> None:
    path = tmp_path / "k.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "k.json", json.dumps(seen("x.png")).encode())
        add(tar, "k.png", write_image(tmp_path / "a.png").read_bytes())
    sample = open_manifest(path)[0]
    assert np.asarray(colors(sample)).tolist() == [0]
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match="ends too early"):
        colors(sample)
