"""The statistics of a data set: how a robot's numbers become a policy's, and a policy's a robot's.

    where                                    whose                  how
    normalizer.* among the weights           lerobot 0.1-0.3        mean and deviation
    policy_pre-, postprocessor.json and      lerobot 0.4 and later  as norm_map says for STATE and ACTION
    the safetensors file that it names
    norm_stats.json, assets/*/norm_stats.json  openpi               mean and deviation; quantiles for pi0.5
    processor_config.json                    transformers           mean and deviation

Mean and deviation: (x - mean) / (std + eps). Ranges (min to max, 1 % to 99 %) become [-1, 1].

Sources: lerobot@390bfff `processor/normalize_processor.py`, @v0.3.3 `policies/normalize.py`;
openpi@15a9616 `transforms.py:Normalize`, `shared/normalize.py`; transformers@5.23.0 `processing_pi0.py`.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from dovetail.errors import CheckpointError, UsageError, listed
from dovetail.inputs.tokenizer import read_json
from dovetail.store.folder import LocalFolder
from dovetail.store.safetensors.read import read_safetensors
from dovetail.store.store import Store

Numbers = Float64[np.ndarray, " _"]
Read = Mapping[str, Numbers]

_PIPELINES = ("policy_preprocessor.json", "policy_postprocessor.json")
_STEPS = ("normalizer_processor", "unnormalizer_processor")
_RANGES = {"MIN_MAX": ("min", "max"), "QUANTILES": ("q01", "q99"), "QUANTILE10": ("q10", "q90")}
_OPENPI_EPS = 1e-6
_LEROBOT_EPS = 1e-8


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """`(x - center) / spread` on the way in, `x * out + center` on the way out.

    `said` is what the file says of each number (mean, std, q01, ...), `mode` how it is used, as lerobot calls
    it (MEAN_STD, QUANTILES, MIN_MAX, QUANTILE10).
    """

    center: Numbers
    spread: Numbers
    out: Numbers
    said: Read
    mode: str

    @property
    def width(self) -> int:
        """How many numbers there are."""
        return len(self.center)

    def normalized(self, x: Float64[np.ndarray, "*rows width"]) -> Float64[np.ndarray, "*rows width"]:
        """A robot's numbers as the policy wants them; there may be fewer than the scale has."""
        width = x.shape[-1]
        normal: Float64[np.ndarray, "*rows width"] = (x - self.center[:width]) / self.spread[:width]
        return normal

    def unnormalized(self, x: Float64[np.ndarray, "t a"]) -> Float64[np.ndarray, "t width"]:
        """The policy's numbers as the robot wants them; what the robot does not have is left out."""
        own: Float64[np.ndarray, "t width"] = x[:, : self.width] * self.out + self.center
        return own


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Scales of state and actions, None where nothing says them, and where they are from."""

    source: str
    state: Scale | None
    actions: Scale | None


class MeanStd(NamedTuple):
    """The mean and the standard deviation of each number."""

    mean: Numbers
    std: Numbers


def read_statistics(store: Store, *, is_quantiles: bool) -> Statistics | None:
    """The statistics that lie in files beside the weights, None if there are none.

    `is_quantiles` is for openpi's, which hold both and do not say which to use.

    Raises:
        CheckpointError: a file of statistics is damaged or lacks what it promises.
        UsageError: there are several.
    """
    return _lerobot(store) or _openpi(store, is_quantiles) or _transformers(store)


def statistics_of_weights(state: MeanStd, actions: MeanStd) -> Statistics:
    """The statistics that lerobot 0.1-0.3 kept among the weights."""
    return Statistics(
        source="normalizer among the weights (mean and deviation)",
        state=_mean_std(*state),
        actions=_mean_std(*actions),
    )


def read_openpi(text: bytes, name: str, *, is_quantiles: bool) -> Statistics:
    """The statistics of a `norm_stats.json`.

    Raises:
        CheckpointError: it is none.
    """
    try:
        said = json.loads(text)["norm_stats"]
        read = {
            key: {kind: _numbers(value) for kind, value in said[key].items() if value is not None}
            for key in ("state", "actions")
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"the file holds no statistics of openpi: {error}",
            file=name,
            expected='{"norm_stats": {"state": {"mean": …, "std": …}, "actions": …}}',
            hint="give the norm_stats.json of the run",
        ) from None
    mode = "QUANTILES" if is_quantiles else "MEAN_STD"
    state, actions = (_openpi_scale(read[key], mode, f"{name}: {key}") for key in ("state", "actions"))
    return Statistics(source=f"{name} ({_words(mode)})", state=state, actions=actions)


def lerobot_scale(read: Read, mode: str, where: str) -> Scale:
    """A scale as lerobot makes it of a mode and what a file says.

    Raises:
        CheckpointError: the file lacks what the mode needs.
    """
    return _scale(read, mode, _LEROBOT_EPS, where)


def statistics_at(path: str | os.PathLike[str], *, is_quantiles: bool) -> Statistics:
    """The statistics of a `norm_stats.json` anywhere, or in a folder.

    Raises:
        CheckpointError: it is none, or not there.
    """
    place = os.fspath(path)
    whole = os.path.join(place, "norm_stats.json") if os.path.isdir(place) else place
    folder, name = os.path.split(whole)
    return read_openpi(LocalFolder(folder or ".").read(name), whole, is_quantiles=is_quantiles)


def _lerobot(store: Store) -> Statistics | None:
    """What the normalizer of the first pipeline and the unnormalizer of the second say."""
    state, actions = (
        _of_step(store, pipeline, step, feature)
        for pipeline, step, feature in zip(_PIPELINES, _STEPS, ("STATE", "ACTION"), strict=True)
    )
    if state is None and actions is None:
        return None
    modes = [f"{what} by {_words(mode)}" for what, (mode, _) in _there(state=state, actions=actions)]
    return Statistics(
        source=f"{', '.join(_PIPELINES)} ({'; '.join(modes)})",
        state=state[1] if state else None,
        actions=actions[1] if actions else None,
    )


def _there(**found: tuple[str, Scale] | None) -> Iterator[tuple[str, tuple[str, Scale]]]:
    yield from ((name, one) for name, one in found.items() if one is not None)


def _of_step(store: Store, pipeline: str, step: str, feature: str) -> tuple[str, Scale] | None:
    """The mode and the scale of one kind of feature in a step of a pipeline."""
    steps = read_json(store, pipeline).get("steps")
    found = [one for one in steps or () if isinstance(one, dict) and one.get("registry_name") == step]
    if not found:
        return None
    config = found[0].get("config") or {}
    mode = (config.get("norm_map") or {}).get(feature, "IDENTITY")
    features = config.get("features") or {}
    names = [name for name, one in features.items() if isinstance(one, dict) and one.get("type") == feature]
    file = found[0].get("state_file")
    if mode == "IDENTITY" or not names or not isinstance(file, str):
        return None
    read = _tensors(store, file)
    start = f"{names[0]}."
    own = {name.removeprefix(start): one for name, one in read.items() if name.startswith(start)}
    if not own:
        return None  # lerobot leaves alone what it has no statistics of
    if mode not in ("MEAN_STD", *_RANGES):
        known = listed(["IDENTITY", "MEAN_STD", *_RANGES])
        raise CheckpointError(
            f"no way to normalise is called `{mode}`", file=pipeline, hint=f"known: {known}"
        )
    eps = float(config.get("eps", _LEROBOT_EPS))
    return mode, _scale(own, mode, eps, f"{file}: {names[0]}")


def _openpi(store: Store, is_quantiles: bool) -> Statistics | None:
    raw = store.side_file("norm_stats.json")
    if raw is not None:
        return read_openpi(raw, "norm_stats.json", is_quantiles=is_quantiles)
    found: dict[str, LocalFolder] = {}
    for folder in store.beside:
        assets = LocalFolder(os.path.join(folder.name, "assets"))
        if isinstance(folder, LocalFolder) and os.path.isdir(assets.name):
            found |= {name: assets for name in assets.files() if name.endswith("/norm_stats.json")}
    if len(found) > 1:
        raise UsageError(
            f"there are statistics of {len(found)} data sets: {listed(found)}",
            hint="name the file of yours with --statistics",
        )
    for name, assets in found.items():
        return read_openpi(assets.read(name), f"assets/{name}", is_quantiles=is_quantiles)
    return None


def _transformers(store: Store) -> Statistics | None:
    said = read_json(store, "processor_config.json")
    scales = {}
    for key in ("state", "actions"):
        mean, std = said.get(f"{key}_mean"), said.get(f"{key}_std")
        if mean is not None and std is not None:
            scales[key] = _mean_std(_numbers(mean), _numbers(std))
    if not scales:
        return None
    return Statistics(
        source="processor_config.json (mean and deviation)",
        state=scales.get("state"),
        actions=scales.get("actions"),
    )


def _tensors(store: Store, name: str) -> dict[str, Numbers]:
    """The values of a small safetensors file beside the weights.

    Raises:
        CheckpointError: it is not there, or holds something else.
    """
    for folder in store.beside:
        if name in folder.files():
            source = folder.open(name)
            entries = read_safetensors(source).entries
            wanted = {
                key: one
                for key, one in entries.items()
                if one.dtype in ("F32", "F64") and one.bytes < 1 << 20
            }
            return {
                key: np.frombuffer(
                    source.exactly(one.start, one.bytes, key), {"F32": "<f4", "F64": "<f8"}[one.dtype]
                ).astype(np.float64)
                for key, one in wanted.items()
            }
    raise CheckpointError(f"`{name}` is named as statistics and is not here", hint="finish the download")


def _openpi_scale(read: Read, mode: str, where: str) -> Scale:
    """openpi adds its eps on the way out as well, and to every range."""
    low, high = _pair(read, mode, where)
    if mode == "MEAN_STD":
        spread = high + _OPENPI_EPS
        return Scale(center=low, spread=spread, out=spread, said=read, mode=mode)
    half = (high - low + _OPENPI_EPS) / 2
    return Scale(center=low + half, spread=half, out=half, said=read, mode=mode)


def _scale(read: Read, mode: str, eps: float, where: str) -> Scale:
    low, high = _pair(read, mode, where)
    if mode == "MEAN_STD":
        return _mean_std(low, high, eps, read)
    half = np.where(high == low, eps, high - low) / 2
    return Scale(center=low + half, spread=half, out=half, said=read, mode=mode)


def _mean_std(mean: Numbers, std: Numbers, eps: float = _LEROBOT_EPS, said: Read | None = None) -> Scale:
    said = said or {"mean": mean, "std": std}
    return Scale(center=mean, spread=std + eps, out=std, said=said, mode="MEAN_STD")


def _pair(read: Read, mode: str, where: str) -> tuple[Numbers, Numbers]:
    names = ("mean", "std") if mode == "MEAN_STD" else _RANGES[mode]
    lost = [name for name in names if name not in read]
    if lost:
        raise CheckpointError(
            f"the statistics have no {listed(lost)}",
            where=where,
            expected=f"{names[0]} and {names[1]}",
            hint="give --statistics FILE of the run that trained this policy",
        )
    low, high = (read[name] for name in names)
    if low.shape != high.shape:
        raise CheckpointError(
            "the statistics do not agree",
            where=where,
            found=f"{low.shape} {high.shape}",
            hint="give --statistics FILE of the run that trained this policy",
        )
    return low, high


def _numbers(values: Any) -> Numbers:
    return np.asarray(values, dtype=np.float64).reshape(-1)


def _words(mode: str) -> str:
    if mode == "MEAN_STD":
        return "mean and deviation"
    return f"{_RANGES[mode][0]} to {_RANGES[mode][1]}"
