"""The main job on a checkpoint of full size: make it, inspect it, validate it, break it, find what broke.

The checkpoint has the true names, shapes and size of Qwen2-VL-2B (4.42 GB) and takes no room on the disk:
its data are holes.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from dovetail.store.open import open_checkpoint
from dovetail.store.safetensors_writer import write_safetensors
from dovetail.store.store import Store
from dovetail.store.tensor_data import TensorData

OUT = Path("demo-out")
WHOLE = OUT / "Qwen2-VL-2B"
Change = Callable[[TensorData], TensorData | None]


def main() -> int:
    """Runs the demo; 0 if dovetail said of each checkpoint what is true of it."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    steps = [run("make", "qwen2_vl", WHOLE, "--size", "2b", "--sparse") == 0, run("inspect", WHOLE) == 0]
    steps.append(run("validate", WHOLE, "--report", OUT / "reports" / WHOLE.name) == 0)
    with open_checkpoint(WHOLE) as store:
        for name, story, change in BREAKS:
            print(f"\n--- {story}")
            write_changed(store, OUT / name, change)
            steps.append(run("validate", OUT / name, "--report", OUT / "reports" / name) == EXPECTED[name])
    print("\nThe four as HTML:")
    for name in (WHOLE.name, *EXPECTED):
        print(f"  {(OUT / 'reports' / name / 'report.html').resolve()}")
    return 0 if all(steps) else 1


def lose_one(tensor: TensorData) -> TensorData | None:
    """Drops a matrix of layer 7, as a lost shard would."""
    return None if tensor.name == "model.layers.7.mlp.down_proj.weight" else tensor


def save_with_bug(tensor: TensorData) -> TensorData | None:
    """Names as transformers 5.5.0-5.5.3 saved them: vision under the language model."""
    for old, new in (("visual.", "model.language_model.visual."), ("model.", "model.language_model.")):
        if tensor.name.startswith(old):
            return tensor._replace(name=new + tensor.name.removeprefix(old))
    return tensor


def mix_models(tensor: TensorData) -> TensorData | None:
    """The merger of the 7B model, which puts out 3584 numbers instead of 1536."""
    if tensor.name.startswith("visual.merger.mlp.2."):
        return tensor._replace(shape=(3584, *tensor.shape[1:]))
    return tensor


BREAKS: tuple[tuple[str, str, Change], ...] = (
    ("lost-tensor", "a copy that lost one of its 729 tensors", lose_one),
    (
        "save-bug",
        "a copy as transformers 5.5.3 saved it, with the vision tower under the language model",
        save_with_bug,
    ),
    ("two-models", "a copy with the merger of another size", mix_models),
)
EXPECTED = {"lost-tensor": 1, "save-bug": 0, "two-models": 1}


def write_changed(store: Store, out: Path, change: Change) -> None:
    """Writes the checkpoint's header with some tensors changed; the data stay holes."""
    tensors = [
        TensorData(name, entry.dtype, entry.shape or (), None) for name, entry in store.entries.items()
    ]
    out.mkdir()
    changed = [new for tensor in tensors if (new := change(tensor))]
    write_safetensors(str(out / "model.safetensors"), changed)
    config = json.loads(store.side_file("config.json") or b"{}")
    (out / "config.json").write_text(json.dumps(config, indent=2))


def run(*words: str | Path) -> int:
    """Shows a command and runs it."""
    arguments = [str(word) for word in words]
    print(f"\n$ dovetail {' '.join(arguments)}", flush=True)
    return subprocess.run([sys.executable, "-m", "dovetail", *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
