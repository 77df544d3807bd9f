"""The inputs of PanoVLM and CORA: the views of a panorama, and the tokens that they become.

Both write the same tensors and run them differently, which no weight shows; `pipeline` says it:

                        panovlm                     cora
    the first view      like the others             the whole panorama, projected by itself
    positions           none                        longitude, row and column
    views               e2p                         anyres_e2p
    interpolation       nearest                     linear

A row has one panorama, whose tokens go to its first placeholder, or to the front where it has none; other
placeholders are left out, as both do. Several images in a row are the views themselves, in order.

Sources: wooseungw/panollava@48559af `src/cora/model/vlm.py`, `src/cora/processors/images.py`, @ab73e9e
`legacy/src_panovlm/models/model.py`, `legacy/src_panovlm/config/schema.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from dovetail.errors import UsageError
from dovetail.inputs.language import Arrays, Batch, LanguageInputs, Size
from dovetail.inputs.panorama import anyres, num_anyres, num_views, perspective, sliding, squeezed, whole
from dovetail.inputs.resampled import num_resampled
from dovetail.inputs.square import Square
from dovetail.inputs.stitching import StitchConfig
from dovetail.inputs.values import Values, fill


class Pipeline(NamedTuple):
    """What PanoVLM and CORA do differently, by the names of the settings that may say it one by one."""

    first_is_whole: bool
    has_positions: bool
    crop_strategy: str
    stitch_interp: str


PIPELINES = {
    "panovlm": Pipeline(False, False, "e2p", "nearest"),
    "cora": Pipeline(True, True, "anyres_e2p", "linear"),
}


class Strategy(NamedTuple):
    """A way to cut a panorama into views, and how many there are for a field of view and an overlap."""

    cut: Callable[..., np.ndarray]
    num_views: Callable[[float, float], int]


def _one(fov: float, overlap: float) -> int:
    return 1


# what configs call the ways to cut a panorama into views
STRATEGIES = {
    "resize": Strategy(whole, _one),
    "sliding_window": Strategy(sliding, num_views),
    "e2p": Strategy(perspective, num_views),
    "anyres_e2p": Strategy(anyres, num_anyres),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewConfig:
    """The degrees that a view covers, and the share of them that it has in common with the next."""

    fov_deg: float
    view_overlap: float


class PanoVlmInputs(LanguageInputs):
    """Cuts each row's panorama into views, makes room for their tokens and pads the rows."""

    def __init__(self, values: Values) -> None:
        super().__init__(values)
        self.config = fill(ViewConfig, values)
        self.square = fill(Square, values, "vision")
        self.tokens_per_view = num_resampled(values, self.square.num_patches)
        self._stitch = fill(StitchConfig, values, stitch_interp="")
        self._pipeline = values.values["pipeline"].value
        self._said = {field: values.values[field].value for field in Pipeline._fields}
        if values.unknown is not None and self._pipeline is None and None in self._said.values():
            values.unknown["pipeline"] = values.values["pipeline"].evidence

    @cached_property
    def pipeline(self) -> Pipeline:
        """What the checkpoint's code base does, but for what a config says otherwise.

        Raises:
            UsageError: nothing says which it is, or there is no such one.
        """
        name = self._pipeline
        if name is not None and name not in PIPELINES:
            raise UsageError(f"no pipeline is called `{name}`", hint=f"one of: {', '.join(PIPELINES)}")
        if name is None and None in self._said.values():
            raise UsageError(
                "nothing says which code this checkpoint was trained with, and its views depend on it",
                hint='give settings={"pipeline": "panovlm"} or "cora" (--set pipeline=cora)',
            )
        default = PIPELINES[name]._asdict() if name else {}
        return Pipeline(
            **{field: default[field] if one is None else one for field, one in self._said.items()}
        )

    @property
    def stitch(self) -> StitchConfig:
        """How views are joined.

        Raises:
            UsageError: nothing says which pipeline it is.
        """
        return replace(self._stitch, stitch_interp=self.pipeline.stitch_interp)

    @property
    def strategy(self) -> Strategy:
        """How a panorama is cut.

        Raises:
            UsageError: nothing says it, or it is not written here.
        """
        name = self.pipeline.crop_strategy
        if name not in STRATEGIES:
            raise UsageError(
                f"views of a panorama by `{name}` are not written here",
                hint=f"one of: {', '.join(STRATEGIES)}; or give a row its views as its images",
            )
        return STRATEGIES[name]

    def num_features(self, height: int, width: int) -> int:
        return self.num_tokens(self.num_views(1))

    def num_views(self, images: int) -> int:
        """How many views there are of the images of a row: those of a panorama, or as many as are given."""
        return images if images > 1 else self._num_cut()

    def _num_cut(self) -> int:
        return self.strategy.num_views(self.config.fov_deg, self.config.view_overlap)

    def num_tokens(self, views: int) -> int:
        """How many tokens that many views become."""
        first = int(views > 1 and self.pipeline.first_is_whole)
        return first * self.tokens_per_view + self.stitch.num_tokens(views - first, self.tokens_per_view)

    def expanded(self, row: Sequence[int], sizes: Sequence[Size]) -> list[int]:
        assert self.image_token is not None
        if not sizes:
            return list(row)
        token, count = self.image_token, self.num_tokens(self.num_views(len(sizes)))
        if list(row).count(token) == count:
            return list(row)
        start = list(row).index(token) if token in row else 0
        rest = [one for one in row if one != token]
        return [*rest[:start], *[token] * count, *rest[start:]]

    def more(self, batch: Batch) -> Arrays:
        """The views of all panoramas, of each as many."""
        views = [self.views(images) for images in batch.images if images]
        counts = sorted({len(one) for one in views})
        if len(counts) > 1:
            raise UsageError(
                "all rows of a batch have as many views",
                found=str(counts),
                hint="give every row the same number of views",
            )
        return {"pixels": np.stack(views)} if views else {}

    def views(self, images: Sequence[Any]) -> Float32[np.ndarray, "v 3 size size"]:
        """The views of a panorama, or those that are given, squeezed to the tower's square.

        Raises:
            UsageError: nothing says how a panorama is cut.
        """
        size = (self.square.pixels, self.square.pixels)
        if len(images) > 1:
            return squeezed(images, size)
        return self.strategy.cut(images[0], size, fov=self.config.fov_deg, overlap=self.config.view_overlap)
