"""Qwen2.5-VL's tower and merger equal transformers in float32, block by block, for images of many sizes."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dovetail.errors import UsageError
from dovetail.families.qwen2_5_vl import MERGER, VIT
from dovetail.models.taps import tapped
from dovetail.models.towers.grids import MergerConfig
from dovetail.models.towers.qwen2_5_vit import Qwen25Vit, Qwen25VitConfig, qwen25_merger
from models.towers.qwen_towers import GRIDS, config_of, filled, part_of, patches
from parity import assert_near, randomise

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

# width, heads, feed-forward width, layers, patch, merge, window in pixels, layers that see all, width put out
SHAPES = {
    "some-see-all": (24, 3, 22, 4, 4, 2, 16, [1, 3], 40),
    "none-sees-all": (20, 5, 31, 2, 6, 3, 36, [], 36),
    "windows-not-of-whole-features": (28, 7, 18, 3, 3, 2, 20, [0], 42),
}


@pytest.fixture(scope="module", params=SHAPES)
def pair(request: Any) -> tuple[Any, Any, Any]:
    """Their tower, our tower, our merger."""
    width, heads, ffn, layers, patch, merge, window, full, out = SHAPES[request.param]
    theirs = transformers.models.qwen2_5_vl.modeling_qwen2_5_vl.Qwen2_5_VisionTransformerPretrainedModel(
        transformers.models.qwen2_5_vl.configuration_qwen2_5_vl.Qwen2_5_VLVisionConfig(
            depth=layers,
            hidden_size=width,
            num_heads=heads,
            intermediate_size=ffn,
            patch_size=patch,
            spatial_merge_size=merge,
            window_size=window,
            fullatt_block_indexes=full,
            out_hidden_size=out,
        )
    )
    randomise(theirs)
    config = config_of(
        Qwen25VitConfig,
        layers=layers,
        d_vision=width,
        heads=heads,
        d_ff=ffn,
        patch=patch,
        activation="silu",
        window_size=window,
        full_attention_layers=tuple(full),
    )
    tower = {name: one for name, one in theirs.state_dict().items() if not name.startswith("merger.")}
    merger = qwen25_merger(MergerConfig(d_in=width, d_out=out, merge_area=merge**2))
    return (
        theirs,
        filled(Qwen25Vit(config, merge), VIT, tower),
        filled(merger, MERGER, part_of(theirs, "merger.")),
    )


def test_every_block_and_the_features_equal_transformers(pair: tuple[Any, Any, Any]) -> None:
    theirs, tower, merger = pair
    values, grids = patches(GRIDS, tower.merge, tower.patch_embed.weight[0].numel())
    order, lengths = tower.windows(grids)
    assert sum(lengths) == len(values)
    with torch.no_grad(), tapped(tower, "blocks.?") as taps:
        expected = theirs(values, grids, output_hidden_states=True)
        found = tower(values, grids)
        features = merger(found)
    for i, tap in taps.items():
        assert_near(tap, expected.hidden_states[int(i.removeprefix("blocks.")) + 1])
    assert_near(found[order], expected.last_hidden_state)
    assert_near(features, expected.pooler_output)


def test_an_image_alone_gives_what_it_gives_among_others(pair: tuple[Any, Any, Any]) -> None:
    _, tower, merger = pair
    values, grids = patches(GRIDS, tower.merge, tower.patch_embed.weight[0].numel())
    with torch.no_grad():
        together = merger(tower(values, grids))
        alone = [
            merger(tower(one, grid[None]))
            for one, grid in zip(values.split(grids.prod(-1).tolist()), grids, strict=True)
        ]
    assert_near(torch.cat(alone), together)


def test_windows_by_hand() -> None:
    """The picture in the tower's text: 3 x 5 features, windows of 2 x 2."""
    sizes = {"layers": 1, "d_vision": 8, "heads": 2, "d_ff": 8, "patch": 2, "activation": "silu"}
    config = config_of(Qwen25VitConfig, **sizes, window_size=8, full_attention_layers=())
    order, lengths = Qwen25Vit(config, 2).windows(torch.tensor([[1, 6, 10]]))
    assert lengths == [16, 16, 8, 8, 8, 4]
    assert (order.view(-1, 4)[:, 0] // 4).tolist() == [0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14]
    assert (order.view(-1, 4) % 4 == torch.arange(4)).all()


def test_a_window_that_holds_nothing_is_refused() -> None:
    sizes = {"layers": 1, "d_vision": 8, "heads": 2, "d_ff": 8, "patch": 14, "activation": "silu"}
    config = config_of(Qwen25VitConfig, **sizes, window_size=27, full_attention_layers=())
    with pytest.raises(UsageError) as error:
        Qwen25Vit(config, 2)
    assert str(error.value) == (
        "a window of 27 pixels does not hold 2 x 2 patches\n"
        "  expected  at least 28\n\n"
        "hint: give --set vision.window_size=PIXELS"
    )
