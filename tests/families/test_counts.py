"""Published sizes have the tensor and parameter counts that were computed in closed form (SYSTEMS T.7)."""

import math

import pytest

from dovetail.declare.blueprint import Blueprint, blueprint
from dovetail.families import built_in, family


def counts(plan: Blueprint, layout: str) -> tuple[int, int]:
    tensors = list(plan.stored(plan.family.layout(layout)))
    return len(tensors), sum(math.prod(tensor.shape) for tensor in tensors)


@pytest.mark.parametrize(
    ("id", "size", "layout", "tensors", "parameters"),
    [
        ("qwen2_vl", "2b", "hf", 729, 2_208_985_600),
        ("qwen2_vl", "2b", "litgpt-fork", 730, 2_442_359_296),
        ("qwen2_vl", "2b", "litgpt", 391 + 28 * 9 - 28 + 3, 2_442_359_296),
        # transformers 5.23.0 and 5.24.0 on `meta`; published indexes say the bytes of 2.5-VL 7b, 3-VL 4b, 8b, 32b
        ("qwen2_5_vl", "3b", "hf", 824, 3_754_622_976),
        ("qwen2_5_vl", "3b", "litgpt", 824 - 36 * 4 + 1, 3_754_622_976 + 151_936 * 2048),
        ("qwen2_5_vl", "7b", "hf", 729, 16_584_333_312 // 2),
        ("qwen2_5_vl", "32b", "hf", 1161, 66_905_436_672 // 2),
        ("qwen2_5_vl", "72b", "hf", 1353, 73_410_777_344),
        ("qwen3_vl", "2b", "hf", 625, 2_127_532_032),
        ("qwen3_vl", "4b", "hf", 713, 8_875_631_616 // 2),
        ("qwen3_vl", "4b", "litgpt", 713 - 36 * 2 + 1, 8_875_631_616 // 2 + 151_936 * 2560),
        ("qwen3_vl", "8b", "hf", 750, 17_534_247_392 // 2),
        ("qwen3_vl", "32b", "hf", 1058, 66_714_780_128 // 2),
        ("llava_onevision", "0.5b", "lmms", 716, 893_618_208),
        ("paligemma", "3b-224", "hf", 603, 2_923_466_480),
        ("pi0", "base", "openpi", 777, 3_501_372_176),
        ("pi0", "base", "lerobot", 777, 3_501_372_176),
        ("pi05", "base", "openpi", 812, 3_616_757_520),
        ("prismatic", "siglip2-qwen3-1.7b", "native", 657, 2_466_523_200),
        ("prismatic", "openvla-7b", "openvla", 982, 7_541_237_184),
        ("siglip", "so400m-patch14-378", "timm", 342, 428_225_600),
        ("qwen2", "qwen2-0.5b", "hf", 290, 494_032_768),
        ("qwen3", "qwen3-1.7b", "hf", 310, 1_720_574_976),
        ("qwen3", "qwen3-32b", "hf", 707, 32_762_123_264),
        ("panovlm", "so400m-qwen2.5-0.5b", "resampler", 86, 50_706_176),
        ("llama", "llama2-7b", "hf", 291, 6_738_415_616),
        ("gemma", "gemma-2b", "hf", 164, 2_506_172_416),
    ],
)
def test_a_published_size_counts_right(
    id: str, size: str, layout: str, tensors: int, parameters: int
) -> None:
    assert counts(blueprint(family(id), family(id).sizes[size]), layout) == (tensors, parameters)


def test_parts_count_right() -> None:
    """The same numbers part by part (SYSTEMS 0.5, 1.6, 2.2)."""
    plan = blueprint(family("pi0"), family("pi0").sizes["base"])
    by_role: dict[str, int] = {}
    for tensor in plan.stored(family("pi0").layout("openpi")):
        by_role[tensor.role] = by_role.get(tensor.role, 0) + math.prod(tensor.shape)
    assert by_role == {
        "vision": 412_442_352,
        "projector": 2_361_344,
        "vlm": 1_981_884_416 + 526_647_296,
        "expert": 311_464_960 + 263_323_648,
        "heads": 3_248_160,
    }


@pytest.mark.parametrize("one", [(f.id, size) for f in built_in() for size in f.sizes], ids="/".join)
def test_every_published_size_is_complete(one: tuple[str, str]) -> None:
    found = family(one[0])
    plan = blueprint(found, found.sizes[one[1]])
    for layout in found.layouts:
        places = {role: {mount.naming for mount in mounts} for role, mounts in layout.mounts.items()}
        if all(places.get(role, set()) & set(part.namings) for role, part in plan.kinds.items()):
            names = [tensor.name for tensor in plan.stored(layout)]
            assert len(set(names)) == len(names) > 0
