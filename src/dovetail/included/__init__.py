"""The checkpoint that comes with the package, for whoever has none at hand.

`SHAPES` is a Qwen2-VL of a million parameters that sees coloured shapes and answers questions about them. It
was made by `examples/shapes/recipe.py` of the repository.
"""

import os

SHAPES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "shapes")
