"""Qwen3-VL's tower and its mergers equal transformers in float32, block by block, for images of many sizes."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dovetail.errors import UsageError
from dovetail.families.qwen3_vl import DEEPSTACK, MERGER, VIT
from dovetail.models.taps import tapped
from dovetail.models.towers.grids import MergerConfig
from dovetail.models.towers.qwen3_vit import (
    Qwen3Vit,
    Qwen3VitConfig,
    deepstack_merger,
    qwen3_merger,
    stretched,
)
from models.towers.qwen_towers import GRIDS, config_of, filled, part_of, patches
from parity import assert_near, randomise

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

# width, heads, feed-forward width, layers, patch, merge, edge of the table, layers inside, width put out
SHAPES = {
    "last-one-too": (24, 3, 22, 4, 4, 2, 6, [0, 1, 3], 40),
    "small-table": (20, 5, 31, 3, 6, 3, 2, [1], 36),
    "large-table": (28, 7, 18, 2, 2, 2, 11, [0], 42),
}


@pytest.fixture(scope="module", params=SHAPES)
def trio(request: Any) -> tuple[Any, Any, Any]:
    """Their tower, our tower, our mergers, the last one first."""
    width, heads, ffn, layers, patch, merge, edge, inner, out = SHAPES[request.param]
    theirs = transformers.models.qwen3_vl.modeling_qwen3_vl.Qwen3VLVisionModel(
        transformers.models.qwen3_vl.configuration_qwen3_vl.Qwen3VLVisionConfig(
            depth=layers,
            hidden_size=width,
            num_heads=heads,
            intermediate_size=ffn,
            patch_size=patch,
            spatial_merge_size=merge,
            num_position_embeddings=edge**2,
            deepstack_visual_indexes=inner,
            out_hidden_size=out,
        )
    )
    randomise(theirs)
    config = config_of(
        Qwen3VitConfig,
        layers=layers,
        d_vision=width,
        heads=heads,
        d_ff=ffn,
        patch=patch,
        positions=edge**2,
        activation="gelu_pytorch_tanh",
    )
    tower = {name: one for name, one in theirs.state_dict().items() if "merger" not in name}
    sizes = MergerConfig(d_in=width, d_out=out, merge_area=merge**2)
    inside = torch.nn.ModuleDict({str(i): deepstack_merger(sizes) for i in range(len(inner))})
    filled(inside, DEEPSTACK, part_of(theirs, "deepstack_merger_list."))
    last = filled(qwen3_merger(sizes), MERGER, part_of(theirs, "merger."))
    return theirs, filled(Qwen3Vit(config, merge, inner), VIT, tower), [last, *inside.values()]


def test_every_block_and_all_features_equal_transformers(trio: tuple[Any, Any, Any]) -> None:
    theirs, tower, (merger, *inside) = trio
    values, grids = patches(GRIDS, tower.merge, tower.patch_embed.weight[0].numel())
    with torch.no_grad(), tapped(tower, "blocks.?") as taps:
        expected = theirs(values, grids, output_hidden_states=True)
        found = tower(values, grids)
        features = [merger(found.last)] + [one(x) for one, x in zip(inside, found.inner, strict=True)]
    for i, tap in taps.items():
        assert_near(tap, expected.hidden_states[int(i.removeprefix("blocks.")) + 1])
    assert_near(found.last, expected.last_hidden_state)
    wanted = [expected.pooler_output, *expected.deepstack_features]
    for mine, one in zip(features, wanted, strict=True):
        assert_near(mine, one)


def test_an_image_alone_gives_what_it_gives_among_others(trio: tuple[Any, Any, Any]) -> None:
    _, tower, _ = trio
    values, grids = patches(GRIDS, tower.merge, tower.patch_embed.weight[0].numel())
    with torch.no_grad():
        together = tower(values, grids).last
        alone = [
            tower(one, grid[None]).last
            for one, grid in zip(values.split(grids.prod(-1).tolist()), grids, strict=True)
        ]
    assert_near(torch.cat(alone), together)


def test_a_table_is_stretched_corner_to_corner() -> None:
    table = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    assert stretched(table, 2, 2)[..., 0].tolist() == [[0, 1], [10, 11]]
    assert stretched(table, 3, 5)[..., 0].tolist() == [
        [0, 0.25, 0.5, 0.75, 1],
        [5, 5.25, 5.5, 5.75, 6],
        [10, 10.25, 10.5, 10.75, 11],
    ]
    assert stretched(table, 1, 2)[..., 0].tolist() == [[0, 1]]


@pytest.mark.parametrize("inner", [[2], [1, 0], [0, 0], [-1]])
def test_layers_that_are_not_there_are_refused(inner: list[int]) -> None:
    sizes = {"layers": 2, "d_vision": 8, "heads": 2, "d_ff": 8, "patch": 2, "positions": 4}
    config = config_of(Qwen3VitConfig, **sizes, activation="gelu_pytorch_tanh")
    with pytest.raises(UsageError) as error:
        Qwen3Vit(config, 2, inner)
    assert str(error.value) == (
        f"features cannot be taken after the layers {inner}\n"
        "  expected  ascending numbers of layers, 0 to 1\n\n"
        "hint: give --set deepstack.vision_layers=A,B,C"
    )
