"""Claim: from process start to the first token, `dovetail generate` takes at most half of transformers' time.

Whole processes that give one token of a tiny Qwen2-VL, for a text and for an image, so that nothing but
starting up counts; `import torch` alone is the floor. transformers runs without AutoProcessor, which wants
torchvision; the image goes through its Pillow processor.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from measure import DOVETAIL, PYTHON, alternate, show, where
from run.beside import save_qwen2_vl

PROMPT = "What is in the picture?"
TRANSFORMERS = """
import sys
from transformers import AutoModelForImageTextToText, AutoTokenizer
folder, prompt, *images = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="sdpa")
content = [{"type": "text", "text": prompt}]
more = {}
if images:
    from PIL import Image
    from transformers import AutoImageProcessor
    processor = AutoImageProcessor.from_pretrained(folder)
    more = dict(processor([Image.open(images[0])], return_tensors="pt"))
    content = [{"type": "image"}] + content
text = tokenizer.apply_chat_template(
    [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
)
if images:
    features = int(more["image_grid_thw"].prod()) // 4
    text = text.replace("<|image_pad|>", "<|image_pad|>" * features)
inputs = tokenizer(text, return_tensors="pt")
if images:
    more["mm_token_type_ids"] = (inputs["input_ids"] == model.config.image_token_id).int()
found = model.generate(**inputs, **more, max_new_tokens=1, do_sample=False)
print(tokenizer.decode(found[0, -1:]))
"""


def main() -> None:
    """Prints the table."""
    with tempfile.TemporaryDirectory() as folder:
        model, image = Path(folder) / "model", Path(folder) / "a.png"
        save_qwen2_vl(model)
        Image.fromarray(np.arange(60 * 90 * 3, dtype=np.uint8).reshape(60, 90, 3)).save(image)
        asked = [DOVETAIL, "generate", str(model), "--prompt", PROMPT, "--max-new-tokens", "1"]
        other = [PYTHON, "-c", TRANSFORMERS, str(model), PROMPT]
        runs = alternate(
            {
                "import torch": [PYTHON, "-c", "import torch"],
                "dovetail generate, text": asked,
                "transformers, text": other,
                "dovetail generate, image": [*asked, "--image", str(image)],
                "transformers, image": [*other, str(image)],
            },
            times=5,
        )
    print(where("torch", "transformers", "tokenizers"))
    rows = []
    for name, run in runs.items():
        base = runs[f"dovetail generate, {name.rpartition(' ')[2]}"] if "," in name else run
        ratio = f"{run.median / base.median:.1f}x" if name.startswith("transformers") else ""
        rows.append((name, f"{run.median:.2f} s", f"{run.best:.2f} s", f"{run.peak_mb:.0f} MB", ratio))
    columns = ("process", "median", "best", "peak memory", "of dovetail's")
    show("Process start to one token (tiny Qwen2-VL)", columns, rows)


if __name__ == "__main__":
    main()
