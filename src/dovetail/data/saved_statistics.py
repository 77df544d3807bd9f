"""The statistics of a data set as files beside a checkpoint, each layout's own, and as they will be read.

    layout         where
    openpi         norm_stats.json
    lerobot        policy_preprocessor.json, policy_postprocessor.json and the safetensors file of each
    lerobot-0.3    parameters among the weights, so no file
    transformers   processor_config.json

Pipelines of lerobot that are there keep all their other steps, and what their files say of other features.
Constant dimensions have a deviation of 0, which each program divides by in its own way.

Sources: openpi@15a9616 `shared/normalize.py`; lerobot@v0.4.4 `processor/pipeline.py:save_pretrained`,
`policies/pi0/processor_pi0.py`, `policies/pi05/processor_pi05.py`; transformers@5.23.0 `processing_pi0.py`.
"""

import json
from collections.abc import Mapping
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np

from dovetail.data.measured import Measured
from dovetail.data.policy import PolicyFacts
from dovetail.errors import FormatError
from dovetail.inputs.statistics import (
    MeanStd,
    Numbers,
    Statistics,
    lerobot_scale,
    read_openpi,
    statistics_of_weights,
)
from dovetail.store.safetensors.write import write_to
from dovetail.store.write.tensor_data import TensorData

_PRE, _POST = "policy_preprocessor", "policy_postprocessor"
_NORMALIZER, _UNNORMALIZER = "normalizer_processor", "unnormalizer_processor"
_FEATURES = {
    "observation.state": ("state", "STATE"),
    "action": ("actions", "ACTION"),
}


class SavedStatistics(NamedTuple):
    """The statistics as a policy reads them, and the files to write beside it."""

    statistics: Statistics
    files: Mapping[str, bytes]


def saved_statistics(
    measured: Measured, policy: PolicyFacts, beside: Mapping[str, bytes] | None = None
) -> SavedStatistics:
    """What a layout keeps of a data set. `beside` are files that lie beside the checkpoint now, by name.

    Raises:
        FormatError: a file that is there, and must be changed, is damaged.
    """
    values = {"state": measured.state.values(), "actions": measured.actions.values()}
    layout, there = policy.layout, beside or {}
    if layout == "lerobot-0.3":
        pairs = [MeanStd(one["mean"], one["std"]) for one in values.values()]
        return SavedStatistics(statistics_of_weights(*pairs), {})
    if layout == "lerobot":
        return _lerobot(values, policy, there)
    if layout.startswith("transformers"):
        pairs = [MeanStd(one["mean"], one["std"]) for one in values.values()]
        said = {
            f"{kind}_{name}": one[name].tolist() for kind, one in values.items() for name in ("mean", "std")
        }
        found = statistics_of_weights(*pairs)
        source = "processor_config.json (mean and deviation)"
        text = _text({**_read(there, "processor_config.json"), **said})
        statistics = Statistics(source=source, state=found.state, actions=found.actions)
        return SavedStatistics(statistics, {"processor_config.json": text})
    kept = ("mean", "std", "q01", "q99")
    text = _text(
        {"norm_stats": {kind: {name: one[name].tolist() for name in kept} for kind, one in values.items()}}
    )
    statistics = read_openpi(text, "norm_stats.json", is_quantiles=policy.robot.inputs.is_state_text)
    return SavedStatistics(statistics, {"norm_stats.json": text})


