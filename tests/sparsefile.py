"""Safetensors files of full size that take no room: a true header and a hole where the values would be."""

import json
import math
from pathlib import Path
from typing import Any


def qwen2_vl_header() -> dict[str, Any]:
    """The header of Qwen2-VL-2B-Instruct: 729 tensors in bfloat16, the head tied to the embedding.

    Sizes: https://huggingface.co/Qwen/Qwen2-VL-2B-Instruct config.json.
    """
    width, ffn, kv, vision, hidden = 1536, 8960, 256, 1280, 5120
    shapes: dict[str, list[int]] = {
        "model.embed_tokens.weight": [151936, width],
        "model.norm.weight": [width],
    }
    for layer in range(28):
        attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
        for leaf, rows in (("q_proj", width), ("k_proj", kv), ("v_proj", kv)):
            shapes |= {f"{attention}.{leaf}.weight": [rows, width], f"{attention}.{leaf}.bias": [rows]}
        shapes |= {f"{attention}.o_proj.weight": [width, width], f"{mlp}.down_proj.weight": [width, ffn]}
        shapes |= {f"{mlp}.{leaf}_proj.weight": [ffn, width] for leaf in ("gate", "up")}
        shapes |= {
            f"model.layers.{layer}.{norm}_layernorm.weight": [width] for norm in ("input", "post_attention")
        }
    linear = {"attn.qkv": (3 * vision, vision), "attn.proj": (vision, vision)}
    linear |= {"mlp.fc1": (hidden, vision), "mlp.fc2": (vision, hidden)}
    for block in range(32):
        for leaf, (rows, columns) in linear.items():
            name = f"visual.blocks.{block}.{leaf}"
            shapes |= {f"{name}.weight": [rows, columns], f"{name}.bias": [rows]}
        norms = [f"visual.blocks.{block}.norm{n}.{leaf}" for n in (1, 2) for leaf in ("weight", "bias")]
        shapes |= {name: [vision] for name in norms}
    shapes |= {"visual.patch_embed.proj.weight": [vision, 3, 2, 14, 14]}
    shapes |= {f"visual.merger.ln_q.{leaf}": [vision] for leaf in ("weight", "bias")}
    for leaf, rows in (("0", hidden), ("2", width)):
        shapes |= {
            f"visual.merger.mlp.{leaf}.weight": [rows, hidden],
            f"visual.merger.mlp.{leaf}.bias": [rows],
        }
    return _header(shapes)


def _header(shapes: dict[str, list[int]]) -> dict[str, Any]:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name in sorted(shapes):
        start = position
        position += 2 * math.prod(shapes[name])
        header[name] = {"dtype": "BF16", "shape": shapes[name], "data_offsets": [start, position]}
    return header


def write_sparse(path: Path, header: dict[str, Any]) -> int:
    """A safetensors file with a true header and a hole in place of the values; gives the header's size."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    end = max(info["data_offsets"][1] for name, info in header.items() if name != "__metadata__")
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return 8 + len(text)
