"""LitGPT chunk folders put together: `model_starter.pth`, `model_secondary0.pth`, … as one model.

MDI-LLM and its forks number the layers of every chunk from 0 again; merging by name would
overwrite layers. Here each chunk's layers follow those of the chunk before, unless the numbers already
do. The order of the chunks is written in nothing but their file names.

Source: MDI-LLM@d647b97 `src/sub/model_dist.py`, `prepare_model.py`.
"""

import re
from typing import Any, NamedTuple

from dovetail.explain.name_groups import Group, Inventory

_CHUNK = re.compile(r"model_(starter|secondary([0-9]+))\.(?:pth|safetensors)/")
_STACK = "transformer.h.*."


class Chunk(NamedTuple):
    """One node's file and the layers in it, numbered over the whole model."""

    file: str
    first_layer: int | None
    last_layer: int | None
    tensors: int

    def as_json(self) -> dict[str, Any]:
        """The chunk as plain JSON values."""
        return self._asdict()


def join_chunks(inventory: Inventory) -> tuple[Inventory, tuple[Chunk, ...]]:
    """The inventory of the whole model and its chunks; anything else comes back as it is."""
    files = sorted({key.split("/")[0] + "/" for key in inventory.groups}, key=_position)
    if not files or not all(_CHUNK.fullmatch(file) for file in files):
        return inventory, ()
    joined: dict[str, Group] = {}
    chunks: list[Chunk] = []
    next_layer = 0
    for file in files:
        mine = {key[len(file) :]: group for key, group in inventory.groups.items() if key.startswith(file)}
        layers = {
            index[-1] for key, group in mine.items() if key.startswith(_STACK) for index in group.indices
        }
        offset = next_layer if layers and min(layers) == 0 else 0
        for key, group in mine.items():
            _append(joined, key, group, offset if key.startswith(_STACK) else 0)
        count = sum(len(group.names) for group in mine.values())
        if layers:
            next_layer = offset + max(layers) + 1
            chunks.append(Chunk(file[:-1], offset + min(layers), next_layer - 1, count))
        else:
            chunks.append(Chunk(file[:-1], None, None, count))
    wrapper = f"{len(files)} chunks"
    return inventory._replace(groups=joined, wrappers=(*inventory.wrappers, wrapper)), tuple(chunks)


def _position(file: str) -> int:
    match = _CHUNK.fullmatch(file)
    return -1 if match is None or match[1] == "starter" else int(match[2])


def _append(joined: dict[str, Group], key: str, group: Group, offset: int) -> None:
    shifted = [(index[0] + offset, *index[1:]) if index else index for index in group.indices]
    if key in joined:
        before = joined[key]
        joined[key] = Group(key, before.names + group.names, before.indices + shifted)
    else:
        joined[key] = Group(key, list(group.names), shifted)
