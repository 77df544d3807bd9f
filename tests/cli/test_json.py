"""`--json`: the documented keys in their order, strict JSON, data on stdout and talk on stderr."""

import json
import re
from pathlib import Path
from typing import Any, Never

import checkpoints as some
import pytest

from commands import dovetail
from dovetail.report import Accounting, Closest, Finding, PartReport, Report, Tie, Value

REPORT = [
    *(
        "schema",
        "path",
        "format",
        "files",
        "family",
        "variant",
        "layout",
        "same_layouts",
        "candidates",
        "wrappers",
    ),
    *(
        "chunks",
        "parts",
        "config",
        "ties",
        "tensors",
        "parameters",
        "bytes",
        "dtypes",
        "accounting",
        "findings",
    ),
    *("whole", "closest", "unchecked", "seconds", "forward", "quantisation", "adapter", "memory"),
]
PART = [
    *(
        "kind",
        "layout",
        "prefix",
        "complete",
        "expected",
        "tensors",
        "parameters",
        "bytes",
        "dtypes",
        "features",
    ),
    *("tied_to", "shapes"),
]
VALUE = ["value", "source", "evidence"]
TIE = ["part", "leaf", "stored", "config_flag", "equal"]
CHUNK = ["file", "first_layer", "last_layer", "tensors"]
ACCOUNTING = ["used", "dead", "duplicates", "ignored", "unexplained"]
FINDING = ["code", "severity", "part", "message", "tensors", "hint"]
CLOSEST = ["family", "layout", "missing", "unexplained", "fits"]
LINK = re.compile(r"""(?:src|href|action)\s*=\s*["']?(?!["']|#|data:)[^\s>]*|url\(|@import""")
CASES: dict[str, some.Build] = {
    "whole": some.made("qwen2_vl", "hf"),
    "lost tensor": some.lost_tensor,
    "mixed layouts": some.mixed_layouts,
    "unknown": some.unknown,
    "listing": some.listing,
    "chunks": some.chunks,
    "resampler": some.made("panovlm", "resampler-bare"),
    "hostile names": some.hostile_names,
}


def strict(text: str) -> Any:
    """JSON as the standard has it: no NaN, no name twice in an object."""

    def refuse(word: str) -> Never:
        raise ValueError(word)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    return json.loads(text, parse_constant=refuse, object_pairs_hook=unique)


def keys(values: Any) -> set[tuple[str, ...]]:
    """The keys of each of some objects, in their order."""
    return {tuple(value) for value in values}


@pytest.mark.parametrize("verb", ["inspect", "validate"])
@pytest.mark.parametrize("case", CASES)
def test_every_report_has_the_documented_keys_in_order(case: str, verb: str, tmp_path: Path) -> None:
    CASES[case](tmp_path / "it")
    answer = dovetail(verb, "it", "--json", cwd=tmp_path)
    report = strict(answer.out)
    assert answer.err == ""
    assert (list(report), report["schema"], report["path"]) == (REPORT, 1, "it")
    assert answer.code == (0 if report["whole"] else 1)
    assert keys(report["parts"].values()) <= {tuple(PART)}
    assert keys(report["config"].values()) <= {tuple(VALUE)}
    assert keys(report["ties"]) <= {tuple(TIE)}
    assert keys(report["chunks"]) <= {tuple(CHUNK)}
    assert list(report["accounting"]) == ACCOUNTING
    assert keys(report["findings"]) <= {tuple(FINDING)}
    assert report["closest"] is None or list(report["closest"]) == CLOSEST
    counted = sum(report["accounting"][column] for column in ACCOUNTING if column != "ignored")
    assert counted + sum(report["accounting"]["ignored"].values()) == report["tensors"]


