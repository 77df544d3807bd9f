"""The HTML report: one page that is well formed, self-contained, safe, and says all that the report says."""

import json
import re
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from html_cases import (
    CASES,
    HOSTILE,
    Header,
    chunked,
    damaged,
    inspect,
    names_only,
    page_of,
    section,
    shown,
    unknown,
    visible,
    whole,
)
from html_pages import read_page

import dovetail
from dovetail.render.html import report_html
from dovetail.report import Finding, Report


@pytest.fixture(params=[*CASES, names_only], ids=lambda case: case.__name__)
def report(request: pytest.FixtureRequest, tmp_path: Path) -> Report:
    case: Callable[..., Any] = request.param
    return case(tmp_path) if case is names_only else inspect(case(), tmp_path)


# what is on the page


def test_every_page_is_well_formed_with_its_sections_in_order(report: Report) -> None:
    page = page_of(report)
    ids = [one.attributes["id"] for one in page.find("section") if "id" in one.attributes]
    order = [
        "findings",
        "parts",
        "numbers",
        "shapes",
        "settings",
        "ties",
        "chunks",
        "accounting",
        "dtypes",
        "unchecked",
    ]
    assert ids == [id for id in order if id in ids]
    assert {"findings", "parts", "accounting", "unchecked"} <= set(ids)
    links = [one.attributes["href"] for one in page.find("nav")[0].find("a")]
    assert links == [f"#{id}" for id in ids]


def test_every_link_leads_to_an_element_of_the_page(report: Report) -> None:
    page = page_of(report)
    ids = [one.attributes["id"] for one in page.walk() if "id" in one.attributes]
    assert len(set(ids)) == len(ids)
    assert {one.attributes["href"] for one in page.find("a")} <= {f"#{id}" for id in ids}


def test_every_finding_is_there_with_its_hint(report: Report) -> None:
    page = page_of(report)
    for i, finding in enumerate(report.findings, 1):
        (article,) = page.find("article", id=f"finding-{i}")
        assert article.find(class_="severity")[0].text == finding.severity
        assert article.find(class_="tags")[0].find("code")[0].text == finding.code
        assert article.find(class_="message")[0].text == visible(finding.message)
        hints = [one.text for one in article.find(class_="copy")]
        assert hints == ([visible(finding.hint)] if finding.hint else [])
    assert len(page.find("article")) == len(report.findings)


def test_every_part_is_drawn_and_in_the_table(report: Report) -> None:
    page = page_of(report)
    drawn = [
        row.find(class_="who")[0].text for row in section(page, "parts").find("li") if row.find(class_="who")
    ]
    for role, part in report.parts.items():
        assert any(text.startswith(f"{role} {part.kind}") for text in drawn)
        rows = [row.text for row in section(page, "numbers").find("tr") if row.text.startswith(f"{role} ")]
        assert any(part.kind in row for row in rows)
        if part.prefix:
            assert f"under {part.prefix}" in section(page, "numbers").text


def test_every_size_and_setting_is_there_with_its_source(report: Report) -> None:
    rows = [row.text for row in page_of(report).find("tr")]
    for name, value in report.config.items():
        known = "not determined" if value.value is None else value.value
        known = known if isinstance(known, str) else json.dumps(known)
        expected = f"{name.rpartition('.')[2]} {known} {value.source} {shown(value.evidence)}"
        assert any(visible(expected) == row for row in rows), expected


def test_every_shape_is_there(report: Report) -> None:
    rows = [row.text for row in page_of(report).find("tr")]
    for part in report.parts.values():
        for name, shape in part.shapes.items():
            size = "unknown" if shape is None else " × ".join(map(str, shape))
            assert f"{name} {size}" in rows


def test_the_verdict_comes_first(report: Report) -> None:
    header = page_of(report).find("header")[0]
    state = header.find("strong")[0].text
    assert state == report.state
    errors = sum(1 for finding in report.findings if finding.severity == "error")
    assert f"{state} {errors} error{'' if errors == 1 else 's'}, " in header.text
    assert visible(report.path) in header.text


def test_accounts_for_every_name(report: Report) -> None:
    account = report.accounting
    total = (
        account.used + account.dead + account.duplicates + account.unexplained + sum(account.ignored.values())
    )
    said = section(page_of(report), "accounting").text
    assert said.startswith(f"Where every tensor went {total:,} names in the file, each counted once.")


def test_says_what_was_not_checked_and_what_made_it(report: Report) -> None:
    page = page_of(report)
    assert all(limit in section(page, "unchecked").text for limit in report.unchecked)
    foot = page.find("footer")[0].text
    assert re.search(
        rf"dovetail {dovetail.__version__} date \d{{4}}-\d\d-\d\d \d\d:\d\d UTC report schema 1 time", foot
    )
    assert all(f"{step} " in foot for step in report.seconds)


