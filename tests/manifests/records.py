"""Manifests that tests write."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as Pillow


def asked(number: int, **more: Any) -> dict[str, Any]:
    """A record without images."""
    said = [{"from": "human", "value": f"What is {number}?"}, {"from": "gpt", "value": f"It is {number}."}]
    return {"id": str(number), "conversations": said, **more}


def seen(image: str, **more: Any) -> dict[str, Any]:
    """A record with one image."""
    said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A square."}]
    return {"image": image, "conversations": said, **more}


def write_json(path: Path, records: object) -> Path:
    """A file of one JSON value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    return path


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    """A file of one record a line."""
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records), encoding="utf-8")
    return path


def write_image(path: Path, size: tuple[int, int] = (6, 4), color: int = 0) -> Path:
    """An image of one colour, width x height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size[1], size[0], 3), color, np.uint8)
    Pillow.fromarray(pixels).save(path)
    return path
