"""Tiny checkpoints, whole and broken, each written into a folder by one function."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dovetail
from dovetail.store.safetensors.write import INDEX
from dovetail.store.torchfile.write import write_torch
from dovetail.store.write.tensor_data import TensorData
from files import MODELS, header_of, plan_of, safetensors_bytes, scoped, write_listing

Header = Mapping[str, Any]
Build = Callable[[Path], None]
CONFIG = {"model_type": "qwen2_vl", "vision_config": {"num_heads": 6}, "num_attention_heads": 4}


def header(id: str, layout: str, model: int = 0) -> dict[str, Any]:
    """The header of one of MODELS."""
    return header_of(plan_of(id, MODELS[id][model]), layout)


def write(folder: Path, tensors: Header, config: Header | None = None) -> None:
    """A safetensors file of zeros and its config in a new folder."""
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors))
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))


def made(id: str, layout: str, model: int = 0, **options: Any) -> Build:
    """What `dovetail make` writes."""
    return lambda path: _ignore(
        dovetail.make(id, path, layout=layout, set=MODELS[id][model], sparse=True, **options)
    )


def _ignore(_: object) -> None:
    """Says that a result is of no use."""


def lost_tensor(path: Path) -> None:
    """One tensor of layer 1 is not there."""
    tensors = header("qwen2_vl", "hf")
    del tensors["model.layers.1.mlp.down_proj.weight"]
    write(path, tensors, CONFIG)


def wrong_prefix(path: Path) -> None:
    """A whole vision tower where no tool puts one."""
    tensors = header("llava_onevision", "hf")
    write(path, {n.replace("vision_tower.vision_model.", "eye.tower."): v for n, v in tensors.items()})


def two_models(path: Path) -> None:
    """The merger of a wider model."""
    tensors = header("qwen2_vl", "hf")
    for name in ("visual.merger.mlp.2.weight", "visual.merger.mlp.2.bias"):
        dtype, shape = tensors[name]
        tensors[name] = [dtype, [89, *shape[1:]]]
    write(path, tensors, CONFIG)


def mixed_layouts(path: Path) -> None:
    """Vision as on the hub, text as in memory."""
    hub, memory = header("qwen2_vl", "hf"), header("qwen2_vl", "hf-4.52")
    tower = {name: value for name, value in hub.items() if name.startswith("visual.")}
    text = {name: value for name, value in memory.items() if ".language_model." in name}
    write(path, {**tower, **text}, CONFIG)


def unknown(path: Path) -> None:
    """Two known parts in a model that nobody declared."""
    tower = {f"vpm.{name}": value for name, value in header("siglip", "hf-5.23", 1).items()}
    foreign = {f"abstractor.query.{i}": ["BF16", [3]] for i in range(4)}
    write(path, {**header("qwen2", "hf"), **tower, **foreign})


def index_only(path: Path) -> None:
    """An index whose shards are elsewhere; the page is of the file, not of its folder."""
    files = dict.fromkeys(header("qwen2_vl", "hf"), "model-00001-of-00001.safetensors")
    path.mkdir()
    write_listing(path / INDEX, {"metadata": {"total_size": 0}, "weight_map": files})


def listing(path: Path) -> None:
    """Names, dtypes and shapes in a JSON file."""
    write_listing(path, header("qwen3", "hf", 1))


def lookalike(path: Path) -> None:
    """A Gemma without its config, which may as well be a Llama."""
    write(path, header("gemma", "hf"))


def hostile_names(path: Path) -> None:
    """Names that would clear the screen, break the line, turn it round, or not be encoded at all."""
    write_listing(path, {f"{name}.weight": ["F32", [2]] for name in ("\x1b[2J", "a\nb", "\u202ec", "\ud800")})


def chunks(path: Path) -> None:
    """A LitGPT checkpoint for two nodes, the layers of each numbered from 0."""
    model = {**MODELS["qwen2"][1], **scoped("text", {"layers": 3})}
    path.mkdir()
    files: dict[str, list[TensorData]] = {"model_starter.pth": [], "model_secondary0.pth": []}
    for name, (dtype, shape) in header_of(plan_of("qwen2", model), "litgpt").items():
        layer = int(name.split(".")[2]) if name.startswith("transformer.h.") else -1
        file = (
            "model_secondary0.pth"
            if layer > 1 or "ln_f" in name or "lm_head" in name
            else "model_starter.pth"
        )
        name = name.replace(".h.2.", ".h.0.")
        files[file].append(TensorData(name, dtype, tuple(shape), None))
    for file, tensors in files.items():
        write_torch(str(path / file), tensors)
