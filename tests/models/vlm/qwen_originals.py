"""Tiny originals of the Qwen-VL families: three shapes each, none like another."""

from typing import Any

import transformers

from parity import randomise

IMAGE, VIDEO, START, END = 90, 91, 92, 93
TOKENS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}


def text(width: int, heads: int, kv: int, sections: list[int], **more: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": sections}
    return {
        "hidden_size": width,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "intermediate_size": 44,
        "vocab_size": 97,
        "eos_token_id": None,
        "rope_parameters": rope,
        **more,
    }


def vision(width: int, heads: int, patch: int, merge: int, **more: Any) -> dict[str, Any]:
    return {
        "num_heads": heads,
        "patch_size": patch,
        "spatial_merge_size": merge,
        "hidden_size": width,
        **more,
    }


# vision: width, heads, feed-forward ratio, patch, merge; text: width, heads, key heads, sections; tied
QWEN2_VL = {
    "odd-heads": ((24, 3, 2, 4, 2), (40, 5, 5, [2, 1, 1]), True),
    "grouped": ((20, 5, 3, 6, 3), (36, 6, 2, [1, 1, 1]), False),
    "one-key-head": ((28, 7, 1, 2, 2), (42, 3, 1, [3, 2, 2]), True),
}


def qwen2_vl(shape: str) -> Any:
    (width, heads, ratio, patch, merge), of_text, tied = QWEN2_VL[shape]
    sizes = vision(of_text[0], heads, patch, merge, depth=3, embed_dim=width, mlp_ratio=ratio)
    config = transformers.Qwen2VLConfig(
        vision_config=sizes, text_config=text(*of_text), tie_word_embeddings=tied, **TOKENS
    )
    return randomise(transformers.Qwen2VLForConditionalGeneration(config))


# vision: width, heads, feed-forward width, layers, patch, merge, window, whole frames in; text as above; tied
QWEN2_5_VL = {
    "ragged-windows": ((24, 3, 22, 4, 4, 2, 16, [1, 3]), (40, 5, 5, [2, 1, 1]), True),
    "only-windows": ((20, 5, 31, 2, 6, 3, 36, []), (36, 6, 2, [1, 1, 1]), False),
    "one-key-head": ((28, 7, 18, 3, 3, 2, 20, [0]), (42, 3, 1, [3, 2, 2]), True),
}


def qwen2_5_vl(shape: str) -> Any:
    (width, heads, ffn, layers, patch, merge, window, full), of_text, tied = QWEN2_5_VL[shape]
    sizes = vision(width, heads, patch, merge, depth=layers, intermediate_size=ffn, window_size=window)
    config = transformers.Qwen2_5_VLConfig(
        vision_config={**sizes, "fullatt_block_indexes": full, "out_hidden_size": of_text[0]},
        text_config=text(*of_text),
        tie_word_embeddings=tied,
        **TOKENS,
    )
    return randomise(transformers.Qwen2_5_VLForConditionalGeneration(config))


# vision: width, heads, feed-forward width, layers, patch, merge, edge of the table, mergers behind;
# text: layers, head width, then as above; tied
QWEN3_VL = {
    "three-levels": ((24, 3, 22, 4, 4, 2, 6, [0, 1, 3]), (4, 12, 40, 5, 5, [2, 2, 2]), True),
    "one-level": ((20, 5, 31, 3, 6, 3, 2, [1]), (3, 10, 36, 6, 2, [3, 1, 1]), False),
    "no-layer-without": ((28, 7, 18, 2, 2, 2, 11, [0, 1]), (2, 14, 42, 3, 1, [3, 2, 2]), True),
}


def qwen3_vl(shape: str) -> Any:
    (width, heads, ffn, layers, patch, merge, edge, behind), of_text, tied = QWEN3_VL[shape]
    depth, head_dim, *rest = of_text
    sizes = vision(width, heads, patch, merge, depth=layers, intermediate_size=ffn)
    places = {"num_position_embeddings": edge**2, "deepstack_visual_indexes": behind}
    config = transformers.Qwen3VLConfig(
        vision_config={**sizes, **places, "out_hidden_size": rest[0]},
        text_config=text(*rest, num_hidden_layers=depth, head_dim=head_dim),
        tie_word_embeddings=tied,
        **TOKENS,
    )
    return randomise(transformers.Qwen3VLForConditionalGeneration(config))


ORIGINALS = {
    "qwen2_vl": (qwen2_vl, QWEN2_VL),
    "qwen2_5_vl": (qwen2_5_vl, QWEN2_5_VL),
    "qwen3_vl": (qwen3_vl, QWEN3_VL),
}
CASES = [(family, shape) for family, (_, shapes) in ORIGINALS.items() for shape in shapes]


def theirs(inputs: dict[str, Any]) -> dict[str, Any]:
    """The same inputs as transformers calls them."""
    found = {
        "input_ids": inputs["tokens"],
        "attention_mask": inputs["valid"].long(),
        "mm_token_type_ids": (inputs["tokens"] == IMAGE).int(),
    }
    if "pixels" in inputs:
        found |= {"pixel_values": inputs["pixels"], "image_grid_thw": inputs["grids"]}
    return found
