"""The checkpoints that come with the package, for whoever has none at hand.

`SHAPES` is a Qwen2-VL of a million parameters that sees coloured shapes and answers questions about them;
`PATHS` is a pi0 of as many that draws a line to the shape that it is told. `examples/shapes/recipe.py` and
`paths.py` of the repository made them.
"""

import os

_HERE = os.path.dirname(os.path.abspath(__file__))
SHAPES = os.path.join(_HERE, "shapes")
PATHS = os.path.join(_HERE, "paths")
