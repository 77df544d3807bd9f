"""Every published size is built on `meta`, with the tensors of its family and the published numbers."""

import math
from collections.abc import Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from dovetail.declare.blueprint import blueprint
from dovetail.explain.leaves import canonical_name
from dovetail.families import built_in, family
from dovetail.inputs.values import values_from
from dovetail.models import build

# What no published file of the family says, and no size of its tensors either.
SETTINGS: dict[str, dict[str, Any]] = {
    "prismatic": {"projector.num_image_tokens": 729},
    "panovlm": {"resampler.norm_first": True},
    "qwen3_vl": {"deepstack.vision_layers": [5, 11, 17]},
}
SIZES = [(one.id, size) for one in built_in() if one.model for size in one.sizes]
# Leaves (q, k and v apart) and parameters, in closed form (SYSTEMS 0.5, 1.6, 2.2, 3.5 and T.7). Dead
# tensors, such as the expert's head in pi0's files, are in no model.
PUBLISHED = {
    ("qwen2_vl", "2b"): (729, 2_208_985_600),
    ("qwen2_vl", "7b"): (730, 8_291_375_616),
    ("qwen2_vl", "72b"): (1354, 73_405_560_320),
    ("qwen2_5_vl", "3b"): (824, 3_754_622_976),
    ("qwen2_5_vl", "7b"): (729, 16_584_333_312 // 2),
    ("qwen3_vl", "2b"): (625, 2_127_532_032),
    ("qwen3_vl", "8b"): (750, 17_534_247_392 // 2),
    ("llava_onevision", "0.5b"): (716, 893_618_208),
    ("paligemma", "3b-224"): (603, 2_923_466_480),
    ("pi0", "base"): (776, 3_501_372_176 - 263_323_648),
    ("pi05", "base"): (811, 3_616_757_520 - 263_323_648),
    ("llama", "llama2-7b"): (291, 6_738_415_616),
    ("qwen2", "qwen2-0.5b"): (290, 494_032_768),
    ("qwen3", "qwen3-1.7b"): (310, 1_720_574_976),
    ("gemma", "gemma-2b"): (164, 2_506_172_416),
    ("siglip", "so400m-patch14-378"): (452, 428_225_600),
}


def planned(id: str, size: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every leaf that the declaration of the family gives a model of this size."""
    one = family(id)
    for leaf in blueprint(one, one.sizes[size]).leaves():
        if not leaf.leaf.is_dead:
            yield canonical_name(leaf.role, leaf.leaf, leaf.indices), leaf.shape


def model_of(id: str, size: str) -> Any:
    one = family(id)
    return build(values_from(blueprint(one, one.sizes[size]), SETTINGS.get(id)))


@pytest.mark.parametrize(("id", "size"), SIZES)
def test_a_published_size_is_built_as_declared(id: str, size: str) -> None:
    model = model_of(id, size)
    assert {name: tuple(one.shape) for name, one in model.state_dict().items()} == dict(planned(id, size))
    assert all(one.is_meta for one in model.parameters())
    found = len(list(model.parameters())), sum(math.prod(one.shape) for one in model.parameters())
    assert found == PUBLISHED.get((id, size), found)


def test_the_published_numbers_are_of_sizes_that_are_built() -> None:
    assert PUBLISHED.keys() <= set(SIZES)
