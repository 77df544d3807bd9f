"""Damaged headers of every family end in a report, never in a failure of ours."""

import random
import re
from pathlib import Path
from typing import Any

import pytest

import dovetail
from dovetail.families import built_in
from files import MODELS, header_of, plan_of, write_listing

HEADERS = [
    header
    for family in built_in()
    for layout in family.layouts
    if (header := header_of(plan_of(family.id, MODELS[family.id][0]), layout.id))
]
_INDEX = re.compile(r"\.\d+\.")


def star(name: str) -> str:
    return _INDEX.sub(".{i}.", name)


def damaged(header: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """The header with one to four mutations of single tensors or of whole rows."""
    for _ in range(chance.randint(1, 4)):
        name = chance.choice(sorted(header))
        row = [one for one in header if star(one) == star(name)]
        chosen = row if chance.random() < 0.5 else [name]
        what = chance.choice(("drop", "shift", "star", "reshape", "dtype"))
        kept = {one: value for one, value in header.items() if one not in chosen}
        for one in chosen:
            dtype, shape = header[one]
            if what == "shift":
                kept[_INDEX.sub(".17.", one, count=1)] = [dtype, shape]
            elif what == "star":
                kept[_INDEX.sub(".*.", one, count=1)] = [dtype, shape]
            elif what == "reshape":
                kept[one] = [dtype, chance.choice(([], [0], shape[::-1], [*shape, 1], [7]))]
            elif what == "dtype":
                kept[one] = [chance.choice(("F32", "I32", "BOOL", "F8_E4M3")), shape]
        header = kept or header
    return header


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(one, marks=pytest.mark.slow) for one in range(2, 250))]
)
def test_a_damaged_header_ends_in_a_report(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    for _ in range(40):
        path = write_listing(tmp_path / "x.json", damaged(chance.choice(HEADERS), chance))
        assert dovetail.inspect(path).findings is not None


def test_a_row_whose_every_tensor_is_of_another_layer_is_missing(tmp_path: Path) -> None:
    header = header_of(plan_of("qwen3", MODELS["qwen3"][0]), "hf")
    moved = {re.sub(r"\.\d+\.(self_attn.k_proj)", r".17.\1", name): value for name, value in header.items()}
    report = dovetail.validate(write_listing(tmp_path / "x.json", moved), as_="qwen3")
    assert not report.is_whole
    assert any("k_proj" in name for finding in report.findings for name in finding.tensors)
