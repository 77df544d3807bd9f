"""The readers that layouts name, in one table; `docs/guides/reader.md` says how each was held against."""

from dovetail.declare.reader import Reader

_BOTH = ("safetensors", "torch")

# Optional tensors that a program does not build although their config grants them, by (program, kind of part).
# vllm@0.32.0 model_executor/models/gemma.py (no biases), qwen3.py (none on the output of attention)
UNBUILT = {("vllm", "gemma"): ("attention_bias",), ("vllm", "qwen3"): ("attention_bias",)}

READERS = (
    Reader("transformers", "transformers, from_pretrained", ("4.57.6", "5.23.0"), _BOTH),
    Reader("vllm", "vLLM", ("0.32.0",)),
    Reader("litgpt", "LitGPT", ("0.5.13",), ("torch",)),
    Reader("lerobot", "lerobot, PI0Policy.from_pretrained", ("0.4.4", "0.5.1")),
    Reader("timm", "timm, create_model('local-dir:...')", ("1.0.31",)),
    Reader("openpi", "openpi, the PyTorch models"),
    Reader("llava", "LLaVA and LLaVA-NeXT, load_pretrained_model", (), _BOTH),
)
