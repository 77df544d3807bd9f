"""Every form of a manifest gives the same samples; sampling does what its words say."""

import pickle
from pathlib import Path

import pytest

from dovetail.data.manifest import Manifest, open_manifest
from dovetail.data.sampling import chosen
from dovetail.errors import DataError, UsageError
from manifests.records import asked, write_json, write_lines

RECORDS = [asked(i) for i in range(10)]


def ids(manifest: Manifest) -> list[str | None]:
    return [sample.id for sample in manifest]


def test_every_form_of_json_gives_the_same_samples(tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "lines.jsonl", RECORDS)
    text = lines.read_bytes()
    loose = tmp_path / "loose.jsonl"
    loose.write_bytes(b"\xef\xbb\xbf\r\n" + text.replace(b"\n", b"\r\n\r\n").rstrip())
    bare = [{key: value for key, value in one.items() if key != "id"} for one in RECORDS]
    forms = {
        "lines": lines,
        "lines called json": write_lines(tmp_path / "lines.json", RECORDS),
        "byte order mark, CRLF, empty lines, no last line break": loose,
        "list": write_json(tmp_path / "list.json", RECORDS),
        "samples": write_json(tmp_path / "samples.json", {"version": 1, "samples": RECORDS, "made": "now"}),
        "mapping": write_json(tmp_path / "mapping.json", dict(zip("0123456789", bare, strict=True))),
    }
    for form, path in forms.items():
        found = open_manifest(path)
        assert (form, ids(found)) == (form, [str(i) for i in range(10)])
        assert [one.turns for one in found] == [one.turns for one in open_manifest(lines)]
        again = pickle.loads(pickle.dumps(found))
        assert (again[7], again[-1], len(again)) == (found[7], found[9], 10)
    assert ids(open_manifest(write_json(tmp_path / "one.json", RECORDS[3]))) == ["3"]


def test_records_that_are_longer_than_what_is_read_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a block ends: in a number, a word, an escape, a letter of several bytes."""
    records = [{**RECORDS[0], "id": f'ä\u2028\\u00e4 \\" {i}', "n": [1.5e-3, True, None]} for i in range(4)]
    paths = [
        write_json(tmp_path / "a.json", records),
        write_json(tmp_path / "b.json", {"samples": records, "n": 12345}),
        write_lines(tmp_path / "c.jsonl", records),
    ]
    for size in (1, 2, 3, 7, 64):
        monkeypatch.setattr("dovetail.data.json_index._READ", size)
        for path in paths:
            assert ids(open_manifest(path)) == [one["id"] for one in records]


def test_lists_of_manifests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "sub/a.json", RECORDS)
    write_lines(tmp_path / "b.jsonl", RECORDS)
    listing = tmp_path / "mix.yaml"
    listing.write_text(
        "datasets:\n  - json_path: sub/a.json\n    sampling_strategy: first:25%\n"
        "  - json_path: b.jsonl\n    sampling_strategy: end:2\n  - {json_path: b.jsonl, sampling_strategy: end:0}\n"
        f"  - json_path: {tmp_path}/b.jsonl\n"
    )
    found = open_manifest(listing)
    assert ids(found) == [*"012", *"89", *"0123456789"]
    assert [one.as_json()["taken"] for one in found.sources] == [3, 2, 0, 10]
    assert ids(found[2:5]) == [*"289"[:1], "8", "9"]
    assert found[2:5].place(1) == (found.sources[1], 8)
    assert ids(found[1:][1:3]) == ["2", "8"]
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    write_lines(Path("a.jsonl"), RECORDS[:1])
    write_lines(Path("c.jsonl"), RECORDS[2:3])
    assert ids(open_manifest("{a,c}.jsonl")) == ["0", "2"]
    (tmp_path / "here.yaml").write_text("datasets: [{json_path: c.jsonl}]")
    assert ids(open_manifest("../here.yaml")) == ["2"], "a path from the current folder"


def test_sampling_does_what_its_words_say() -> None:
    """SYSTEMS.md T.6, and what the published code does not do."""
    taken = {
        "first:3": [0, 1, 2],
        "end:3": [7, 8, 9],
        "first:25%": [0, 1, 2],
        "first:12.5%": [0, 1],
        "end:100%": list(range(10)),
        "end:0": [],
        "first:0": [],
        "random:0%": [],
        "random:10": list(range(10)),
    }
    for strategy, numbers in taken.items():
        found = chosen(strategy, 10)
        assert (strategy, found is not None and found.tolist()) == (strategy, numbers)
    assert chosen("all", 10) is None
    assert len(chosen("first:0.1%", 3000)) == 3, "in fractions, not in floating point"  # type: ignore[arg-type]


def test_random_sampling_is_of_its_seed(tmp_path: Path) -> None:
    draws = [chosen("random:50%", 1000, seed=seed).tolist() for seed in (0, 0, 1)]  # type: ignore[union-attr]
    assert draws[0] == draws[1] != draws[2]
    assert len({*draws[0]}) == 500
    assert draws[0] == sorted(draws[0])
    write_json(tmp_path / "a.json", RECORDS)
    listing = tmp_path / "a.yaml"
    entry = "{json_path: a.json, sampling_strategy: 'random:5'}"
    listing.write_text(f"datasets: [{entry}, {entry}]")
    found = [ids(open_manifest(listing, seed=seed)) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert found[0][:5] != found[0][5:]


@pytest.mark.parametrize(
    "strategy",
    ["", "al", "first", "first:", "first:11", "end:101%", "random:-1", "first:1e3", "all:3", "first:½", "last:3",
     "first:" + "9" * 5000, "random:nan%"],
)  # fmt: skip
def test_sampling_that_is_not_understood_is_no_all(strategy: str) -> None:
    with pytest.raises(DataError):
        chosen(strategy, 10)


def test_a_fingerprint_is_of_the_records_that_are_taken(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        write_json(tmp_path / folder / "a.json", RECORDS)
    x, y = (open_manifest(tmp_path / folder / "a.json") for folder in ("x", "y"))
    assert x.fingerprint == y.fingerprint != x[:9].fingerprint
    assert open_manifest(write_json(tmp_path / "x/a.json", RECORDS[:9])).fingerprint != y.fingerprint


def test_what_is_not_there_is_the_mistake_of_the_call(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", RECORDS)
    for wrong in (tmp_path / "b.json", tmp_path, tmp_path / "{b,c}.json"):
        with pytest.raises(UsageError):
            open_manifest(wrong)
    with pytest.raises(UsageError, match="image root"):
        open_manifest(path, image_root=str(tmp_path / "none"))
    with pytest.raises(IndexError):
        open_manifest(path)[10]
    with pytest.raises(IndexError):
        open_manifest(path).select([10])
