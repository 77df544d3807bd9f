"""The drawings of the HTML report: to scale, and with every amount in words beside it."""

import re
from pathlib import Path

import pytest
from html_cases import (
    HOSTILE,
    chunked,
    damaged,
    dead,
    inspect,
    names_only,
    no_dtypes,
    page_of,
    part_lost,
    section,
    whole,
)
from html_pages import Node


def bars(page: Node) -> dict[str, tuple[float, float, dict[str, float]]]:
    """role -> where its bar starts, how long it is, and what it is made of, all in percent of the scale."""
    found = {}
    for row in section(page, "parts").find("ol")[0].find("li"):
        role = row.find("b")[0].text
        for bar in row.find(class_="bar"):
            style = str(bar.attributes["style"])
            start, length = (float(one) for one in re.findall(r"(?:min\(|width:)([\d.]+)%", style))
            pieces = {
                str(one.attributes["class"]): float(str(one.attributes["style"]).removeprefix("flex-grow:"))
                for one in bar.find("i")
            }
            found[role] = (start, length, pieces)
    return found


def test_draws_parts_as_long_as_their_bytes_one_after_the_other(tmp_path: Path) -> None:
    report = inspect(whole(), tmp_path)
    drawn = bars(page_of(report))
    assert list(drawn) == ["vision", "merger", "text"]
    place = 0.0
    for role, (start, length, pieces) in drawn.items():
        assert start == pytest.approx(place, abs=0.001)
        assert length == pytest.approx(100 * report.parts[role].bytes / (report.bytes or 0), abs=0.001)
        assert pieces == {"used": report.parts[role].bytes}
        place += length
    assert place == pytest.approx(100, abs=0.01)


def test_draws_dead_weight_apart(tmp_path: Path) -> None:
    report = inspect(dead(), tmp_path)
    (finding,) = (one for one in report.findings if one.code == "dead")
    _, _, pieces = bars(page_of(report))["expert"]
    unused = dead()[finding.tensors[0]][1]
    assert pieces["dead"] == pytest.approx(2 * unused[0] * unused[1])
    assert pieces["used"] + pieces["dead"] == pytest.approx(report.parts["expert"].bytes)
    said = section(page_of(report), "parts").text
    assert f"1 dead tensor, {unused[0] * unused[1] / 1000:.2f} k parameters" in said
    assert "in the file, and nothing uses it" in said


def test_draws_what_is_missing_and_what_fits_nothing(tmp_path: Path) -> None:
    report = inspect(damaged(), tmp_path)
    page = page_of(report)
    drawn = bars(page)
    text = report.parts["text"]
    assert text.expected - text.present == 12
    assert drawn["text"][2] == {
        "used": text.bytes,
        "missing": pytest.approx(text.bytes * 12 / text.present, abs=1),
    }
    assert drawn["in no part"][2] == {"outside": 28 * len(HOSTILE)}
    said = section(page, "parts").text
    assert f"12 of {text.expected} tensors missing" in said
    assert f"{len(HOSTILE)} unexplained" in said


def test_draws_a_part_that_is_missing_altogether(tmp_path: Path) -> None:
    page = page_of(inspect(part_lost(), tmp_path))
    assert bars(page)["merger"][2] == {"missing": 0}
    assert "merger missing altogether 1 error unknown" in section(page, "parts").text
    assert (
        "closest qwen2_vl/hf: at least 6 tensors missing, merger is missing altogether"
        in page.find("header")[0].text
    )


def test_draws_parameters_where_bytes_are_unknown(tmp_path: Path) -> None:
    report = inspect(no_dtypes(), tmp_path)
    page = page_of(report)
    assert section(page, "parts").find("h2")[0].text == "Parts, drawn to scale by parameters"
    assert bars(page)["text"][2] == {"used": report.parts["text"].parameters}
    assert "unknown" in section(page, "numbers").text


def test_draws_tensors_where_only_names_are_known(tmp_path: Path) -> None:
    report = names_only(tmp_path)
    page = page_of(report)
    assert section(page, "parts").find("h2")[0].text == "Parts, drawn to scale by tensors"
    assert bars(page)["text"][2] == {"used": report.parts["text"].present}
    row = next(row.text for row in section(page, "numbers").find("tr") if row.text.startswith("text "))
    assert row == f"text qwen2 {report.parts['text'].present} unknown unknown unknown hf"
    assert "parameters unknown size unknown" in page.find("header")[0].text


def test_draws_the_layers_of_chunks(tmp_path: Path) -> None:
    report = inspect(chunked(), tmp_path)
    rows = [row.text for row in section(page_of(report), "chunks").find("li")]
    assert [(chunk["first_layer"], chunk["last_layer"]) for chunk in report.chunks] == [(0, 0), (1, 2)]
    first, second = report.chunks
    assert rows == [
        f"model_starter.pth {first['tensors']} tensors 0 to 0",
        f"model_secondary0.pth {second['tensors']} tensors 1 to 2",
    ]


def test_a_chunk_without_layers_has_no_bar(tmp_path: Path) -> None:
    report = inspect(chunked(), tmp_path)
    bare = {"file": "model_starter.pth", "tensors": 4, "first_layer": None, "last_layer": None}
    part = section(page_of(report.replace(chunks=(bare,))), "chunks")
    assert [row.text for row in part.find("li")] == ["model_starter.pth 4 tensors no layers"]
    assert not part.find(class_="bar")


def test_shows_ties_and_mixed_layouts(tmp_path: Path) -> None:
    report = inspect(whole(), tmp_path)
    assert "head is not stored: it shares text.embed.weight" in section(page_of(report), "ties").text
    (tie,) = report.ties
    stored = tie._replace(is_stored=True, are_equal=False, flag=True)
    page = page_of(report.replace(ties=(stored,), layout={"vision": "hf-4.52", "text": "hf"}))
    said = "head is stored and different from text.embed.weight; the config says tie_word_embeddings = true"
    assert said in section(page, "ties").text
    assert "layout mixed: vision hf-4.52, text hf" in page.find("header")[0].text
