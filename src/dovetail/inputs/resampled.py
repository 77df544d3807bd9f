"""How many tokens each of PanoVLM's resamplers leaves of the patches of a view (`models/resamplers/`)."""

import re
from collections.abc import Callable

from dovetail.errors import UsageError
from dovetail.inputs.grids import tallest_over
from dovetail.inputs.values import Values

_DEPTH = re.compile(r"_\d+(_plain)?$")


def resampler_kind(values: Values, role: str = "resampler") -> str:
    """What the declaration calls the resampler, without the depth that is part of some names.

    Raises:
        UsageError: the role is not there.
    """
    return _DEPTH.sub("", values.kind(role))


def num_resampled(values: Values, patches: int) -> int:
    """How many tokens are left of the patches of a view.

    Raises:
        UsageError: there is no resampler, or nothing says how many it leaves.
    """
    return _LEFT[resampler_kind(values)](values, patches)


def _all(values: Values, patches: int) -> int:
    return patches


def _one(values: Values, patches: int) -> int:
    return 1


def _queries(values: Values, patches: int) -> int:
    return values.integer("resampler.queries")


def _latents(values: Values, patches: int) -> int:
    return values.integer("resampler.latents")


def _abstracted(values: Values, patches: int) -> int:
    """Without queries nothing is pooled."""
    return values.integer("resampler.num_queries") or patches


def _pooled_in_a_row(values: Values, patches: int) -> int:
    most = values.integer("resampler.pool_tokens")
    return most if 0 < most < patches else patches


def _convolved(values: Values, patches: int) -> int:
    return _squares(patches, values.integer("resampler.kernel"))


def _of_a_type(values: Values, patches: int) -> int:
    """Weights do not show which type of pool there is."""
    match values.text("resampler.resampler_type"):
        case "avg":
            return 1
        case "spatial_pool":
            return _squares(patches, values.integer("resampler.pool_size"))
        case _:
            return patches


def _squares(patches: int, edge: int) -> int:
    """The whole squares of `edge` x `edge` tokens in the grid."""
    rows, columns = tallest_over(patches)
    if edge > min(rows, columns):
        raise UsageError(
            f"squares of {edge} tokens do not fit into a view of {rows} x {columns}",
            hint="the resampler is of another tower, or its pool_size is wrong",
        )
    return (rows // edge) * (columns // edge)


_LEFT: dict[str, Callable[[Values, int], int]] = {
    "bimamba": _all,
    "c_abstractor": _abstracted,
    "conv": _one,
    "identity_or_avg": _of_a_type,
    "mlp": _pooled_in_a_row,
    "perceiver": _latents,
    "qformer": _queries,
    "spatial_pool_conv": _convolved,
    "spatial_pool_or_masked_drop": _of_a_type,
}
