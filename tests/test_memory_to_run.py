"""`inspect --memory` against what loaded models and their caches really take."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import dovetail
from commands import dovetail as run
from dovetail.dtypes import BITS, dtype_of
from dovetail.errors import UsageError
from dovetail.loading.stage import load_stage
from dovetail.run.engine import Piece, step
from files import MODELS, header_of, plan_of, write_listing

TEXT = {"text.layers": 4, "text.d_model": 16, "text.q_heads": 4, "text.kv_heads": 2, "text.head_dim": 4}
SIZES = {**TEXT, "text.d_ff": 24, "text.vocab": 40}
VISION = {"vision.layers": 2, "vision.d_vision": 16, "vision.heads": 2, "vision.d_ff": 24, "vision.patch": 4}
QWEN_VL = {**SIZES, **VISION, "vision.frames": 2, "vision.channels": 3, "merger.merge_area": 4}
SETTINGS = {"image_token": 7, "video_token": 8, "text.rope_theta": 10000.0, "mrope_section": [1, 1, 0]}
CASES: dict[str, dict[str, Any]] = {
    "qwen2": SIZES,
    "qwen3": {**SIZES, "head": "head"},
    "llama": SIZES,
    "gemma": SIZES,
    "qwen2_vl": QWEN_VL,
}
CONTEXT, BATCH = 9, 2


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("family", CASES)
def test_weights_and_caches_take_what_the_header_says(family: str, dtype: str, tmp_path: Path) -> None:
    dovetail.make(family, tmp_path / "m", set=CASES[family], dtype=dtype)
    settings = SETTINGS if family == "qwen2_vl" else {}
    for nodes in (1, 2):
        memory = dovetail.inspect(
            tmp_path / "m", as_=family, memory=True, context=CONTEXT, batch=BATCH, nodes=nodes
        ).memory
        assert memory is not None
        stages = [
            load_stage(tmp_path / "m", node.layers, settings=settings, as_=family) for node in memory.nodes
        ]
        for node, stage in zip(memory.nodes, stages, strict=True):
            taken: dict[str, int] = {}
            for one in stage.model.parameters():
                name = dtype_of(str(one.dtype)).name
                taken[name] = taken.get(name, 0) + one.nbytes
            assert node.weights == taken
        with torch.inference_mode():
            prompts = list(stages[0].embed(**stages[0].model.prepare([[1, 2, 3], [4]])).rows())
            for i in range(BATCH):
                for stage in stages:
                    stage.open(i, CONTEXT)
            step(stages, [Piece(i, prompt) for i, prompt in enumerate(prompts)])
        kept = 32 // BITS[memory.cache_dtype or ""]  # 16 bits are kept as 32 on a CPU
        assert [stage.cache.bytes for stage in stages] == [(node.cache or 0) * kept for node in memory.nodes]


def test_what_a_node_of_a_split_takes_is_said_of_its_folder_too(tmp_path: Path) -> None:
    dovetail.make("qwen2", tmp_path / "m", set=SIZES)
    dovetail.split(tmp_path / "m", tmp_path / "out", nodes=2)
    whole = dovetail.inspect(tmp_path / "m", memory=True, nodes=2).memory
    assert whole is not None
    for i, node in enumerate(whole.nodes):
        alone = dovetail.inspect(tmp_path / "out" / f"node{i}", memory=True).memory
        assert alone is not None
        assert alone.nodes == (node,)


def test_the_page_and_the_json_say_the_same(tmp_path: Path) -> None:
    dovetail.make("qwen2", tmp_path / "m", set=SIZES)
    lines = run("inspect", tmp_path / "m", "--context", "100", "--nodes", "2").out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("memory "))
    assert [line.split()[0:5] for line in lines[start + 1 : start + 3]] == [
        ["node", "0,", "layers", "0", "to"],
        ["node", "1,", "layers", "2", "to"],
    ]
    assert lines[start + 3] == (
        "KV cache: 128 B a token as BF16, for 1 sequence of 100 tokens; twice as much on a CPU, where it is "
        "kept as F32"
    )
    memory = json.loads(run("inspect", tmp_path / "m", "--memory", "--json").out)["memory"]
    assert list(memory) == ["context", "batch", "per_token", "cache_dtype", "why_not", "nodes"]
    assert (memory["context"], memory["per_token"], memory["nodes"][0]["cache"]) == (4096, 128, 128 * 4096)
    assert json.loads(run("inspect", tmp_path / "m", "--json").out)["memory"] is None


def test_what_no_header_shows_is_not_guessed(tmp_path: Path) -> None:
    open_heads = write_listing(
        tmp_path / "x.json", header_of(plan_of("qwen2_vl", MODELS["qwen2_vl"][0]), "hf")
    )
    memory = dovetail.inspect(open_heads, memory=True).memory
    assert memory is not None
    assert memory.why_not is None or memory.why_not.startswith("nothing says text.")
    policy = write_listing(tmp_path / "y.json", header_of(plan_of("pi0", MODELS["pi0"][0]), "openpi"))
    memory = dovetail.inspect(policy, memory=True).memory
    assert memory is not None
    assert (memory.per_token, memory.nodes[0].cache) == (None, None)
    assert sum(memory.nodes[0].weights.values()) > 0


def test_numbers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    dovetail.make("qwen2", tmp_path / "m", set=SIZES)
    for asked, message in (
        ({"context": 0}, "--context 0 is none"),
        ({"nodes": 5}, "4 layers cannot be dealt out to 5 nodes"),
    ):
        with pytest.raises(UsageError, match=message):
            dovetail.inspect(tmp_path / "m", memory=True, **asked)  # type: ignore[arg-type]
    odd = write_listing(tmp_path / "x.json", {"a": ["F32", [2]]})
    with pytest.raises(UsageError, match="no known family"):
        dovetail.inspect(odd, memory=True)