def _lerobot(
    values: Mapping[str, Mapping[str, Numbers]], policy: PolicyFacts, there: Mapping[str, bytes]
) -> SavedStatistics:
    mode = "QUANTILES" if policy.robot.inputs.is_state_text else "MEAN_STD"
    files: dict[str, bytes] = {}
    modes = {"STATE": mode, "ACTION": mode}
    for pipeline, name in ((_PRE, _NORMALIZER), (_POST, _UNNORMALIZER)):
        said = _read(there, f"{pipeline}.json") or _pipeline(pipeline, policy)
        steps = [one for one in said.get("steps", ()) if isinstance(one, dict)]
        number, step = next(
            ((i, one) for i, one in enumerate(steps) if one.get("registry_name") == name), (0, None)
        )
        if step is None:
            raise FormatError(f"the pipeline has no step `{name}`", file=f"{pipeline}.json")
        config = step.setdefault("config", {})
        config["norm_map"] = {"VISUAL": "IDENTITY", **modes, **(config.get("norm_map") or {})}
        kinds = ("STATE", "ACTION") if name == _NORMALIZER else ("ACTION",)
        modes |= {kind: config["norm_map"][kind] for kind in kinds}
        config["features"] = {
            **(config.get("features") or {}),
            **{
                feature: {"type": type_, "shape": [len(values[kind]["mean"])]}
                for feature, (kind, type_) in _FEATURES.items()
                if name == _NORMALIZER or type_ == "ACTION"
            },
        }
        file = step.setdefault("state_file", f"{pipeline}_step_{number}_{name}.safetensors")
        files[file] = _state_file(values, there.get(file))
        files[f"{pipeline}.json"] = _text(said)
    scales = {kind: lerobot_scale(values[kind], modes[type_], kind) for kind, type_ in _FEATURES.values()}
    source = f"{_PRE}.json, {_POST}.json (state by {modes['STATE']}, actions by {modes['ACTION']})"
    return SavedStatistics(Statistics(source=source, **scales), files)


def _pipeline(name: str, policy: PolicyFacts) -> dict[str, Any]:
    """A pipeline as lerobot makes it for a new policy."""
    inputs = policy.robot.inputs
    if name == _POST:
        steps: list[dict[str, Any]] = [
            {"registry_name": _UNNORMALIZER},
            {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}},
        ]
        return {"name": name, "steps": steps}
    length = inputs.prompt.max_tokens
    tokenizer = {
        "registry_name": "tokenizer_processor",
        "config": {
            "max_length": length,
            "task_key": "task",
            "padding_side": "right",
            "padding": "max_length",
            "truncation": True,
            "tokenizer_name": "google/paligemma-3b-pt-224",
        },
    }
    device = {"registry_name": "device_processor", "config": {"device": "cpu", "float_dtype": None}}
    begin = [
        {"registry_name": "rename_observations_processor", "config": {"rename_map": {}}},
        {"registry_name": "to_batch_processor", "config": {}},
    ]
    normalizer: dict[str, Any] = {"registry_name": _NORMALIZER}
    if inputs.is_state_text:
        state = {"registry_name": "pi05_prepare_state_tokenizer_processor_step", "config": {}}
        return {"name": name, "steps": [*begin, normalizer, state, tokenizer, device]}
    newline = {"registry_name": "pi0_new_line_processor", "config": {}}
    return {"name": name, "steps": [*begin, newline, tokenizer, device, normalizer]}


def _state_file(values: Mapping[str, Mapping[str, Numbers]], old: bytes | None) -> bytes:
    """A safetensors file with the statistics; what the old one says of other features is kept."""
    found: dict[str, TensorData] = {}
    if old is not None:
        size = int.from_bytes(old[:8], "little")
        for name, one in json.loads(old[8 : 8 + size]).items():
            if name != "__metadata__" and name.rpartition(".")[0] not in _FEATURES:
                begin, end = one["data_offsets"]
                found[name] = _tensor(
                    name, one["dtype"], one["shape"], old[8 + size + begin : 8 + size + end]
                )
    for feature, (kind, _) in _FEATURES.items():
        for what, one in values[kind].items():
            name = f"{feature}.{what}"
            found[name] = _tensor(name, "F32", list(one.shape), one.astype(np.float32).tobytes())
    file = BytesIO()
    write_to(file, [found[name] for name in sorted(found)])
    return file.getvalue()


def _tensor(name: str, dtype: str, shape: list[int], data: bytes) -> TensorData:
    return TensorData(name, dtype, tuple(shape), (data,))


def _read(there: Mapping[str, bytes], name: str) -> dict[str, Any]:
    """A file that is there, as JSON; nothing if it is not.

    Raises:
        FormatError: it is none.
    """
    if name not in there:
        return {}
    try:
        found = json.loads(there[name])
        if not isinstance(found, dict):
            raise ValueError("it is no object")
    except (ValueError, RecursionError) as error:
        raise FormatError(f"the file is no JSON: {error}", file=name) from None
    return found


def _text(value: Any) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
