"""How many tokens the views of a panorama become when PanoVLM joins them (`models/vlm/stitch.py`)."""

from dataclasses import dataclass

from dovetail.errors import UsageError
from dovetail.inputs.grids import tallest_over

MODES = ("concat", "stride_views", "resample")


@dataclass(frozen=True, slots=True, kw_only=True)
class StitchConfig:
    """How views are joined. `stitch_target_cols` 0 stands for as many columns as there are different
    ones; with `stitch_target_to_view_width` they are squeezed into as many as one view has."""

    overlap_ratio: float
    stitching_mode: str
    stitch_target_cols: int
    stitch_target_to_view_width: bool
    stitch_interp: str

    @property
    def mode(self) -> str:
        """The one of MODES that is meant: `drop_overlap`, the legacy default, is `stride_views`.

        Raises:
            UsageError: none is.
        """
        mode = "stride_views" if self.stitching_mode == "drop_overlap" else self.stitching_mode
        if mode not in MODES:
            raise UsageError(f"no way to stitch is called `{mode}`", hint=f"one of: {', '.join(MODES)}")
        return mode

    def shared(self, columns: int) -> int:
        """How many columns of tokens two neighbours share."""
        return round(columns * min(max(self.overlap_ratio, 0), 1))

    def num_columns(self, views: int, columns: int) -> int:
        """How many columns of tokens views of `columns` columns become.

        Raises:
            UsageError: there is no such way to stitch.
        """
        if self.mode == "concat":
            return views * columns
        if self.mode == "resample" and self.stitch_target_to_view_width:
            return columns
        all_different = views * columns - (views - 1) * self.shared(columns)
        return (self.mode == "resample" and self.stitch_target_cols) or all_different

    def num_tokens(self, views: int, tokens: int) -> int:
        """How many tokens views of `tokens` tokens become; tokens that make no grid are all kept.

        Raises:
            UsageError: there is no such way to stitch.
        """
        rows, columns = tallest_over(tokens)
        return views * tokens if rows * columns != tokens else rows * self.num_columns(views, columns)
