"""The pages of verify, diff and plans: what they say, what stands below, and that they need nothing else."""

import base64
import hashlib
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import html_cases as cases
import pytest
from html_pages import read_page

import dovetail
from commands import dovetail as run
from dovetail.checkpoint import opened
from dovetail.render.html import report_html
from dovetail.render.html_verify import verify_html
from dovetail.tensor_list import TensorRow, rows_of
from files import write_listing

SMALL = ("--set", "text.layers=2", "--set", "text.d_model=64", "--set", "text.q_heads=4", "--set")
SMALL += ("text.kv_heads=2", "--set", "text.head_dim=16", "--set", "text.d_ff=96", "--set", "text.vocab=100")


def verification(verdict: str = "good") -> dict[str, Any]:
    """What verify says as JSON of two passes."""
    distance = {"pcc": 0.99999, "max_abs": 1e-3, "relative_norm": 2e-3, "not_finite": 0}
    names = ["vision.patch_embed", *(f"text.blocks.{i}" for i in range(40)), "head"]
    stages = [
        {
            "pass": one,
            "stage": name,
            "shape": [1, 2],
            "verdict": verdict if name == "text.blocks.7" else "good",
            "problem": None,
            "isolated": distance,
            "chained": distance,
            "seconds": 0.5,
        }
        for one in ("prefill", "decode")
        for name in names
    ]
    first = None if verdict == "good" else {"pass": "prefill", "stage": "text.blocks.7"}
    worst = {"pcc": 0.99999, "max_abs": 1e-3, "relative_norm": 2e-3, "chained_relative_norm": None}
    bad = {"not_good": int(verdict != "good"), "first_not_good": first["stage"] if first else None}
    blocks = {"module": "text: 40 blocks", "stages": 40, **bad, **worst}
    return {
        "schema": 1,
        "reference": "a/model",
        "candidate": "a/model",
        "backend": "onnx",
        "dtype": "float16",
        "note": "a <note>",
        "tolerance": {"pcc": 0.999, "relative_norm": 3e-2},
        "modules": [{"pass": one, **blocks} for one in ("prefill", "decode")],
        "stages": stages,
        "first_divergent": first,
    }


def needs_nothing(text: str) -> bool:
    """Whether a page names nothing outside itself and runs no script but the one that its policy names."""
    page = read_page(text)
    policy = next(
        one.attributes["content"] or "" for one in page.find("meta") if "http-equiv" in one.attributes
    )
    scripts = ["".join(map(str, one.children)) for one in page.find("script")]
    allowed = [
        f"'sha256-{base64.b64encode(hashlib.sha256(one.encode()).digest()).decode()}'" for one in scripts
    ]
    return re.findall(r"script-src ([^;]+)", policy) == allowed and not re.search(
        r"""(?:src|href)="(?!#|data:)""", text
    )


@pytest.mark.parametrize(("verdict", "said"), [("good", "good"), ("damaged", "not good")])
def test_the_page_of_verify_names_model_backend_and_verdict(verdict: str, said: str) -> None:
    text = verify_html(verification(verdict), command="dovetail verify a/model --backend onnx", date="today")
    page = read_page(text)
    assert needs_nothing(text)
    assert page.find("title")[0].text == f"a/model on onnx in float16: {said} - dovetail verify"
    assert page.find("h1")[0].text == "a/model on onnx in float16"
    assert page.find("footer")[0].text == (
        f"dovetail {dovetail.__version__} date today report schema 1 time 42.0 s in the stages "
        "again dovetail verify a/model --backend onnx as data verify.json beside this page has all of it, unabridged"
    )
    assert [one.text for one in page.find("nav")[0].find("a")] == ["prefill", "decode"]
    word = "good" if verdict == "good" else "1 of 40 not good, first text.blocks.7"
    assert ">text: 40 blocks<" in text
    assert word in text