def test_reads_values_only_on_request_and_says_so(tmp_path: Path) -> None:
    report = inspect(whole(), tmp_path).replace(unchecked=())
    said = section(page_of(report), "unchecked").text
    assert said.endswith(
        "This kind of input hides nothing. The values of the tensors are read only with --values."
    )


@pytest.mark.parametrize("case", CASES)
def test_is_the_same_every_time_apart_from_the_timings(case: Callable[[], Header], tmp_path: Path) -> None:
    one, other = (report_html(inspect(case(), tmp_path)) for _ in range(2))
    timings = re.compile(r"<dt>(?:time|date)</dt><dd>.*?</dd>")
    assert len(timings.findall(one)) == 2
    assert timings.sub("", one) == timings.sub("", other)


# names that nobody vouches for


@pytest.mark.parametrize("case", [damaged, unknown])
def test_a_hostile_name_is_only_ever_text(case: Callable[[], Header], tmp_path: Path) -> None:
    report = inspect(case(), tmp_path).with_findings(
        Finding(code="x", severity="note", message="names", tensors=HOSTILE)
    )
    text = report_html(report)
    page = read_page(text)
    assert not page.find("script")
    assert not page.find("img")
    assert {key for one in page.walk() for key in one.attributes if key.startswith("on")} == set()
    names = {one.text for one in page.find(class_="names")[-1].find("code")}
    assert names == {" ".join(visible(name).split()) if "`" not in name else name for name in HOSTILE}


def test_a_name_that_turns_the_line_round_is_shown_as_its_escape(tmp_path: Path) -> None:
    text = report_html(inspect(damaged(), tmp_path))
    assert "\u202e" not in text
    assert r"right\u202eto left" in text


def test_hostile_words_anywhere_in_a_report_are_only_text(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    report = inspect(chunked(), tmp_path)
    part = report.parts["text"]._replace(prefix=evil, layout=evil, dtypes={evil: 3}, features=(evil,))
    value = next(iter(report.config.values()))._replace(value=[evil], evidence=evil, source=evil)
    report = report.replace(
        path=evil,
        format=evil,
        files=(evil, evil),
        title=evil,
        variant=evil,
        wrappers=(evil,),
        same_layouts=(evil,),
        parts={evil: part},
        config={evil: value},
        chunks=({**report.chunks[0], "file": evil},),
        dtypes={evil: 3},
        unchecked=(evil,),
    )
    page = page_of(report)
    assert not page.find("script")
    assert page.text.count(evil) > 15


def test_asks_the_network_for_nothing(report: Report) -> None:
    text = report_html(report)
    page = read_page(text)
    references = [
        value
        for one in page.walk()
        for key, value in one.attributes.items()
        if key in ("src", "href", "srcset", "action", "data", "poster", "background")
    ]
    assert all(value and value.startswith(("#", "data:")) for value in references)
    style = page.find("style")[0].children[0]
    assert not re.search(r"url\(|@import|//", str(style))
    assert "<style" in text


def test_its_own_policy_forbids_scripts(report: Report) -> None:
    policies = [
        one.attributes["content"]
        for one in page_of(report).find("meta")
        if one.attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies == [
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    ]


# long lists


def test_lists_200_tensors_and_says_how_many_more(tmp_path: Path) -> None:
    names = tuple(f"a.{i}" for i in range(1234))
    report = inspect(whole(), tmp_path).with_findings(
        Finding(code="x", severity="note", message="many", tensors=names)
    )
    (details,) = section(page_of(report), "findings").find("details")
    assert details.find("summary")[0].text == "1,234 tensors"
    lines = [one.text for one in details.find("li")]
    assert lines[:200] == list(names[:200])
    assert lines[200:] == ["and 1,034 more in report.json"]


def test_does_not_repeat_the_one_tensor_of_a_message(tmp_path: Path) -> None:
    finding = Finding(code="x", severity="note", message="`a.b` is odd", tensors=("a.b",))
    report = inspect(whole(), tmp_path)
    assert not section(page_of(report.with_findings(finding)), "findings").find("details")
    other = finding._replace(tensors=("a.b", "a.c"))
    assert section(page_of(report.with_findings(other)), "findings").find("details")


# colours


def colours(style: str) -> list[dict[str, str]]:
    """The palettes of the stylesheet, light first."""
    found = re.findall(r":root \{(.*?)\}", style, re.S)
    return [dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", block)) for block in found]


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2.2, sec. 1.4.3."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_has_the_contrast_of_wcag_aa_in_both_themes() -> None:
    style = files("dovetail.render").joinpath("html.css").read_text()
    light, dark = colours(style)[:2]
    for palette in (light, dark):
        for word in ("ink", "soft", "accent", "bad", "warn", "good"):
            for ground in ("paper", "wash"):
                assert contrast(palette[word], palette[ground]) >= 4.5, (word, ground)


def test_the_measure_of_contrast_can_fail() -> None:
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
