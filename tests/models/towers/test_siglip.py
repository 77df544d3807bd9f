"""SigLIP's tower equals transformers, timm and the golden data in float32, output by output."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dovetail.edit.make import make
from dovetail.errors import UsageError
from dovetail.families import family
from dovetail.loading.load import load
from dovetail.models.taps import tapped
from parity import assert_near, loaded, randomise
from stand_in import import_timm

pytestmark = pytest.mark.filterwarnings("ignore")

GOLDEN = Path(__file__).parents[2] / "golden" / "siglip_vision"
# width, heads, feed-forward width, layers, image, patch, pooling head: none follows from another
SHAPES = {
    "odd-heads": (35, 5, 22, 2, 24, 8, True),
    "one-head": (26, 1, 61, 3, 35, 7, False),
    "wide-heads": (48, 3, 40, 4, 30, 6, True),
}
SIZES = [(0, 0), (0, 19), (17, 0), (-8, -8)]  # added to the tower's own height and width


def original(shape: str, **more: Any) -> Any:
    width, heads, ffn, layers, image, patch, pool = SHAPES[shape]
    config = transformers.SiglipVisionConfig(
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=ffn,
        num_hidden_layers=layers,
        image_size=image,
        patch_size=patch,
        vision_use_head=pool,
        **more,
    )
    return randomise(transformers.SiglipVisionModel(config))


@pytest.fixture(scope="module", params=list(SHAPES))
def pair(request: Any, tmp_path_factory: Any) -> tuple[Any, Any]:
    model = original(request.param)
    return model, loaded(model, tmp_path_factory.mktemp("model"))


def pixels(height: int, width: int, seed: int = 0) -> Any:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("more", SIZES)
def test_every_output_equals_transformers(pair: tuple[Any, Any], more: tuple[int, int]) -> None:
    theirs, mine = pair
    edge = theirs.config.image_size
    x = pixels(edge + more[0], edge + more[1])
    with torch.no_grad():
        expected = theirs(x, output_hidden_states=True, interpolate_pos_encoding=more != (0, 0))
        with tapped(mine, "vision.blocks.*") as taps:
            found = mine(x)
        assert_near(mine.vision.embed(x), expected.hidden_states[0])
        for i, state in enumerate(expected.hidden_states[1:]):
            assert_near(taps[f"vision.blocks.{i}"], state)
        assert_near(found, expected.last_hidden_state)
        assert_near(mine(x, "last"), expected.hidden_states[-1])
        assert_near(mine(x, "penultimate"), expected.hidden_states[-2])
        if mine.vision.pool is None:
            with pytest.raises(UsageError, match="no pooling head"):
                mine.pooled(x)
        else:
            assert_near(mine.pooled(x), expected.pooler_output)


@pytest.mark.parametrize("case", ["p224", "p378_interp", "p384_interp", "p140x280_interp"])
def test_the_golden_tower(case: str) -> None:
    recorded = np.load(GOLDEN / "io.npz")
    size = case.removesuffix("_interp").removeprefix("p")
    height, width = map(int, size.split("x")) if "x" in size else (int(size), int(size))
    crop = recorded["image"][:height, :width]
    x = torch.from_numpy(((crop / 255 - 0.5) / 0.5).astype(np.float32)).permute(2, 0, 1)[None]
    model = load(GOLDEN)
    with torch.no_grad():
        assert_near(model.vision.embed(x)[:, ::7], torch.from_numpy(recorded[f"{case}.embeddings"]))
        for output, name in {
            "normed": "last_hidden_state",
            "last": "hs_last",
            "penultimate": "hs_m2",
        }.items():
            assert_near(model(x, output), torch.from_numpy(recorded[f"{case}.{name}"]))
        assert_near(model.pooled(x), torch.from_numpy(recorded[f"{case}.pooler_output"]))


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("more", SIZES)
def test_as_timm_runs_it(tmp_path: Path, shape: str, more: tuple[int, int]) -> None:
    timm = import_timm()
    width, heads, ffn, layers, image, patch, pool = SHAPES[shape]
    image -= image % patch
    theirs = randomise(
        timm.models.vision_transformer.VisionTransformer(
            img_size=image,
            patch_size=patch,
            embed_dim=width,
            depth=layers,
            num_heads=heads,
            mlp_ratio=ffn / width + 1e-9,
            class_token=False,
            global_pool="map" if pool else "",
            num_classes=0,
            dynamic_img_size=True,
        )
    )
    torch.save(theirs.state_dict(), tmp_path / "tower.pth")
    as_timm = {"vision.activation": "gelu", "vision.antialias": True, "vision.heads": heads}
    mine = load(tmp_path / "tower.pth", settings=as_timm)
    grid = [image + patch * (step // 6) for step in more]
    x = pixels(*grid)
    with torch.no_grad():
        features = theirs.forward_features(x)
        assert_near(mine(x), features)
        second = theirs.get_intermediate_layers(x, n={layers - 2})[0]
        assert_near(mine(x, "penultimate"), second)
        if pool:
            assert_near(mine.pooled(x), theirs.forward_head(features, pre_logits=True))
        as_transformers = load(tmp_path / "tower.pth", settings={"vision.heads": heads})
        assert float((as_transformers(x) - features).abs().max()) > 1e-4


LAYOUTS = [layout.id for layout in family("siglip").layouts if layout.is_writable]


def test_every_layout_is_the_same_model(tmp_path: Path) -> None:
    sizes = {"vision": "siglip+pool", "vision.d_vision": 30, "vision.heads": 3, "vision.d_ff": 44}
    sizes |= {"vision.layers": 2, "vision.patch": 5, "vision.positions": 9}
    outputs = []
    for layout in LAYOUTS:
        make("siglip", tmp_path / layout, layout=layout, set=sizes, dtype="float32")
        model = load(tmp_path / layout, settings={"vision.heads": 3})
        with torch.no_grad():
            outputs.append((model(pixels(15, 20)), model.pooled(pixels(15, 20))))
    assert len(outputs) == 3
    for features, pooled in outputs[1:]:
        assert torch.equal(features, outputs[0][0])
        assert torch.equal(pooled, outputs[0][1])


def test_images_become_pixels(tmp_path: Path) -> None:
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    model = loaded(original("one-head"), tmp_path)
    images = [
        np.random.default_rng(0).integers(0, 256, shape, np.uint8) for shape in ((40, 31, 3), (9, 70, 3))
    ]
    found = model.prepare(images)["pixels"]
    assert found.shape == (2, 3, 35, 35)
    theirs = SiglipImageProcessorPil(size={"height": 35, "width": 35})(images, return_tensors="pt")
    assert_near(found, theirs["pixel_values"])
    assert model(found).shape == (2, 25, 26)
    with pytest.raises(UsageError, match="not a decoded image"):
        model.prepare([np.zeros((4, 4, 3))])
