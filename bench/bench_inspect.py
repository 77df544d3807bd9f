"""Claim: inspect costs about what starting Python and parsing the headers costs.

A 729-tensor folder within 4x of that, under 40 MB; 100,000 tensors in 200 shards under half a second;
grouping under 2 microseconds a name. Peers in the same run.
"""

import json
import tempfile
from pathlib import Path

from dovetail.edit.make import make
from dovetail.names import group_names
from dovetail.store.safetensors.write import INDEX, write_safetensors
from dovetail.store.write.tensor_data import TensorData
from measure import DOVETAIL, PYTHON, Row, alternate, has, milliseconds, show, sized, timed, where

PARSE = """
import json, sys
from os import listdir
for name in sorted(listdir(sys.argv[1])):
    if name.endswith(".safetensors"):
        with open(sys.argv[1] + "/" + name, "rb") as f:
            json.loads(f.read(int.from_bytes(f.read(8), "little")))
"""
SAFE_OPEN = """
import sys
from os import listdir
from safetensors import safe_open
for name in listdir(sys.argv[1]):
    if name.endswith(".safetensors"):
        with safe_open(sys.argv[1] + "/" + name, "{framework}") as f:
            for key in f.keys():
                f.get_slice(key).get_shape()
"""
# Neither opens the weights: these give the sizes that a config says.
AUTO_CONFIG = "import sys; from transformers import AutoConfig; AutoConfig.from_pretrained(sys.argv[1])"
LITGPT = "from litgpt import Config; Config.from_name('Qwen2.5-1.5B')"


def experts(folder: Path, shards: int) -> list[str]:
    """500 tensors in each shard: a mixture of experts that no family knows, all holes."""
    folder.mkdir()
    names = [
        f"model.layers.{layer}.mlp.experts.{expert}.{matrix}_proj.weight"
        for layer in range(50)
        for expert in range(667)
        for matrix in ("gate", "up", "down")
    ][: 500 * shards]
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        mine = names[shard * 500 : (shard + 1) * 500]
        write_safetensors(str(folder / file), [TensorData(name, "BF16", (768, 2048), None) for name in mine])
        weight_map |= dict.fromkeys(mine, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return names


def compare(folder: Path, *, with_peers: bool) -> list[Row]:
    """Whole processes, peers beside ours."""
    at = str(folder)
    commands = {
        "python -c 'import json', parse headers": [PYTHON, "-c", PARSE, at],
        "dovetail inspect": [DOVETAIL, "inspect", at],
        "dovetail inspect --json": [DOVETAIL, "inspect", "--json", at],
        "safetensors.safe_open (numpy), shapes": [PYTHON, "-c", SAFE_OPEN.format(framework="np"), at],
    }
    if with_peers:
        commands["safetensors.safe_open (torch), shapes"] = [
            *(PYTHON, "-c", SAFE_OPEN.format(framework="pt"), at),
        ]
        commands["transformers AutoConfig, no weights"] = [PYTHON, "-c", AUTO_CONFIG, at]
        if has("litgpt"):
            commands["litgpt Config, no weights"] = [PYTHON, "-c", LITGPT]
    runs = alternate(commands, 7, good=(0,) if with_peers else (0, 1))  # 1: of no family that is known
    floor = next(iter(runs.values())).median
    return [
        (name, milliseconds(one.median), f"{one.median / floor:.1f}x", f"{one.peak_mb:.0f} MB")
        for name, one in runs.items()
    ]


def main() -> None:
    print(where("safetensors", "numpy", "torch", "transformers", "litgpt"))
    columns = ("what", "wall, whole process", "of the floor", "peak memory")
    with tempfile.TemporaryDirectory() as place:
        small = Path(place) / "qwen2-vl-2b"
        make("qwen2_vl", small, sparse=True, max_shard_size=4_000_000_000)
        show("Qwen2-VL-2B: 729 tensors, 4.42 GB, 2 shards", columns, compare(small, with_peers=True))
        large = Path(place) / "experts"
        names = experts(large, shards := sized(200, 2))
        title = f"{len(names):,} tensors in {shards} shards"
        show(title, columns, compare(large, with_peers=False))
    seconds = timed(lambda: group_names(names))
    show("grouping", ("names", "per name"), [(f"{len(names):,}", f"{seconds / len(names) * 1e6:.2f} us")])


if __name__ == "__main__":
    main()
