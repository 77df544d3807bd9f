"""Claim: `validate --values` reads at no less than half the speed of `cat FILE > /dev/null`, files warm.

Whole processes on a Qwen2-VL-2B of 4.42 GB with random bf16 values; beside them the way one does it
with torch.
"""

import tempfile
from pathlib import Path

from dovetail.edit.make import make
from measure import DOVETAIL, PYTHON, TINY_QWEN2_VL, alternate, milliseconds, show, sized, where

TORCH = """
import sys
from pathlib import Path
import torch
from safetensors import safe_open
for file in Path(sys.argv[1]).glob("*.safetensors"):
    with safe_open(file, "pt") as f:
        for key in f.keys():
            assert torch.isfinite(f.get_tensor(key)).all()
"""


def main() -> None:
    print(where("safetensors", "numpy", "torch"))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "qwen2-vl-2b"
        make("qwen2_vl", folder, set=sized({}, TINY_QWEN2_VL), max_shard_size=4_000_000_000)
        files = sorted(folder.glob("*.safetensors"))
        size = sum(file.stat().st_size for file in files)
        at = str(folder)
        runs = alternate(
            {
                "cat FILE > /dev/null": ["cat", *map(str, files)],
                "dovetail validate --values": [DOVETAIL, "validate", "--values", at],
                "safe_open + torch.isfinite": [PYTHON, "-c", TORCH, at],
            },
            times=3,
        )
    floor = runs["cat FILE > /dev/null"].median
    show(
        f"values of {size / 1e9:.2f} GB",
        ("what", "wall, whole process", "GB/s", "of cat's speed", "peak memory"),
        [
            (
                name,
                milliseconds(one.median),
                f"{size / one.median / 1e9:.1f}",
                f"{floor / one.median:.2f}",
                f"{one.peak_mb:.0f} MB",
            )
            for name, one in runs.items()
        ],
    )


if __name__ == "__main__":
    main()
