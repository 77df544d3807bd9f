"""What `print(model)` shows: equal layers once, at any depth, so that no model is longer than a page or two."""

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import snapshots
from dovetail.families import built_in, family
from dovetail.models import build
from models.every_model import CASES
from models.test_sizes import model_of

FAMILIES = [one.id for one in built_in() if one.model]


@pytest.mark.parametrize("id", FAMILIES)
def test_the_first_published_size(id: str) -> None:
    snapshots.check(f"print/{id}.txt", f"{model_of(id, next(iter(family(id).sizes)))}\n")


def test_nothing_else_is_kept() -> None:
    assert snapshots.names("print") == set(FAMILIES)


@pytest.mark.parametrize("name", CASES)
def test_more_layers_make_no_more_lines(name: str, models: dict[str, Any]) -> None:
    values = models[name].values
    deeper = {
        name: value._replace(value=19) if name.endswith((".layers", ".depth")) else value
        for name, value in values.values.items()
    }
    printed = str(build(replace(values, values=deeper)))
    assert printed != str(models[name])
    assert len(printed.splitlines()) == len(str(models[name]).splitlines()) < 120
