"""Prismatic's inputs: squares for one or two towers, and where an image goes.

    the row has a placeholder for it    there        5 IMG 6 7  ->  5 p p p p 6 7    (Open-Qwen2VL, system 0)
    the row has no placeholder          after BOS    5 6 7      ->  5 p p p p 6 7    (TRI-ML/prismatic-vlms)

Sources: TRI-ML/prismatic-vlms@4fcd061 `models/vlms/prismatic.py`, `models/backbones/vision/*.py`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from dovetail.errors import UsageError
from dovetail.inputs.images import HALF, IMAGENET, Normalization, prismatic_pixels
from dovetail.inputs.language import Arrays, Batch, LanguageInputs, Size
from dovetail.inputs.placeholders import expand
from dovetail.inputs.square import Square
from dovetail.inputs.values import Values, fill

STATISTICS = {"siglip": HALF, "dinov2": IMAGENET}


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeConfig:
    """How images become squares."""

    image_resize_strategy: str


class TowerImages(NamedTuple):
    """What the images of one tower are: squares, normalised in its own way."""

    square: Square
    statistics: Normalization


class PrismaticInputs(LanguageInputs):
    """Places images, makes squares of them for each tower and pads rows."""

    def __init__(self, values: Values) -> None:
        super().__init__(values, "llm")
        self.strategy = fill(ResizeConfig, values).image_resize_strategy
        roles = {"pixels": "vision", "fused_pixels": "fused"}
        self.towers = {name: _tower_images(values, role) for name, role in roles.items() if values.has(role)}
        self.tokens_per_image = self.towers["pixels"].square.num_patches
        if values.kind("projector") == "avgpool_mlp":
            self.tokens_per_image = num_pooled(values)

    def num_features(self, height: int, width: int) -> int:
        return self.tokens_per_image

    def expanded(self, row: Sequence[int], sizes: Sequence[Size]) -> list[int]:
        assert self.image_token is not None
        counts = [self.tokens_per_image] * len(sizes)
        if sizes and self.image_token not in row:
            return [*row[:1], *[self.image_token] * sum(counts), *row[1:]]
        return expand(row, self.image_token, counts)

    def more(self, batch: Batch) -> Arrays:
        """The pixels of all images, for each tower."""
        images = [image for of in batch.images for image in of]
        return {name: self._pixels(images, tower) for name, tower in self.towers.items()} if images else {}

    def _pixels(self, images: Sequence[np.ndarray], tower: TowerImages) -> np.ndarray:
        size, statistics = tower.square.pixels, tower.statistics
        return np.stack(
            [prismatic_pixels(one, size, strategy=self.strategy, statistics=statistics) for one in images]
        )


def _tower_images(values: Values, role: str) -> TowerImages:
    square = fill(Square, values, role, **named_size(values, role))
    return TowerImages(square, STATISTICS[values.kind(role)])


def num_pooled(values: Values) -> int:
    """How many tokens an average pool leaves of an image.

    Raises:
        UsageError: nothing says it, or two say different numbers.
    """
    named = named_count(values)
    return named["num_image_tokens"] if named else values.integer("projector.num_image_tokens")


def named_count(values: Values) -> dict[str, int]:
    """The tokens per image that `arch_specifier` names (`full-align+729-avgpool`), if it names them."""
    return _named(values, "projector.num_image_tokens", "projector.arch_specifier", r"(?<!\d)(\d+)-avgpool")


def named_size(values: Values, role: str) -> dict[str, int]:
    """The pixels that `vision_backbone_id` names (`siglip-vit-so400m-384px`), if it names them."""
    return _named(values, f"{role}.image_size", "vision_backbone_id", r"(?<!\d)(\d+)px$")


def _named(values: Values, number: str, text: str, pattern: str) -> dict[str, int]:
    """A number that a config may give by itself or within a text, where nobody says it otherwise.

    Raises:
        UsageError: it gives both, and they differ.
    """
    given, said = values.values[number], values.values[text]
    found = re.search(pattern, str(said.value))
    if found is None or given.source in ("stamp", "given"):
        return {}
    count = int(found[1])
    if given.value and given.value != count:
        raise UsageError(
            f"{number} is {given.value} in {given.evidence}, and {said.evidence} says `{said.value}`",
            hint=f"say which is right: settings={{'{number}': ...}} (--set {number}=NUMBER)",
        )
    return {number.rsplit(".", maxsplit=1)[-1]: count}
