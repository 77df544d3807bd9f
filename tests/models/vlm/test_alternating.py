"""The alternating variants: masks by hand and as recorded, logits as recorded, in prefill and decoding."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file

import dovetail
from dovetail.errors import UsageError
from dovetail.models.cache import Cache
from dovetail.models.masks import Tokens, block_mask, causal_blocks, positions_of, tokens_of
from dovetail.models.stream import Columns, Stream, packed
from dovetail.models.vlm.alternating import RULES, across, schedule, within
from dovetail.run.engine import pieces
from files import TINY, scoped
from models.recorded import GOLDEN, recorded, tensor
from parity import assert_near

VARIANTS = ["alternating", "alternating_cross"]
# SYSTEMS T.3: modality 0 0 1 1 1 0 0, and one text token more that is decoded
MODALITY = [0, 0, 1, 1, 1, 0, 0, 0]
BY_HAND = {
    "causal": ["x", "xx", "xxx", "xxxx", "xxxxx", "xxxxxx", "xxxxxxx", "xxxxxxxx"],
    "alternating": ["x", "xx", "..x", "..xx", "..xxx", "xx...x", "xx...xx", "xx...xxx"],
    "alternating_cross": ["x", ".x", "xxx", "xx.x", "xx..x", "..xxxx", "..xxx.x", "..xxx..x"],
}


def masks(first: int, last: int) -> dict[str, Any]:
    """The masks of the queries from `first` to `last`, behind whom the keys from 0 are cached."""
    modality, blocks = torch.tensor([MODALITY]), torch.arange(8)[None]
    causal = block_mask(blocks[:, first:last], blocks[:, :last], torch.ones(1, last, dtype=torch.bool))
    query = Tokens(blocks[:, first:last], modality[:, first:last])
    key = Tokens(blocks[:, :last], modality[:, :last])
    made = {kind: causal & rule(query, key) for kind, rule in RULES.items()}
    return {"causal": causal, **made}


@pytest.mark.parametrize("kind", BY_HAND)
@pytest.mark.parametrize(("first", "last"), [(0, 8), (0, 3), (3, 6), (6, 8), (7, 8)])
def test_masks_by_hand(kind: str, first: int, last: int) -> None:
    rows = ["".join("x" if see else "." for see in row).rstrip(".") for row in masks(first, last)[kind][0, 0]]
    assert rows == BY_HAND[kind][first:last]


def test_the_schedule() -> None:
    assert schedule("by variant", "base", 3) == ("causal",) * 3
    special = [i for i, kind in enumerate(schedule(None, "alternating", 24)) if kind == "alternating"]
    assert special == list(range(1, 23, 2))
    assert schedule(["causal", "alternating_cross"], "base", 2) == ("causal", "alternating_cross")
    with pytest.raises(UsageError) as error:
        schedule(["causal", "cross"], "base", 2)
    assert str(error.value) == (
        "layer_masks does not say what 2 layers are\n"
        "  expected  2 of causal, alternating, alternating_cross\n"
        "  found     causal, cross\n\n"
        "hint: give one word for each layer"
    )


@pytest.fixture(scope="module")
def io() -> dict[str, np.ndarray]:
    return recorded("alternating")


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_recorded_masks(io: dict[str, np.ndarray], variant: str) -> None:
    valid, modality = tensor(io["attention_mask"]).bool(), tensor(io["modality_ids"])
    causal = block_mask(causal_blocks(valid), causal_blocks(valid), valid)
    rule = {"alternating": within, "alternating_cross": across}[variant]
    tokens = tokens_of(Columns(valid, causal_blocks(valid), modality))
    assert torch.equal(causal & rule(tokens, tokens), tensor(io[f"{variant}.mask_allowed"]))


@pytest.fixture(scope="module", params=VARIANTS)
def model(request: Any, tmp_path_factory: Any) -> Any:
    """A LLaVA of the variant whose text model is the recorded one."""
    folder: Path = tmp_path_factory.mktemp("llava") / request.param
    said = json.loads((GOLDEN / "alternating" / "config_v5.json").read_text())
    text = {
        "d_model": said["hidden_size"],
        "layers": said["num_hidden_layers"],
        "q_heads": said["num_attention_heads"],
        "kv_heads": said["num_key_value_heads"],
        "head_dim": said["hidden_size"] // said["num_attention_heads"],
        "d_ff": said["intermediate_size"],
        "vocab": said["vocab_size"],
    }
    sizes = {**scoped("text", text), **scoped("vision", TINY["vision"]), "head": "head"}
    dovetail.make("llava_onevision", folder, layout="lmms", set=sizes, dtype="float32")
    stored = load_file(folder / "model.safetensors")
    golden = load_file(GOLDEN / "alternating" / "model.safetensors")
    assert golden.keys() < stored.keys()
    save_file({**stored, **golden}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    kind = {"alternating": "attn", "alternating_cross": "cross_attn"}[request.param]
    config["model_type"] = f"llava_qwen_with_alternating_{kind}"
    (folder / "config.json").write_text(json.dumps(config))
    settings = {
        "text.rope_theta": said["rope_parameters"]["rope_theta"],
        "vision.heads": TINY["vision"]["heads"],
    }
    return dovetail.load(folder, settings=settings)


def stream_of(io: dict[str, np.ndarray]) -> Stream:
    valid = tensor(io["attention_mask"]).bool()
    columns = Columns(valid, causal_blocks(valid), tensor(io["modality_ids"]))
    return Stream(tensor(io["inputs_embeds"]), positions_of(valid), columns)


def test_the_recorded_logits(model: Any, io: dict[str, np.ndarray]) -> None:
    stream, variant = stream_of(io), model.config.variant
    assert model.layer_masks == ("causal", variant, "causal", variant, "causal")
    with torch.no_grad():
        logits = model.logits(model.hidden(stream))
    assert_near(logits, tensor(io[f"{variant}.logits"]), stream.columns.valid)


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_the_recorded_logits_in_pieces(model: Any, io: dict[str, np.ndarray], chunk: int) -> None:
    stream = stream_of(io)
    with torch.no_grad():
        expected = tensor(io[f"{model.config.variant}.logits"])
        for i, row in enumerate(stream.rows()):
            cache = Cache()
            cache.open(i, row.x.shape[1])
            parts = [model.hidden(packed([one], [i]), cache) for one in pieces(row, chunk)]
            assert_near(model.logits(torch.cat(parts, dim=1))[0], expected[i][stream.columns.valid[i]])
