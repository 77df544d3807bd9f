"""`diff`, `fingerprint` and `stamp` as a user runs them: exit codes, streams, pages, JSON."""

import json
from pathlib import Path

import pytest

import dovetail as library
import snapshots
from commands import dovetail, on_terminal
from files import MODELS
from files import scoped as of

PANO = {**MODELS["panovlm"][0], **of("resampler", {"depth": 2})}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with `a`, the same weights as `b` in LitGPT's names, other weights as `c`, and a PanoVLM."""
    for name, seed in (("a", 1), ("c", 2)):
        library.make("qwen2", tmp_path / name, set=MODELS["qwen2"][0], seed=seed)
    library.convert(tmp_path / "a", tmp_path / "b", to="litgpt")
    library.make("panovlm", tmp_path / "pano", set=PANO, layout="legacy", seed=1)
    return tmp_path


def test_diff_of_the_same(work: Path) -> None:
    answer = dovetail("diff", "a", "b", "--values", cwd=work)
    assert (answer.code, answer.err) == (0, "")
    snapshots.check("compare/diff-same.txt", answer.out)


def test_diff_of_others(work: Path) -> None:
    answer = dovetail("diff", "a", "c", "--values", cwd=work)
    assert (answer.code, answer.err) == (1, "")
    assert answer.out.splitlines()[-1].startswith("different: ")


def test_diff_of_headers_that_differ(work: Path) -> None:
    library.make("qwen2", work / "d", set={**MODELS["qwen2"][0], "text.layers": 4, "text.d_ff": 89})
    answer = dovetail("diff", "a", "d", cwd=work)
    assert (answer.code, answer.err) == (1, "")
    snapshots.check("compare/diff-headers.txt", answer.out)


def test_diff_as_json(work: Path) -> None:
    answer = dovetail("diff", "a", "c", "--values", "--json", cwd=work)
    found = json.loads(answer.out)
    assert (answer.code, found["same"], found["schema"]) == (1, False, 1)
    assert {change["kind"] for change in found["changes"]} == {"values"}


def test_diff_on_a_terminal_shows_the_same_words(work: Path) -> None:
    answer = on_terminal("diff", "a", "b", cwd=work)
    assert answer.code == 0
    assert "values not compared" in " ".join(answer.out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("diff", "a", "absent"), "there is no `absent`"),
        (("diff", "a", "b", "--tolerance", "0.1"), "--tolerance is about values"),
        (("diff", "a", "b", "--values", "--tolerance", "nan"), "--tolerance nan is no tolerance"),
        (("diff", "a", "b", "--values", "--tolerance", "-1"), "--tolerance -1.0 is no tolerance"),
        (("fingerprint", "absent"), "there is no `absent`"),
        (("stamp", "pano", "--set", "norm_first"), "is not NAME=VALUE"),
        (("stamp", "pano", "--set", "norm_first=yes"), "`yes` is no value of resampler.norm_first"),
    ],
    ids=" ".join,
)
def test_wrong_usage(words: tuple[str, ...], message: str, work: Path) -> None:
    answer = dovetail(*words, cwd=work)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err


def test_fingerprint_is_one_line_for_scripts(work: Path) -> None:
    one, other = (dovetail("fingerprint", name, cwd=work) for name in ("a", "b"))
    assert one == other
    assert (one.code, one.err, len(one.out)) == (0, "", 65)
    found = json.loads(dovetail("fingerprint", "b", "--json", cwd=work).out)
    assert found["fingerprint"] == found["certified"] == one.out.strip()


def test_fingerprint_says_when_the_certificate_has_another(work: Path) -> None:
    (work / "c" / "dovetail.json").write_bytes((work / "b" / "dovetail.json").read_bytes())
    (work / "c" / "model.safetensors").write_bytes((work / "a" / "model.safetensors").read_bytes())
    certificate = json.loads((work / "c" / "dovetail.json").read_text())
    del certificate["leaves"]["head.weight"]
    (work / "c" / "dovetail.json").write_text(json.dumps({**certificate, "fingerprint": "0" * 64}))
    answer = dovetail("fingerprint", "c", cwd=work)
    assert answer.code == 0
    assert "the certificate beside the weights has another fingerprint, 0000" in answer.err


def test_stamp_says_what_it_wrote(work: Path) -> None:
    answer = dovetail("stamp", "a", cwd=work)
    assert (answer.code, answer.err) == (0, "")
    snapshots.check("compare/stamp.txt", answer.out)


def test_stamp_lists_what_is_said_and_what_is_open(work: Path) -> None:
    answer = dovetail("stamp", "pano", "--set", "norm_first=True", cwd=work)
    assert (answer.code, answer.err) == (0, "")
    said, _, rest = answer.out.partition("still open, and not written: say them with --set NAME=VALUE\n")
    assert said.splitlines()[-2].split() == [
        "resampler.norm_first",
        "True",
        "stamp",
        "--set:",
        "resampler.norm_first",
    ]
    assert "resampler.dropout" in rest
    assert rest.splitlines()[-2:] == ["wrote pano/dovetail.json", "wrote pano/checkpoint_metadata.json"]
    assert library.inspect(work / "pano").config["resampler.norm_first"].value is True


def test_stamp_as_json(work: Path) -> None:
    answer = dovetail("stamp", "a", "--no-values", "--dry-run", "--json", cwd=work)
    found = json.loads(answer.out)
    assert (found["written"], found["fingerprint"], found["files"]) == (False, None, ["a/dovetail.json"])
    assert found["values"]["text.rope_theta"]["source"] == "config"


def test_stamp_refuses_what_the_weights_contradict(work: Path) -> None:
    answer = dovetail("stamp", "pano", "--set", "d_state=32", cwd=work)
    assert (answer.code, answer.out) == (1, "")
    snapshots.check("compare/stamp-refused.txt", answer.err)


def test_findings_of_a_certificate_are_in_the_html(work: Path) -> None:
    certificate = json.loads((work / "b" / "dovetail.json").read_text())
    tags = {"text.norm.weight": "random"}
    (work / "b" / "dovetail.json").write_text(
        json.dumps({**certificate, "init": tags, "allowed": ["a scratch"]})
    )
    answer = dovetail("validate", "b", "--values", "--report", "out", cwd=work)
    assert answer.code == 0
    page = (work / "out" / "report.html").read_text()
    report = json.loads((work / "out" / "report.json").read_text())
    assert {"tagged", "let-pass"} <= {finding["code"] for finding in report["findings"]}
    assert "1 parameter is random" in answer.out
    assert "a scratch" in page
    assert "text.norm.weight" in page.replace("<wbr>", "")
