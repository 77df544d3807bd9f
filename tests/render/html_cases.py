"""Reports of small checkpoints, whole and otherwise, and how their pages are looked at."""

import json
import re
from pathlib import Path
from typing import Any

from html_pages import Node, read_page

import dovetail
from dovetail.render.html import report_html
from dovetail.report import Report
from files import MODELS, header_of, plan_of, write_listing

HOSTILE = (
    "<script>alert(1)</script>.weight",
    'x" onmouseover="alert(2).weight',
    "</style><img src=http://evil.example/x.png>.weight",
    "&lt;b&gt;&amp;.weight",
    "`back`tick`.weight",
    "right\u202eto left.weight",
    "lone \udc80 surrogate.weight",
    "n\new line.weight",
    "a" * 700,
)

Header = dict[str, Any]


def listing(family: str, layout: str) -> Header:
    """The header of a tiny model."""
    return header_of(plan_of(family, MODELS[family][0]), layout)


def whole() -> Header:
    return listing("qwen2_vl", "hf")


def dead() -> Header:
    return listing("pi0", "openpi")


def damaged() -> Header:
    """A layer is lost, a shape and a dtype are wrong, and hostile names are added."""
    header = {name: spec for name, spec in whole().items() if not name.startswith("model.layers.1.")}
    header["model.layers.2.mlp.up_proj.weight"] = ["BF16", [79, 61]]
    header["model.layers.0.mlp.up_proj.weight"] = ["F32", [83, 61]]
    return header | {name: ["F32", [7]] for name in HOSTILE}


def part_lost() -> Header:
    return {name: spec for name, spec in whole().items() if "merger" not in name}


def no_dtypes() -> Header:
    return {name: shape for name, (_, shape) in whole().items()}


def unknown() -> Header:
    return {f"trunk.{i}.{name}": ["F32", [3, 5]] for i in range(300) for name in HOSTILE}


def chunked() -> Header:
    """Two LitGPT chunks, the layers of each counted from 0."""
    files: dict[str, Header] = {"model_starter.pth": {}, "model_secondary0.pth": {}}
    for name, spec in listing("qwen2_vl", "litgpt-fork").items():
        layer = re.match(r"transformer\.h\.(\d+)\.", name)
        if layer and int(layer[1]) > 0:
            inner = name.replace(f"h.{layer[1]}.", f"h.{int(layer[1]) - 1}.", 1)
            files["model_secondary0.pth"][inner] = spec
        else:
            files["model_starter.pth"][name] = spec
    return files


CASES = [whole, dead, damaged, part_lost, no_dtypes, unknown, chunked]


def inspect(header: Header, tmp_path: Path) -> Report:
    return dovetail.inspect(write_listing(tmp_path / "checkpoint.json", header))


def names_only(tmp_path: Path) -> Report:
    """An index whose shards are not there: no shapes, no sizes."""
    shard = "model-00001-of-00001.safetensors"
    index = {"metadata": {}, "weight_map": dict.fromkeys(whole(), shard)}
    folder = tmp_path / "index"
    folder.mkdir()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return dovetail.inspect(folder)


def page_of(report: Report) -> Node:
    return read_page(report_html(report))


def section(page: Node, id: str) -> Node:
    return page.find("section", id=id)[0]


def shown(text: str) -> str:
    """Words as the page has them: without backticks around names, spaces as one."""
    return " ".join((text.replace("`", "") if text.count("`") % 2 == 0 else text).split())


def visible(text: str) -> str:
    """A hostile name as the page shows it."""
    return shown("".join(one if one.isprintable() else ascii(one)[1:-1] for one in text))
