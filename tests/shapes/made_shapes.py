"""An untrained model of the sizes of the recipe, made once."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from examples.shapes.recipe import begin, made

import dovetail

_FOLDER = TemporaryDirectory(prefix="shapes-")


@cache
def untrained() -> tuple[Path, Any]:
    """The checkpoint and the model in float32, with the first values of the recipe."""
    folder = Path(_FOLDER.name, "untrained")
    made(folder, seed=0)
    model = dovetail.load(folder)
    begin(model, seed=0)
    return folder, model
