"""SigLIP's two towers score images and texts as transformers does."""

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dovetail.errors import UsageError
from dovetail.models.taps import tapped
from parity import assert_near, loaded, randomise

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

# of the text and of the vision tower: heads, feed-forward width, layers; the width of both; text projection
SHAPES = {
    "odd-heads": ((5, 22, 2), (7, 30, 3), 35),
    "one-head": ((1, 61, 3), (2, 40, 2), 26),
    "wide-heads": ((3, 40, 2), (1, 51, 4), 48),
}
ROWS = [[5, 9, 17, 3, 60, 2, 41], [8, 20, 7, 1, 1, 1, 1], [33, 4, 96, 96, 11, 0, 0]]


def original(shape: str) -> Any:
    text, vision, width = SHAPES[shape]
    names = ("num_attention_heads", "intermediate_size", "num_hidden_layers")
    config = transformers.SiglipConfig(
        text_config={
            "hidden_size": width,
            "vocab_size": 97,
            "max_position_embeddings": 7,
            "projection_size": width,
            **dict(zip(names, text, strict=True)),
        },
        vision_config={
            "hidden_size": width,
            "image_size": 24,
            "patch_size": 6,
            **dict(zip(names, vision, strict=True)),
        },
    )
    return randomise(transformers.SiglipModel(config))


@pytest.mark.parametrize("shape", list(SHAPES))
def test_scores_equal_transformers(shape: str, tmp_path: Path) -> None:
    theirs = original(shape)
    mine = loaded(theirs, tmp_path)
    pixels = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor(ROWS), pixel_values=pixels, output_hidden_states=True)
        states = theirs.text_model(input_ids=torch.tensor(ROWS), output_hidden_states=True).hidden_states
        with tapped(mine, "text.blocks.?") as taps:
            texts = mine.texts(ROWS)
        for i, state in enumerate(states[1:]):
            assert_near(taps[f"text.blocks.{i}"], state)
        assert_near(texts, expected.text_model_output.pooler_output)
        assert_near(mine.pooled(pixels), expected.vision_model_output.pooler_output)
        assert_near(mine.scores(mine.pooled(pixels), texts), expected.logits_per_image)


def test_texts_of_one_length(tmp_path: Path) -> None:
    model = loaded(original("one-head"), tmp_path)
    for rows in ([[1, 2], [3]], [[1] * 8], [], [[]]):
        with pytest.raises(UsageError, match="texts are padded to one length"):
            model.texts(rows)


def test_a_tower_alone_reads_no_texts(tmp_path: Path) -> None:
    theirs = original("one-head")
    vision = transformers.SiglipVisionModel(theirs.config.vision_config)
    model = loaded(randomise(vision), tmp_path)
    with pytest.raises(UsageError, match="reads no texts"):
        model.texts(ROWS)
    with pytest.raises(UsageError, match="no scale and bias"):
        model.scores(torch.ones(1, 26), torch.ones(1, 26))
