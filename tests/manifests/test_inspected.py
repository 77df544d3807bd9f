"""What `dovetail data` says of a manifest: counts that are known, faults that were put there, a page that shows both."""

import json
import re
from pathlib import Path

import pytest

from commands import dovetail
from dovetail.data.cards_page import cards_html
from dovetail.data.data_page import data_page
from dovetail.data.examined import Examined, examined, usable
from dovetail.data.inspected import inspect_data
from dovetail.data.manifest import open_manifest
from dovetail.data.refusals import MOST_LISTED, Refusals
from dovetail.errors import DataError, UsageError
from dovetail.render.plain import write_plain as plain
from manifests.records import asked, seen, write_image, write_json, write_lines


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """good.json and bad.json: as many faults as records say."""
    write_image(tmp_path / "a.png", (6, 4), 30)
    write_image(tmp_path / "b.png", (60, 40), 60)
    write_image(tmp_path / "wide.png", (200, 100), 90)
    (tmp_path / "cut.png").write_bytes((tmp_path / "wide.png").read_bytes()[:80])
    (tmp_path / "text.png").write_text("no image")
    video = {"video": ["a.png", "b.png"], **{k: v for k, v in seen("").items() if k != "image"}}
    good = [asked(0), seen("a.png", kind="colour"), seen("b.png", kind="colour"), seen("wide.png"), video]
    write_json(tmp_path / "good.json", good)
    bad = [*good, seen("none.png"), seen("cut.png"), seen("text.png"), asked(1, image="a.png"), seen("a.png")]
    write_json(tmp_path / "bad.json", bad)
    return tmp_path


