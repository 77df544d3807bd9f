"""What dovetail does, on what the project carries: know a checkpoint, move it, use it.

The large checkpoint has the true names, shapes and size of Qwen2-VL-2B (4.42 GB) and takes no room on
the disk: its data are holes. The small one has random weights, so that what it says is real arithmetic.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from dovetail.store.open import open_checkpoint
from dovetail.store.safetensors.write import write_safetensors
from dovetail.store.store import Store
from dovetail.store.write.tensor_data import TensorData

OUT = Path("demo-out")
PICTURE = Path("examples/shapes/shapes.png")  # a red square, a blue circle, a yellow star
WHOLE = OUT / "Qwen2-VL-2B"
Change = Callable[[TensorData], TensorData | None]


def main() -> int:
    """Runs the demo; 0 if everything came out as it must."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    is_good = [know(), move(), see(), use()]
    print("\nThe reports as HTML:")
    for page in sorted((OUT / "reports").glob("*/*.html")):
        print(f"  {page.resolve()}")
    return 0 if all(is_good) else 1


def know() -> bool:
    """Makes a checkpoint of full size, inspects and validates it, three broken copies, and a stranger."""
    steps = [run("make", "qwen2_vl", WHOLE, "--size", "2b", "--sparse") == 0, run("inspect", WHOLE) == 0]
    steps.append(run("validate", WHOLE, "--report", OUT / "reports" / WHOLE.name) == 0)
    with open_checkpoint(WHOLE) as store:
        for name, story, change in BREAKS:
            print(f"\n--- {story}")
            write_changed(store, OUT / name, change)
            steps.append(run("validate", OUT / name, "--report", OUT / "reports" / name) == EXPECTED[name])
    print("\n--- a sound checkpoint of a family that dovetail does not know: Gemma 3 of 1B, names and shapes")
    write_stranger(OUT / "gemma-3-1b")
    steps.append(run("validate", OUT / "gemma-3-1b", "--report", OUT / "reports" / "gemma-3-1b") == 1)
    return all(steps)


def move() -> bool:
    """Converts the checkpoint to LitGPT, cuts it for two nodes, puts it together again."""
    print("\n--- to LitGPT, to two nodes, and back; the fingerprint is that of the weights, not of the files")
    lit, nodes, back = OUT / "litgpt", OUT / "nodes", OUT / "back"
    steps = [
        run("convert", WHOLE, lit, "--to", "litgpt") == 0,
        run("split", lit, nodes, "--nodes", "2") == 0,
        run("merge", nodes, back, "--to", "hf") == 0,
    ]
    prints = [said("fingerprint", path) for path in (WHOLE, lit, back)]
    for path, fingerprint in zip((WHOLE, lit, back), prints, strict=True):
        print(f"{path}: {fingerprint}")
    steps += [len(set(prints)) == 1, run("diff", WHOLE, back, "--values") == 0]
    return all(steps)


def see() -> bool:
    """Asks the tiny model of the package about a picture, and lets the tiny policy draw."""
    print("\n--- a model of a million parameters that has learned to see coloured shapes (examples/shapes)")
    steps = []
    for question, answer in QUESTIONS.items():
        found = said("generate", "--image", str(PICTURE), "--prompt", question)
        print(f'$ dovetail generate --image {PICTURE} --prompt "{question}"\n{found}')
        steps.append(found == answer)
    told = ["--instruction", "draw a line to the red square", "--state", "40,8"]
    return all(steps) and run("act", "--camera", f"base={PICTURE}", *told) == 0


