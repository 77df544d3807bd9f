"""Every family, every pair of layouts: the bytes of one are those of the other, moved, with one fingerprint."""

from pathlib import Path

import pytest

import dovetail
from dovetail.checkpoint import Checkpoint, opened
from dovetail.edit.conversion import Conversion
from dovetail.edit.convert import conversion_plan
from dovetail.families import built_in
from dovetail.store.open import open_checkpoint
from dovetail.store.write.tensor_data import Skip, held
from files import MODELS
from homes import homes

CASES = [(family.id, number) for family in built_in() for number in range(len(MODELS[family.id]))]
Contents = dict[str, tuple[str, tuple[int, ...] | None, bytes]]


def contents(path: Path) -> Contents:
    """Every tensor of a checkpoint by its stored name."""
    with open_checkpoint(path) as store:
        return {name: (one.dtype, one.shape, store.read(name)) for name, one in store.entries.items()}


def planned(source: Checkpoint, layout: str) -> Contents:
    """Every tensor that a conversion would write, without a file written."""
    found: Contents = {}
    for tensor in conversion_plan(source, Conversion(to=layout)).tensors:
        blocks = (held(chunk) for _, chunk in tensor.chunks())  # each is overwritten by the next
        data = b"".join(bytes(one.size if isinstance(one, Skip) else one) for one in blocks)
        found |= dict.fromkeys((tensor.name, *tensor.aliases), (tensor.dtype, tensor.shape, data))
    return found


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def made(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Path]:
    """The same random weights in every layout, each written by `make`."""
    family, number = request.param
    found = {layout: tmp_path / f"made-{layout}" for layout in homes(family, number)}
    for layout, path in found.items():
        dovetail.make(family, path, layout=layout, set=MODELS[family][number], dtype="float32", seed=3)
    return found


def test_every_layout_becomes_every_other(made: dict[str, Path], tmp_path: Path) -> None:
    """Every pair without writing a file; on disk, from the first layout to each other one and back.

    What was written has the fingerprint of the first one, and `diff` finds no difference.
    """
    held = {layout: contents(path) for layout, path in made.items()}
    for a, path in made.items():
        with opened(path) as source:
            for b in made:
                assert planned(source, b) == held[b], f"{a} -> {b}"
    hub, *others = made
    prints = {dovetail.fingerprint(made[hub])}
    for layout in others:
        there = dovetail.convert(made[hub], tmp_path / layout, to=layout)
        back = dovetail.convert(tmp_path / layout, tmp_path / f"back-{layout}", to=hub)
        assert contents(tmp_path / layout) == held[layout], layout
        assert contents(tmp_path / f"back-{layout}") == held[hub], layout
        prints |= {there.fingerprint, back.fingerprint, dovetail.fingerprint(tmp_path / layout)}
        difference = dovetail.diff(made[hub], tmp_path / layout, values=True)
        assert difference.is_same, (difference.verdict, difference.settings)
        assert (difference.changes, difference.names) == ((), "canonical"), layout
        assert difference.equal == difference.compared > 0, layout
        report = dovetail.inspect(tmp_path / layout)
        assert report.is_whole, report.findings
        assert layout in (report.layout, *report.same_layouts)
    assert len(prints) == 1
