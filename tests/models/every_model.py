"""A tiny model of every family, and of every kind of part that a family may have, from a checkpoint."""

from pathlib import Path
from typing import Any, NamedTuple

import dovetail
from files import MODELS, scoped
from run.tiny import GIVEN, LLM, SIZES, TEXT, TOWER, VISION


class Case(NamedTuple):
    """What `make` is given and what `load` must be told."""

    family: str
    sizes: dict[str, int | str]
    settings: dict[str, Any]
    layout: str | None = None

    def made(self, folder: Path, **options: Any) -> Path:
        """A checkpoint of it with random weights."""
        options = {"dtype": "float32", "seed": 3, "layout": self.layout, **options}
        return Path(dovetail.make(self.family, folder, set=self.sizes, **options).path)

    def loaded(self, folder: Path, **options: Any) -> Any:
        """The model of that checkpoint."""
        return dovetail.load(self.made(folder), settings=self.settings, as_=self.family, **options)


# kind of resampler -> what no weight of it shows
_RESAMPLERS: dict[str, dict[str, Any]] = {
    "bimamba": {"resampler.norm_first": True},
    "c_abstractor": {"resampler.num_queries": 4},
    "identity_or_avg": {"resampler.resampler_type": "avg"},
    "perceiver": {"resampler.heads": 2, "resampler.head_dim": 19},
    "qformer": {"resampler.heads": 6},
    "spatial_pool_or_masked_drop_2": {"resampler.resampler_type": "spatial_pool"},
}


def _panovlm(kind: str) -> Case:
    """PanoVLM with one of the resamplers of `files.MODELS`."""
    model = next(one for one in MODELS["panovlm"] if one["resampler"] == kind)
    own = {name: size for name, size in model.items() if name.startswith("resampler")}
    settings = {**GIVEN["panovlm"], **_RESAMPLERS.get(kind.partition("+")[0], {})}
    return Case("panovlm", {**TOWER, **TEXT, **own}, settings)


_NAFLEX = {name: size for name, size in VISION.items() if name != "image_size"}
_FUSED = {
    "vision": "dinov2+registers",
    **scoped("vision", {**VISION, "d_vision": 58, "heads": 2, "registers": 4}),
    "fused": "siglip+pool",
    **scoped("fused", VISION),
    "projector": "fused_gelu_mlp",
    "llm": "llama",
    **LLM,
    "head": "head",
}
_STATISTICS = {"normalizer": "normalizer", "normalizer.d_robot_state": 5, "normalizer.d_robot_action": 7}
_TRAINING = {"vicreg": "vicreg_mlp", "vicreg.d_hidden": 15, "vicreg.d_out": 9, "text_projection": "linear"}
CASES: dict[str, Case] = {
    **{f"{id}-{i}": Case(id, sizes, GIVEN.get(id, {})) for id in SIZES for i, sizes in enumerate(SIZES[id])},
    **{f"panovlm-{model['resampler']}": _panovlm(str(model["resampler"])) for model in MODELS["panovlm"]},
    "panovlm-training": Case("panovlm", {**SIZES["panovlm"][0], **_TRAINING}, GIVEN["panovlm"]),
    "pi0-normalizer": Case("pi0", {**SIZES["pi0"][0], **_STATISTICS}, {}, "lerobot-0.3"),
    "llava-last": Case("llava", SIZES["llava"][0], {"feature_layer": -1, "feature_select": "full"}),
    "llava_onevision-penultimate": Case(
        "llava_onevision", SIZES["llava_onevision"][0], {**GIVEN["llava_onevision"], "feature_layer": -2}
    ),
    "prismatic-normed": Case("prismatic", SIZES["prismatic"][0], {"vision_output": "normed"}),
    "prismatic-last": Case("prismatic", SIZES["prismatic"][1], {"vision_output": "last"}),
    "prismatic-fused": Case("prismatic", _FUSED, {}),
    "siglip-naflex": Case("siglip", {"vision": "siglip_naflex+pool", **scoped("vision", _NAFLEX)}, {}),
}