def test_the_key_lists_above_are_those_of_the_classes() -> None:
    """No key is missing above because no case shows it."""
    finding = Finding("code", "note", "message")
    assert list(finding.as_json()) == FINDING
    assert list(Value(1, "weights", "").as_json()) == VALUE
    assert list(Tie("head", "text.embed.weight", True, None).as_json()) == TIE
    assert list(Accounting(0, 0, 0, {}, 0).as_json()) == ACCOUNTING
    assert list(Closest(None, None, 0, 0, ()).as_json()) == CLOSEST
    assert list(PartReport("head", None, "", 0, 0, 0, 0, {}, {}).as_json()) == PART


def test_layout_is_one_id_or_a_map_from_part_to_id(tmp_path: Path) -> None:
    layouts = {}
    for case in ("whole", "mixed layouts", "unknown"):
        CASES[case](tmp_path / case)
        layouts[case] = json.loads(dovetail("inspect", case, "--json", cwd=tmp_path).out)["layout"]
    assert layouts == {
        "whole": "hf",
        "mixed layouts": {"vision": "hf", "merger": "hf", "text": "hf-4.52"},
        "unknown": None,
    }


def test_numbers_that_json_does_not_have_are_words(tmp_path: Path) -> None:
    some.write(tmp_path / "it", some.header("qwen2", "hf"))
    (tmp_path / "it" / "config.json").write_text('{"rms_norm_eps": NaN, "rope_theta": 1e999}')
    config = strict(dovetail("inspect", "it", "--json", cwd=tmp_path).out)["config"]
    assert (config["text.norm_eps"]["value"], config["text.rope_theta"]["value"]) == ("NaN", "Infinity")


def test_families_are_a_list_with_their_layouts() -> None:
    answer = dovetail("families", "--json")
    families = strict(answer.out)
    assert (answer.code, answer.err) == (0, "")
    assert keys(families) == {("family", "title", "parts", "layouts", "sizes", "variants", "sources")}
    assert keys(layout for one in families for layout in one["layouts"]) == {
        ("id", "writable", "note", "readers", "same_as")
    }
    qwen = next(one for one in families if one["family"] == "qwen2_vl")
    assert list(qwen["parts"]) == ["vision", "merger", "text", "head"]
    assert [(layout["id"], layout["writable"]) for layout in qwen["layouts"]] == [
        ("hf", True),
        ("hf-4.52", True),
        ("hf-5.5.4", False),
        ("hf-base", True),
        ("hf-5.5.3-bug", False),
        ("litgpt", True),
        ("litgpt-legacy", True),
        ("litgpt-fork", True),
    ]


@pytest.mark.parametrize("build", [some.made("qwen2_vl", "hf"), some.lost_tensor, some.hostile_names])
def test_report_writes_what_json_prints_and_a_page_that_needs_nothing(
    build: some.Build, tmp_path: Path
) -> None:
    build(tmp_path / "it")
    answer = dovetail("validate", "it", "--json", "--report", "out/report", cwd=tmp_path)
    folder = tmp_path / "out" / "report"
    assert answer.err == "wrote out/report/report.json and out/report/report.html\n"
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "report.json"]
    assert (folder / "report.json").read_text() == answer.out
    page = (folder / "report.html").read_text()
    assert LINK.findall(page) == []


def test_the_search_for_links_can_fail() -> None:
    page = '<img src="https://a/b.png"><a href="#here"><link rel=icon href="data:,">'
    found = LINK.findall(page)
    assert found == ['src="https://a/b.png"']


def test_report_is_talk_beside_the_page(tmp_path: Path) -> None:
    some.made("qwen2", "hf")(tmp_path / "it")
    quiet = dovetail("validate", "it", cwd=tmp_path)
    told = dovetail("validate", "it", "--report", "out", cwd=tmp_path)
    assert told == (0, quiet.out, "wrote out/report.json and out/report.html\n")
    assert isinstance(json.loads((tmp_path / "out" / "report.json").read_text()), dict)


def test_report_class_documents_each_key() -> None:
    """What the Report holds is what its JSON says, but for the title, which is for pages."""
    fields = set(Report.__init__.__annotations__) - {"return"}
    assert fields - {"title"} == set(REPORT) - {"schema", "whole"}