def test_what_is_counted(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    report = inspect_data(folder / "good.json", check=True, samples=2, progress=lambda *one: told.append(one))
    assert report.is_good
    assert report.fields == {"conversations": 5, "image": 3, "kind": 2, "id": 1, "video": 1}
    assert (report.turns, report.images_per_sample, report.videos_per_sample) == (
        {2: 5},
        {0: 2, 1: 3},
        {0: 4, 1: 1},
    )
    assert report.kinds == {"colour": 2}
    assert report.texts["user"] == (5, (10 + 4 * 6) / 5, 10)
    assert report.images == (5, 0, 0, (4, 6), (40, 60), (100, 200))
    assert [one.number for one in report.samples] == [0, 1]
    assert told[-1] == (5, 5)
    assert told == sorted(told)
    assert inspect_data(folder / "good.json").images is None


def test_what_is_wrong_is_found_and_nothing_else(folder: Path) -> None:
    report = inspect_data(folder / "bad.json", check=True)
    assert [(one.number, one.code) for one in report.refusals.listed] == [
        (5, "missing-image"),
        (6, "broken-image"),
        (7, "broken-image"),
        (8, "broken-record"),
    ]
    assert [one.code for one in report.findings] == ["missing-image", "broken-image", "broken-record"]
    assert report.images is not None
    assert report.images[:3] == (6, 1, 2)
    unchecked = inspect_data(folder / "bad.json")
    assert [one.number for one in unchecked.refusals.listed] == [8]
    assert report.as_json()["usable"] == 6
    assert json.loads(json.dumps(report.as_json()))["images"]["smallest"] == [4, 6]


def test_samples_are_skipped_and_never_replaced(folder: Path) -> None:
    manifest = open_manifest(folder / "bad.json")
    whole, refusals = usable(manifest, on_error="skip", images=True)
    assert [one.number for one in whole] == [0, 1, 2, 3, 4, 9]
    assert [*refusals.numbers] == [5, 6, 7, 8]
    assert refusals.counts == {"missing-image": 1, "broken-image": 2, "broken-record": 1}
    assert [one.number for one in usable(manifest, on_error="skip")[0]] == [0, 1, 2, 3, 4, 5, 6, 7, 9]
    with pytest.raises(DataError, match=r"there is no image") as raised:
        usable(manifest, images=True)
    assert raised.value.details == {"file": str(folder / "bad.json"), "record": "5"}
    assert usable(manifest[:5], images=True)[0] is not None
    with pytest.raises(DataError, match="no sample of"):
        usable(manifest[5:9], on_error="skip", images=True)

    def long(sample: object) -> None:
        raise UsageError("the sample is too long")

    with pytest.raises(UsageError, match="too long"):
        usable(manifest, check=long)
    assert {one.code for one in examined(manifest[:5], check=long)} == {"refused-sample"}


def test_no_more_are_listed_than_fit_in_memory(folder: Path) -> None:
    refusals = Refusals("skip")
    for i in range(MOST_LISTED + 5):
        refusals.add(i, "m.json", "broken-record", DataError("x"))
    assert (len(refusals), len(refusals.listed)) == (MOST_LISTED + 5, MOST_LISTED)
    assert refusals.as_json()["refused"] == MOST_LISTED + 5


def test_images_are_decoded_once_for_all_records_that_name_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(folder / "same.jsonl", [seen("b.png") for _ in range(300)])
    decoded: list[str] = []
    from dovetail.data import sample

    read = sample.read_image
    monkeypatch.setattr(sample, "read_image", lambda path: decoded.append(path) or read(path))
    found: list[Examined] = [*examined(open_manifest(folder / "same.jsonl"), images=True)]
    assert [one.number for one in found] == [*range(300)]
    assert all(one.looks[0].size == (40, 60) for one in found)
    assert len(decoded) < 100


def test_the_page_of_the_terminal(folder: Path) -> None:
    said = plain(data_page(inspect_data(folder / "bad.json", check=True, samples=5)))
    assert "fields          conversations (10), image (8), id (2), kind (2), video (1)" in said
    assert f"[image {folder}/a.png]\\nWhat?" in said
    assert f"[video of 2 frames from {folder}/a.png]" in said
    assert "6 whole, 1 missing, 2 broken; 4 x 6 ... 100 x 200" in said
    assert said.rstrip().endswith("4 of 10 samples cannot be used")
    good = plain(data_page(inspect_data(folder / "good.json")))
    assert good.rstrip().endswith("was not checked (--check)")
    assert (
        plain(data_page(inspect_data(folder / "good.json", check=True)))
        .rstrip()
        .endswith("every record is a sample")
    )


def test_the_html_page_shows_samples_with_their_images(folder: Path) -> None:
    attack = '<script>alert(1)</script>"'
    said = [{"from": "human", "value": f"<image>{attack}"}, {"from": "gpt", "value": "x" * 9000}]
    write_lines(
        folder / "page.jsonl", [{"image": "wide.png", "conversations": said}, seen("none.png"), seen("a.png")]
    )
    page = cards_html(inspect_data(folder / "page.jsonl", samples=9), command="dovetail data", date="today")
    assert len(re.findall(r'<img src="data:image/(?:png|jpeg);base64,', page)) == 2
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "there is no image" in page
    assert "(9,000 characters)" in page
    assert re.search(r'<img [^>]*width="192" height="128" class="pixels"', page), (
        "a small image, 32 times as large"
    )
    assert 'http-equiv="Content-Security-Policy"' in page


def test_the_command(folder: Path) -> None:
    answer = dovetail("data", "good.json", "--check", cwd=folder)
    assert (answer.code, answer.err) == (0, "")
    answer = dovetail("data", "bad.json", "--check", "--html", "out", cwd=folder)
    assert (answer.code, answer.err) == (1, "wrote out/data.json and out/data.html\n")
    assert answer.out.count("\nsample ") == 3
    assert json.loads((folder / "out/data.json").read_text())["refused"] == 4
    assert (folder / "out/data.html").read_text().count('class="card-of-sample"') == 9
    answer = dovetail("data", "good.json", "--json", "--html", "p.html", "--samples", "1", cwd=folder)
    assert answer.code == 0
    assert json.loads(answer.out) == json.loads((folder / "p.json").read_text())
    for words in (("none.json",), ("good.json", "--samples", "-1"), ("good.json", "--image-root", "none")):
        answer = dovetail("data", *words, cwd=folder)
        assert (answer.code, answer.out) == (2, "")
        assert "hint: " in answer.err
