"""What a report shows of itself where it is printed: in a terminal, and in a notebook."""

from pathlib import Path

import dovetail
from files import MODELS, header_of, plan_of, write_listing


def listing(folder: Path, *, without: str = "") -> Path:
    header = header_of(plan_of("qwen2_vl", MODELS["qwen2_vl"][0]), "hf")
    header.pop(without, None)
    return write_listing(folder / "model.json", header)


def test_a_report_is_printed_as_a_short_table(tmp_path: Path) -> None:
    path = listing(tmp_path)
    report = dovetail.inspect(path)
    head, columns, *rows = repr(report).splitlines()
    assert head == f"{path}: qwen2_vl in layout hf, 69 tensors, {report.parameters:,} parameters, whole"
    assert columns.split() == ["part", "kind", "tensors", "parameters", "dtype"]
    vision = report.parts["vision"]
    assert ["vision", "qwen2_vit", "25", f"{vision.parameters:,}", "BF16"] in [row.split() for row in rows]
    assert [row.split() for row in rows if "tied to" in row] == [
        ["head", "head", "tied", "to", "text.embed.weight"]
    ]


def test_errors_are_printed_too(tmp_path: Path) -> None:
    report = dovetail.inspect(listing(tmp_path, without="model.norm.weight"))
    assert repr(report).splitlines()[0].endswith("2 errors")
    assert "\nerror: 1 of 38 tensors of text is missing: `model.norm.weight`" in repr(report)


def test_what_is_of_no_family_says_so(tmp_path: Path) -> None:
    report = dovetail.inspect(write_listing(tmp_path / "x.json", {"a<b>": ["F32", [2]]}))
    assert (
        repr(report).splitlines()[0]
        == f"{tmp_path / 'x.json'}: of no known family, 1 tensor, 2 parameters, 1 error"
    )
    assert "a&lt;b&gt;" in report._repr_html_()


def test_a_notebook_shows_the_head_and_the_parts(tmp_path: Path) -> None:
    html = dovetail.inspect(listing(tmp_path))._repr_html_()
    assert html.startswith(f"<p>{tmp_path / 'model.json'}: qwen2_vl in layout hf, 69 tensors, ")
    assert html.count("<tr>") == 5
    assert "<td>tied to text.embed.weight</td>" in html
