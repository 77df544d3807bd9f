"""Writes pictures of shapes and a manifest of questions about them, which any trainer can read.

    python -m examples.shapes.manifest OUT [--pictures N] [--held-out] [--seed N]
    dovetail data OUT/shapes.jsonl --image-root OUT

OUT gets `images/*.png` and `shapes.jsonl`: one record for each question, in LLaVA's form, with its `kind`.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from examples.shapes.questions import KINDS, asked
from examples.shapes.scenes import drawn, drawn_scene

MANIFEST = 100  # the seed's second number: none of the recipe's own (recipe.py)


def main(words: list[str]) -> int:
    """Writes a folder of pictures and its manifest."""
    parser = argparse.ArgumentParser(prog="python -m examples.shapes.manifest", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--pictures", type=int, default=200, help="how many (default 200)")
    parser.add_argument(
        "--held-out", action="store_true", help="each picture has a held-out pair, and is asked of it"
    )
    parser.add_argument("--pairs", choices=("named", "more", "all"), default="named", help="of which colours")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words)
    number = write_manifest(
        options.out, options.pictures, seed=options.seed, pairs=options.pairs, is_held_out=options.held_out
    )
    print(f"{options.out}/shapes.jsonl: {number} questions about {options.pictures} pictures")
    return 0


def write_manifest(
    out: Path, pictures: int, *, seed: int, pairs: str = "named", is_held_out: bool = False
) -> int:
    """Writes so many pictures and a question of each kind that a picture has one of; how many there are."""
    random = np.random.default_rng([seed, MANIFEST, int(is_held_out)])
    (out / "images").mkdir(parents=True)
    number = 0
    with (out / "shapes.jsonl").open("x", encoding="utf-8") as lines:
        for i in range(pictures):
            scene = drawn_scene(random, pairs=pairs, is_held_out=is_held_out)
            name = f"images/{i:06d}.png"
            Image.fromarray(drawn(random, scene)).save(out / name)
            for kind in KINDS:
                question = asked(random, scene, kind, is_held_out=is_held_out)
                if question is None:
                    continue
                turns = [
                    {"from": "human", "value": f"<image>\n{question.text}"},
                    {"from": "gpt", "value": question.answer},
                ]
                record = {"id": f"{i:06d}-{kind}", "image": name, "kind": kind, "conversations": turns}
                lines.write(json.dumps(record) + "\n")
                number += 1
    return number


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
