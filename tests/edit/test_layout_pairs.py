"""Every family, every pair of layouts: there and back, byte for byte, with one fingerprint."""

from contextlib import suppress
from itertools import permutations
from pathlib import Path

import pytest

import dovetail
from dovetail.errors import UsageError
from dovetail.families import built_in
from dovetail.store.open import open_checkpoint
from files import MODELS, plan_of


def homes(id: str, number: int) -> list[str]:
    """The layouts that can hold a whole model of MODELS."""
    plan = plan_of(id, MODELS[id][number])
    found = []
    for layout in plan.family.layouts:
        with suppress(UsageError):
            if layout.is_writable and plan.kinds.keys() <= layout.mounts.keys():
                list(plan.stored(layout))
                found.append(layout.id)
    return found


PAIRS = [
    pytest.param(family.id, number, a, b, id=f"{family.id}-{number}-{a}-{b}")
    for family in built_in()
    for number in range(len(MODELS[family.id]))
    for a, b in permutations(homes(family.id, number), 2)
]


def contents(path: Path) -> dict[str, tuple[str, tuple[int, ...] | None, bytes]]:
    """Every tensor by its stored name."""
    with open_checkpoint(path) as store:
        return {name: (one.dtype, one.shape, store.read(name)) for name, one in store.entries.items()}


@pytest.mark.parametrize(("family", "number", "a", "b"), PAIRS)
def test_there_and_back_is_the_identity(family: str, number: int, a: str, b: str, tmp_path: Path) -> None:
    dovetail.make(family, tmp_path / "a", layout=a, sizes=MODELS[family][number], dtype="float32", seed=3)
    there = dovetail.convert(tmp_path / "a", tmp_path / "b", to=b)
    back = dovetail.convert(tmp_path / "b", tmp_path / "back", to=a)
    assert contents(tmp_path / "a") == contents(tmp_path / "back")
    assert there.fingerprint == back.fingerprint
    report = dovetail.inspect(tmp_path / "b")
    assert report.is_whole, report.findings
    assert b in (report.layout, *report.same_layouts)
