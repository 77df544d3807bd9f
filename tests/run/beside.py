"""Tiny models of transformers saved with a real tokenizer, chat template and processor beside them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from parity import randomise
from tiny_models import TEXT, TOWER, VISION

GOLDEN = Path(__file__).parents[1] / "golden" / "templates"
CORPUS = [
    "What is in the picture? A small house by the sea, and two boats.",
    "The quick brown fox jumps over the lazy dog; describe the image in detail.",
    "Grüße aus Köln: 日本語のテキストと emoji 🙂🚀, naïve café.",
    "pick up the red block and put it into the box",
]
QWEN = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
QWEN_VL = [*QWEN, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
ONEVISION = [*QWEN, "<image>", "<video>"]
PALIGEMMA = ["<pad>", "<eos>", "<bos>", "<unk>"]
LLAMA = ["<unk>", "<s>", "</s>"]


def template(name: str) -> str:
    """A published chat template."""
    return (GOLDEN / f"{name}.jinja").read_text(encoding="utf-8")


def byte_level(specials: Sequence[str], **options: Any) -> Any:
    """A BPE over bytes, as GPT-2 and Qwen have it."""
    one = Tokenizer(models.BPE())
    one.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    one.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(specials),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    one.train_from_iterator(CORPUS, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=one, **options)


def sentence_pieces(specials: Sequence[str], bos: str, **options: Any) -> Any:
    """A BPE over words with `▁` and bytes for what it does not know, as Llama and Gemma have it."""
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    pieces = [*specials, *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=480, special_tokens=pieces, show_progress=False)
    trained.train_from_iterator([text for text in CORPUS if text.isascii()], trainer)
    model = trained.model
    one = Tokenizer(_with_bytes(trained))
    assert model is not None
    one.normalizer = normalizers.Replace(" ", "▁")
    one.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    one.add_special_tokens(list(specials))
    one.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, one.token_to_id(bos))]
    )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=one, bos_token=bos, **options)


def _with_bytes(trained: Any) -> Any:
    state = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in state["merges"]]
    return models.BPE(state["vocab"], merges, byte_fallback=True, unk_token="<unk>")


# As LLaVA 1.5 is asked; BOS is the tokenizer's.
LLAVA_TEMPLATE = """{% for message in messages %}{{ message.role | upper }}: \
{% for piece in message.content if piece.type == 'image' %}<image>
{% endfor %}{% for piece in message.content if piece.type == 'text' %}{{ piece.text }} {% endfor %}{% endfor %}\
{% if add_generation_prompt %}ASSISTANT:{% endif %}"""


def padded(vocab: int) -> int:
    """The rows of a table that is padded to a multiple of 64, with a few more."""
    return -(-vocab // 64) * 64 + 64


def decoder(size: int, **changes: Any) -> dict[str, Any]:
    plain = {**TEXT, "vocab_size": size, "max_position_embeddings": 256, "bos_token_id": None}
    return {**plain, "pad_token_id": 0, **changes}


def save_text(kind: str, folder: Path) -> "Saved":
    """Qwen2 or Qwen3 with a tokenizer and the template of Qwen2."""
    tokenizer = byte_level(QWEN, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = template("qwen2")
    extra = {"head_dim": 12} if kind == "Qwen3" else {}
    config = getattr(transformers, f"{kind}Config")(
        **decoder(padded(len(tokenizer)), eos_token_id=tokenizer.eos_token_id, **extra)
    )
    model = randomise(getattr(transformers, f"{kind}ForCausalLM")(config))
    return Saved(folder, model, tokenizer)


_TOWER = {"depth": 3, "num_heads": 3, "hidden_size": 24, "intermediate_size": 40, "out_hidden_size": 32}
# class of a Qwen-VL model -> its tower, what its text has of its own, sections, what its images are cut with
QWEN_VLS: dict[str, tuple[dict[str, Any], dict[str, Any], list[int], dict[str, Any]]] = {
    "Qwen2VL": (
        {"depth": 2, "embed_dim": 24, "num_heads": 3, "hidden_size": 32, "mlp_ratio": 2},
        {},
        [1, 1, 2],
        {},
    ),
    "Qwen2_5_VL": ({**_TOWER, "window_size": 56, "fullatt_block_indexes": [1]}, {}, [1, 1, 2], {}),
    "Qwen3VL": (
        {**_TOWER, "num_position_embeddings": 9, "deepstack_visual_indexes": [0, 2]},
        {"head_dim": 10},
        [2, 2, 1],
        {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
    ),
}


def save_qwen_vl(kind: str, folder: Path) -> "Saved":
    """A Qwen-VL model with its image processor. The template is Qwen2-VL's: all mark images as it does."""
    tower, more, sections, cut = QWEN_VLS[kind]
    tokenizer = byte_level(QWEN_VL, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = template("qwen2_vl")
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in QWEN_VL}
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections}
    text = decoder(padded(len(tokenizer)), rope_parameters=rope, eos_token_id=ids["<|im_end|>"], **more)
    config = getattr(transformers, f"{kind}Config")(
        text_config=text,
        vision_config=tower,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    model = randomise(getattr(transformers, f"{kind}ForConditionalGeneration")(config))
    model.generation_config.eos_token_id = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    size = {"shortest_edge": 56 * 56, "longest_edge": 112 * 112}
    return Saved(folder, model, tokenizer, transformers.Qwen2VLImageProcessorPil(size=size, **cut))


def save_llava_onevision(folder: Path) -> "Saved":
    """LLaVA-OneVision with its image processor."""
    tokenizer = byte_level(ONEVISION, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = template("llava_onevision")
    pinpoints = [[28, 28], [28, 56], [56, 28], [56, 56]]
    config = transformers.LlavaOnevisionConfig(
        text_config=decoder(
            padded(len(tokenizer)),
            model_type="qwen2",
            eos_token_id=tokenizer.eos_token_id,
            tie_word_embeddings=True,
        ),
        vision_config=TOWER,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=pinpoints,
        tie_word_embeddings=True,
    )
    model = randomise(transformers.LlavaOnevisionForConditionalGeneration(config))
    processor = transformers.LlavaOnevisionImageProcessorPil(
        size={"height": 28, "width": 28}, image_grid_pinpoints=pinpoints
    )
    return Saved(folder, model, tokenizer, processor)


def save_paligemma(folder: Path) -> "Saved":
    """PaliGemma with its processor, which adds 1,152 tokens."""
    tokenizer = sentence_pieces(PALIGEMMA, "<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")
    images = transformers.SiglipImageProcessorPil(size={"height": 28, "width": 28}, image_seq_length=4)
    images.image_seq_length = 4
    processor = transformers.PaliGemmaProcessor(images, tokenizer)
    text = decoder(
        padded(len(tokenizer)),
        model_type="gemma",
        num_key_value_heads=1,
        head_dim=12,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = transformers.PaliGemmaConfig(
        text_config=text,
        vision_config=TOWER,
        projection_dim=32,
        image_token_index=processor.image_token_id,
    )
    model = randomise(transformers.PaliGemmaForConditionalGeneration(config))
    return Saved(folder, model, tokenizer, images, processor)


def save_llava(folder: Path, *, chat_template: str = LLAVA_TEMPLATE) -> "Saved":
    """LLaVA with its processor, which keeps the settings of images in its own file."""
    tokenizer = sentence_pieces([*LLAMA, "<image>"], "<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    images = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 28},
        crop_size={"height": 28, "width": 28},
        image_mean=[0.4, 0.5, 0.6],
        resample=2,
    )
    processor = transformers.LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat_template,
    )
    config = transformers.LlavaConfig(
        text_config=decoder(padded(len(tokenizer)), model_type="llama", eos_token_id=tokenizer.eos_token_id),
        vision_config={**VISION, "model_type": "clip_vision_model"},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    model = randomise(transformers.LlavaForConditionalGeneration(config))
    return Saved(folder, model, tokenizer, images, processor)


class Saved:
    """A model of transformers with what it writes beside its weights."""

    def __init__(
        self, folder: Path, model: Any, tokenizer: Any, images: Any = None, processor: Any = None
    ) -> None:
        self.folder, self.model, self.tokenizer = folder, model, tokenizer
        self.images, self.processor = images, processor
        for part in (model, processor) if processor else (model, tokenizer, images):
            if part is not None:
                part.save_pretrained(folder)

    def inputs(self, prompt: str, pictures: Sequence[np.ndarray] = ()) -> dict[str, Any]:
        """What transformers makes of a prompt and images."""
        if self.processor is not None and self.processor.chat_template:
            seen = [{"type": "image", "image": Image.fromarray(one)} for one in pictures]
            said: list[dict[str, Any]] = [*seen, {"type": "text", "text": prompt}]
            options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
            message = {"role": "user", "content": said}
            return dict(self.processor.apply_chat_template([message], add_generation_prompt=True, **options))
        if self.processor is not None:
            found = self.processor(images=[list(pictures)], text=[prompt], return_tensors="pt")
            return dict(found)
        pieces = [*({"type": "image"} for _ in pictures), {"type": "text", "text": prompt}]
        message = {"role": "user", "content": pieces if self.images else prompt}
        text = self.tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
        seen = (
            dict(self.images([Image.fromarray(one) for one in pictures], return_tensors="pt"))
            if pictures
            else {}
        )
        ids = torch.tensor([self._expanded(self.tokenizer(text)["input_ids"], seen)])
        if self.model.config.model_type.endswith("_vl"):  # as its processor marks images
            seen["mm_token_type_ids"] = (ids == self.model.config.image_token_id).int()
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **seen}

    def _expanded(self, ids: list[int], seen: dict[str, Any]) -> list[int]:
        """The ids with an image token for each feature, as many as the model itself makes."""
        if not seen:
            return ids
        token = getattr(self.model.config, "image_token_id", None) or self.model.config.image_token_index
        arguments = {name: value for name, value in seen.items() if name != "batch_num_images"}
        with torch.no_grad():
            found = self.model.model.get_image_features(**arguments)
        features = found.pooler_output if hasattr(found, "pooler_output") else found
        counts = iter([len(one) for one in features])
        return [one for id in ids for one in ([id] * next(counts) if id == token else [id])]

    def generated(self, prompt: str, pictures: Sequence[np.ndarray] = (), *, new: int = 12) -> list[int]:
        """The tokens of transformers' greedy `generate`, of those that the tokenizer has."""
        inputs = self.inputs(prompt, pictures)
        with torch.no_grad():
            found = self.model.generate(
                **inputs, max_new_tokens=new, do_sample=False, suppress_tokens=self.unused
            )
        return found[0, inputs["input_ids"].shape[1] :].tolist()

    @property
    def unused(self) -> list[int]:
        """The rows of the token table that are no tokens."""
        return list(range(len(self.tokenizer), self.model.get_input_embeddings().num_embeddings))


SAVERS: dict[str, Callable[[Path], Saved]] = {
    "qwen2": lambda folder: save_text("Qwen2", folder),
    "qwen3": lambda folder: save_text("Qwen3", folder),
    "qwen2_vl": lambda folder: save_qwen_vl("Qwen2VL", folder),
    "qwen2_5_vl": lambda folder: save_qwen_vl("Qwen2_5_VL", folder),
    "qwen3_vl": lambda folder: save_qwen_vl("Qwen3VL", folder),
    "llava_onevision": save_llava_onevision,
    "paligemma": save_paligemma,
    "llava": save_llava,
}