def use() -> bool:
    """Runs a small model from a split and whole, and holds it in bfloat16 against float32."""
    print("\n--- a small model with random weights: the same answer from a LitGPT split as from the whole")
    small, nodes, image = OUT / "small", OUT / "small-nodes", OUT / "picture.png"
    sizes = [word for size in SMALL for word in ("--set", size)]
    rows, columns = np.mgrid[0:224, 0:308]
    colors = np.stack([rows, columns * 0.8, (rows + columns) % 256], axis=-1)
    Image.fromarray(colors.astype(np.uint8)).save(image)
    steps = [
        run("make", "qwen2_vl", small, *sizes) == 0,
        run("split", small, nodes, "--nodes", "2", "--to", "litgpt") == 0,
    ]
    prompt = [
        "--tokens",
        f"5,{IMAGE_TOKEN},7,11",
        "--image",
        str(image),
        "--max-new-tokens",
        "8",
        "--temperature",
        "1",
    ]
    answers = [said("generate", path, *prompt) for path in (small, nodes)]
    for path, answer in zip((small, nodes), answers, strict=True):
        print(f"$ dovetail generate {path} {' '.join(prompt)}\n{answer}")
    steps += [answers[0] == answers[1] != "", written_for_a_reader(small)]
    steps.append(run("verify", small, "--dtype", "bfloat16", "--report", OUT / "reports" / "verify") == 0)
    return all(steps)


def written_for_a_reader(small: Path) -> bool:
    """Writes the small model for one program, and is refused for one that has no such family."""
    print("\n--- for a program by name: transformers 4.57 reads `rope_theta`, 5.23 `rope_parameters`")
    named = OUT / "for-transformers-4.57"
    steps = [run("convert", small, named, "--for", "transformers==4.57") == 0]
    config = json.loads((named / "config.json").read_text())
    spellings = {key: config.get(key) for key in ("rope_theta", "rope_scaling", "rope_parameters")}
    print("\n".join(f"config.json: {key} = {value}" for key, value in spellings.items()))
    steps += [None not in spellings.values(), run("convert", small, OUT / "no", "--for", "lerobot") == 2]
    return all(steps)


QUESTIONS = {
    "what is left of the blue circle?": "a red square",
    "what colour is the star?": "yellow",
    "describe the picture.": "a red square, a blue circle and a yellow star",
}

# Sizes of the small model, and the id of its image token.
SMALL = (
    *("text.layers=2", "text.d_model=128", "text.q_heads=4", "text.kv_heads=2", "text.head_dim=32"),
    *("text.d_ff=256", "text.vocab=1000", "vision.layers=2", "vision.d_vision=64", "vision.heads=4"),
    "vision.d_ff=256",
)
IMAGE_TOKEN = 151655


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


def write_stranger(out: Path) -> None:
    """The header of Gemma 3 1B, as transformers names it: the layers of no family that is declared."""
    d, d_ff, q, kv, c = 1152, 6912, 1024, 256, 256
    norms = ("input", "post_attention", "pre_feedforward", "post_feedforward")
    layer = {
        **{f"{norm}_layernorm": (d,) for norm in norms},
        **{f"mlp.{name}_proj": (d_ff, d) for name in ("gate", "up")},
        "mlp.down_proj": (d, d_ff),
        "self_attn.q_proj": (q, d),
        **{f"self_attn.{name}_proj": (kv, d) for name in "kv"},
        "self_attn.o_proj": (d, q),
        **{f"self_attn.{name}_norm": (c,) for name in "qk"},
    }
    shapes = {"embed_tokens": (262_144, d), "norm": (d,)}
    shapes |= {f"layers.{i}.{name}": shape for i in range(26) for name, shape in layer.items()}
    out.mkdir()
    tensors = [TensorData(f"model.{name}.weight", "BF16", shape, None) for name, shape in shapes.items()]
    write_safetensors(str(out / "model.safetensors"), tensors)
    (out / "config.json").write_text('{"architectures": ["Gemma3ForCausalLM"], "model_type": "gemma3_text"}')


def run(*words: str | Path) -> int:
    """Shows a command and runs it."""
    arguments = [str(word) for word in words]
    print(f"\n$ dovetail {' '.join(arguments)}", flush=True)
    return subprocess.run([sys.executable, "-m", "dovetail", *arguments], check=False).returncode


def said(*words: str | Path) -> str:
    """What a command prints, without the line's end."""
    arguments = [sys.executable, "-m", "dovetail", *map(str, words)]
    return subprocess.run(arguments, check=False, stdout=subprocess.PIPE, text=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
