"""Two distributions of a number, compared by what files of statistics say of them.

Facts are mean, std, min, max and quantiles, as far as they are known.
"""

import math
from collections.abc import Mapping

Facts = Mapping[str, float]

# What a way to normalise takes for the ends, as lerobot calls it.
_ENDS = {"QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90"), "MIN_MAX": ("min", "max")}


def distance(data: Facts, said: Facts, mode: str) -> float:
    """How far two distributions lie apart, in deviations of the wider one: means, logarithms of deviations,
    and ends where the checkpoint normalises with these. Infinite if unknown."""
    terms: list[float] = []
    if "mean" in said and "std" in said:
        wide = max(data["std"], said["std"], 1e-12)
        narrow = max(min(data["std"], said["std"]), 1e-12)
        terms += [abs(data["mean"] - said["mean"]) / wide, math.log(wide / narrow)]
    low, high = _ENDS.get(mode, ("", ""))
    if low in said and high in said:
        wide = max(data[high] - data[low], said[high] - said[low], 1e-12)
        terms += [2 * abs(data[end] - said[end]) / wide for end in (low, high)]
    return max(terms, default=math.inf)


def band_of(said: Facts, mode: str) -> tuple[float, float] | None:
    """What a checkpoint takes for the range of a number: the ends that it normalises with, or three
    deviations to either side."""
    low, high = _ENDS.get(mode, ("", ""))
    if low in said and high in said:
        return said[low], said[high]
    return (said["mean"] - 3 * said["std"], said["mean"] + 3 * said["std"]) if "std" in said else None


def center_of(said: Facts) -> float:
    """The mean, or the middle between the ends; NaN if neither is known."""
    if "mean" in said:
        return said["mean"]
    ends = next((pair for pair in _ENDS.values() if pair[0] in said and pair[1] in said), None)
    return (said[ends[0]] + said[ends[1]]) / 2 if ends else math.nan


def spread_of(said: Facts, mode: str) -> float | None:
    """The deviation, or half the width, that a checkpoint divides by."""
    if mode in _ENDS and _ENDS[mode][0] in said:
        return (said[_ENDS[mode][1]] - said[_ENDS[mode][0]]) / 2
    return said.get("std")


def times(data: Facts, factor: float) -> dict[str, float]:
    """The facts of numbers times a factor."""
    turned = {"q01": "q99", "q10": "q90", "q90": "q10", "q99": "q01", "min": "max", "max": "min"}
    found = {name: data[turned.get(name, name) if factor < 0 else name] * factor for name in data}
    return {**found, "std": data["std"] * abs(factor)}


def plus(data: Facts, offset: float) -> dict[str, float]:
    """The facts of numbers moved by an offset."""
    return {name: value if name == "std" else value + offset for name, value in data.items()}
