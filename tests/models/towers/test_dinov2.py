"""DINOv2's tower equals timm's in float32, output by output."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dovetail.edit.make import make
from dovetail.errors import UsageError
from dovetail.loading.load import load
from dovetail.models.taps import tapped
from parity import assert_near, randomise
from stand_in import import_timm

pytestmark = pytest.mark.filterwarnings("ignore")

# width, heads, feed-forward width, layers, rows of patches, patch, registers, class token has a position
SHAPES = {
    "registers": (35, 5, 22, 3, 4, 8, 4, False),
    "no-registers": (26, 1, 61, 2, 5, 7, 0, True),
    "all-placed": (42, 3, 80, 3, 3, 6, 2, True),
}
MORE = [(0, 0), (0, 2), (1, 3), (-1, -1)]  # rows and columns of patches added to the tower's own


def original(shape: str) -> Any:
    width, heads, ffn, layers, edge, patch, registers, is_placed = SHAPES[shape]
    return randomise(
        import_timm().models.vision_transformer.VisionTransformer(
            img_size=edge * patch,
            patch_size=patch,
            embed_dim=width,
            depth=layers,
            num_heads=heads,
            mlp_ratio=ffn / width + 1e-9,
            reg_tokens=registers,
            no_embed_class=not is_placed,
            init_values=1e-5,
            num_classes=0,
            dynamic_img_size=True,
        )
    )


@pytest.fixture(scope="module", params=list(SHAPES))
def pair(request: Any, tmp_path_factory: Any) -> tuple[str, Any, Any]:
    file = tmp_path_factory.mktemp("model") / "tower.pth"
    theirs = original(request.param)
    torch.save(theirs.state_dict(), file)
    return request.param, theirs, load(file, settings={"vision.heads": SHAPES[request.param][1]})


def pixels(height: int, width: int) -> Any:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("more", MORE)
def test_every_output_equals_timm(pair: tuple[str, Any, Any], more: tuple[int, int]) -> None:
    shape, theirs, mine = pair
    layers, edge, patch, registers = SHAPES[shape][3:7]
    x = pixels((edge + more[0]) * patch, (edge + more[1]) * patch)
    with torch.no_grad(), tapped(mine, "vision.blocks.*", "vision.norm") as taps:
        found = mine(x)
        assert_near(taps["vision.norm"], theirs.forward_features(x))
        assert_near(found, theirs.forward_features(x)[:, 1 + registers :])
        for i in range(layers):
            state = theirs.get_intermediate_layers(x, n={i})[0]
            assert_near(taps[f"vision.blocks.{i}"][:, 1 + registers :], state)
        assert_near(mine(x, "last"), theirs.get_intermediate_layers(x, n={layers - 1})[0])
        assert_near(mine(x, "penultimate"), theirs.get_intermediate_layers(x, n={layers - 2})[0])


def test_images_become_pixels(pair: tuple[str, Any, Any]) -> None:
    shape, _, mine = pair
    size = SHAPES[shape][4] * SHAPES[shape][5]
    found = mine.prepare([np.zeros((50, 31, 3), np.uint8), np.full((9, 70, 3), 255, np.uint8)])["pixels"]
    assert found.shape == (2, 3, size, size)
    assert_near(found[0, :, 0, 0], torch.tensor([-2.1179039, -2.0357141, -1.8044444]))
    assert_near(found[1, :, 0, 0], torch.tensor([2.2489083, 2.4285714, 2.64]))


def test_a_grid_that_is_no_square_is_refused(tmp_path: Path) -> None:
    sizes = {"vision": "dinov2+registers", "vision.d_vision": 30, "vision.heads": 3, "vision.d_ff": 44}
    sizes |= {"vision.layers": 2, "vision.patch": 5, "vision.positions": 11, "vision.registers": 4}
    make("dinov2", tmp_path / "model", set=sizes, dtype="float32")
    model = load(tmp_path / "model", settings={"vision.heads": 3})
    with pytest.raises(UsageError, match="11 positions are no square grid of patches"):
        model(pixels(15, 15))


def test_the_gated_mlp_of_the_giant_equals_timm(tmp_path: Path) -> None:
    timm = import_timm()
    theirs = randomise(
        timm.models.vision_transformer.VisionTransformer(
            img_size=28,
            patch_size=7,
            embed_dim=24,
            depth=2,
            num_heads=3,
            mlp_ratio=64 / 24 + 1e-9,
            mlp_layer=timm.layers.SwiGLUPacked,
            act_layer=torch.nn.SiLU,
            init_values=1e-5,
            num_classes=0,
        )
    )
    torch.save(theirs.state_dict(), tmp_path / "tower.pth")
    mine = load(tmp_path / "tower.pth", settings={"vision.heads": 3})
    assert mine.report.parts["vision"].kind == "dinov2_gated"
    with torch.no_grad():
        assert_near(mine(pixels(28, 28)), theirs.forward_features(pixels(28, 28))[:, 1:])