def test_the_drawing_of_verify_has_axes_samples_and_names_that_do_not_meet() -> None:
    page = read_page(verify_html(verification("damaged")))
    svg = next(
        one
        for one in page.find("svg")
        if "viewbox" in one.attributes
        and one.find("polyline", class_="grid") == []
        and len(one.find("circle")) > 5
    )
    texts = {one.text: one for one in svg.find("text")}
    assert {"relative norm of the difference", "stage, in the order of the computation"} <= texts.keys()
    places = sorted(
        float(one.attributes["x"] or 0)
        for one in svg.find("text")
        if one.text.startswith(("vision.", "text.", "head"))
    )
    assert all(b - a > 100 for a, b in pairwise(places)), places
    legend = page.find(class_="legend")[0]
    assert len(legend.find("svg", class_="sample")) == 4
    assert len(svg.find("circle", class_="bad")) == 1
    assert all(one.attributes.get("tabindex") == "0" for one in page.find(class_="scroll"))


def test_the_report_lists_every_tensor_and_filters_with_the_one_script_that_it_allows(tmp_path: Path) -> None:
    with opened(write_listing(tmp_path / "it.json", cases.damaged())) as found:
        tensors = [*rows_of(found)]
        text = report_html(found.report, tensors=tensors)
        bare = report_html(found.report)
    assert needs_nothing(text)
    assert needs_nothing(bare)
    assert "<script" not in bare
    rows = cases.section(read_page(text), "tensors").find("tbody")[0].find("tr")
    assert len(rows) == len(tensors) == found.report.tensors
    assert {one.part for one in tensors} >= {*found.report.parts} - {"head"}


def test_a_script_in_a_name_is_text(tmp_path: Path) -> None:
    report = cases.inspect(cases.whole(), tmp_path)
    evil = "</script><script>alert(1)</script>"
    text = report_html(report, tensors=[TensorRow(evil, (evil,), evil, evil, (1,), evil, evil)])
    assert needs_nothing(text)
    assert len(read_page(text).find("script")) == 1


def test_very_many_tensors_are_folded_by_their_indices(tmp_path: Path) -> None:
    report = cases.inspect(cases.whole(), tmp_path)
    many = [
        TensorRow(f"a.{i}.{w}", (f"b.{i}.{w}",), "text", "F32", (2,), "f") for i in range(3000) for w in "qk"
    ]
    rows = cases.section(read_page(report_html(report, tensors=many)), "tensors").find("tbody")[0].find("tr")
    assert [row.find("th")[0].text for row in rows] == ["a.*.q 3,000 of them", "a.*.k 3,000 of them"]


def test_diff_and_plans_are_written_as_pages(tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "2")):
        assert run("make", "qwen2", name, *SMALL, "--seed", seed, cwd=tmp_path).code == 0
    pages = {
        "diff": ("diff", "a", "b", "--values", "--report", "diff"),
        "plan": ("convert", "a", "out", "--to", "litgpt", "--dry-run", "--report", "plan"),
    }
    for kind, words in pages.items():
        answer = run(*words, cwd=tmp_path)
        assert f"wrote {kind}/{kind}.json and {kind}/{kind}.html\n" in answer.err
        text = (tmp_path / kind / f"{kind}.html").read_text()
        page = read_page(text)
        assert needs_nothing(text)
        said = page.find("main")[0].text.replace(" ", "")
        cells = re.split(r"\s{2,}|\n", answer.out)
        lost = [
            one for one in cells if "".join(one.split()).replace("`", "").removeprefix("note:") not in said
        ]
        assert [one for one in lost if not one.startswith(("A", "B", "diff", "different: "))] == []
        foot = page.find("footer")[0].text
        assert f"dovetail {dovetail.__version__} date 20" in foot
        assert f"again dovetail {words[0]} a" in foot
    answer = run("convert", "a", "out", "--report", "plan", cwd=tmp_path)
    assert (answer.code, answer.err.splitlines()[0]) == (2, "error: --report is about a plan")
