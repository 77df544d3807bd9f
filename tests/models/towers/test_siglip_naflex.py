"""SigLIP2's NaFlex tower equals transformers, image by image, and so do its patches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dovetail.errors import UsageError
from dovetail.inputs.naflex import flexible_patches
from dovetail.inputs.processor import ImageProcessor
from dovetail.inputs.values import fill
from inputs.every_family import values_for
from parity import assert_near, loaded, randomise

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

# width, heads, feed-forward width, layers, patch, positions: none follows from another
SHAPES = {"odd-heads": (35, 5, 22, 2, 4, 9), "one-head": (26, 1, 61, 3, 3, 16), "wide": (48, 3, 40, 4, 2, 25)}
IMAGES = [
    np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8)
    for i, size in enumerate([(40, 31), (9, 70), (64, 64), (5, 200)])
]


def original(shape: str, *, is_pair: bool = False, has_head: bool = True) -> Any:
    width, heads, ffn, layers, patch, positions = SHAPES[shape]
    vision = {
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "patch_size": patch,
        "num_patches": positions,
        "vision_use_head": has_head,
    }
    if not is_pair:
        config = transformers.Siglip2VisionConfig(**vision, attn_implementation="eager")
        return randomise(transformers.Siglip2VisionModel(config))
    text = {"hidden_size": width, "num_attention_heads": heads, "num_hidden_layers": 2, "vocab_size": 97}
    text |= {"intermediate_size": 44, "max_position_embeddings": 7, "projection_size": width}
    return randomise(
        transformers.Siglip2Model(transformers.Siglip2Config(text_config=text, vision_config=vision))
    )


def theirs_of(shape: str, most: int) -> dict[str, Any]:
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    processor = Siglip2ImageProcessorPil(patch_size=SHAPES[shape][4], max_num_patches=most)
    return dict(processor(IMAGES, return_tensors="pt"))


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("most", [20, 64])
def test_every_image_equals_transformers(shape: str, most: int, tmp_path: Path) -> None:
    theirs = original(shape)
    folder = tmp_path / "model"
    loaded(theirs, folder)
    from dovetail.loading.load import load

    mine = load(folder, settings={"vision.max_num_patches": most})
    inputs = theirs_of(shape, most)
    found = mine.prepare(IMAGES)
    assert found["grids"].tolist() == inputs["spatial_shapes"].tolist()
    keep = inputs["pixel_attention_mask"].bool()
    assert_near(found["patches"], inputs["pixel_values"][keep])
    with torch.no_grad():
        expected = theirs(**inputs)
        assert_near(mine(**found), expected.last_hidden_state[keep])
        assert_near(mine.pooled(**found), expected.pooler_output)


def test_pairs_and_towers_without_a_head(tmp_path: Path) -> None:
    theirs = original("odd-heads", is_pair=True)
    mine = loaded(theirs, tmp_path / "pair")
    rows = [[5, 9, 17, 3, 60, 2, 41], [8, 20, 7, 1, 1, 1, 1]]
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor(rows), **theirs_of("odd-heads", 256))
        found = mine.scores(mine.pooled(**mine.prepare(IMAGES)), mine.texts(rows))
    assert_near(found, expected.logits_per_image)
    alone = loaded(original("wide", has_head=False), tmp_path / "alone")
    with pytest.raises(UsageError, match="no pooling head"):
        alone.pooled(**alone.prepare(IMAGES))


def test_patches_hold_rows_columns_channels() -> None:
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    values, grid = flexible_patches(image, fill(ImageProcessor, values_for("siglip")), patch=2, most=6)
    assert grid == (2, 3)
    expected = (image[:2, 2:4].reshape(-1) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(values[1], expected, atol=1e-6)
