"""Llama, Mistral, SmolLM3, Qwen2, Qwen3 and Gemma equal transformers in float32, tap by tap, in every way of running them."""

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import dovetail
from dovetail.errors import CheckpointError, UsageError
from dovetail.models.taps import tapped
from dovetail.run.engine import generate
from models.running import check_running
from parity import assert_near, loaded, randomise

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = {
    "llama": "Llama",
    "mistral": "Mistral",
    "ministral": "Ministral",
    "smollm3": "SmolLM3",
    "qwen2": "Qwen2",
    "qwen3": "Qwen3",
    "gemma": "Gemma",
}
# width, layers, query heads, key heads, head width, feed-forward width, tied: none follows from another
SHAPES = {
    "one-head-each": (40, 2, 5, 5, 8, 56, True),
    "grouped": (36, 3, 6, 3, 10, 44, False),
    "one-key-head": (49, 2, 7, 1, 14, 61, True),
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1e4,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


ROPE = {"rope_type": "default", "rope_theta": 3e4}
SOME_SLIDE = ["sliding_attention", "full_attention", "sliding_attention"]
# what layers do by their number
BY_LAYER: dict[str, tuple[str, dict[str, Any]]] = {
    "no-window": ("mistral", {"sliding_window": None}),
    "window": ("mistral", {"sliding_window": 3}),
    "some-windows": (
        "ministral",
        {"sliding_window": 2, "layer_types": SOME_SLIDE, "rope_parameters": ROPE},
    ),
    "last-windows": ("qwen2", {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
    "no-last-windows": ("qwen2", {"use_sliding_window": True, "sliding_window": 3}),
    "listed-windows": (
        "qwen3",
        {"use_sliding_window": True, "sliding_window": 3, "layer_types": SOME_SLIDE},
    ),
    "no-positions": ("smollm3", {"no_rope_layers": [1, 0, 1]}),
    "no-positions-and-windows": (
        "smollm3",
        {"no_rope_layer_interval": 2, "use_sliding_window": True, "sliding_window": 3},
    ),
}
# biases that a config grants
BIASED: dict[str, tuple[str, dict[str, Any]]] = {
    "attention": ("llama", {"attention_bias": True}),
    "mlp": ("llama", {"mlp_bias": True}),
    "attention-and-mlp": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "smollm3": ("smollm3", {"attention_bias": True, "mlp_bias": True}),
    "qwen3": ("qwen3", {"attention_bias": True}),
    "gemma": ("gemma", {"attention_bias": True}),
}


def original(family: str, shape: str, **more: Any) -> Any:
    width, layers, heads, key_heads, head_width, ffn, tied = SHAPES[shape]
    more = {"tie_word_embeddings": tied, **more}
    config = getattr(transformers, f"{NAMES[family]}Config")(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        head_dim=head_width,
        intermediate_size=ffn,
        vocab_size=97,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
        **more,
    )
    return randomise(getattr(transformers, f"{NAMES[family]}ForCausalLM")(config))


PLAIN = [(f, s) for f in ("llama", "qwen2", "qwen3", "gemma") for s in SHAPES]


@pytest.fixture(
    scope="module", params=[*PLAIN, *BY_LAYER], ids=lambda one: "-".join([one] if one in BY_LAYER else one)
)
def pair(request: Any, tmp_path_factory: Any) -> tuple[Any, Any]:
    if request.param in BY_LAYER:
        family, more = BY_LAYER[request.param]
        model = original(family, "grouped", **more)
    else:
        model = original(*request.param)
    return model, loaded(model, tmp_path_factory.mktemp("model"))


ROWS = [[5, 9, 17, 3, 60, 2, 41], [8, 20, 7], [33, 4, 96, 96, 11]]


def both(pair: tuple[Any, Any], side: str = "left") -> tuple[Any, Any, dict[str, Any]]:
    inputs = pair[1].prepare(ROWS, pad=side)
    positions = (inputs["valid"].cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        expected = pair[0](
            input_ids=inputs["tokens"],
            attention_mask=inputs["valid"].long(),
            position_ids=positions,
            output_hidden_states=True,
        )
        with tapped(pair[1], "text.embed", "text.blocks.?", "text.norm") as taps:
            logits = pair[1](**inputs)
    return expected, logits, {**inputs, **taps}


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_and_every_layer(pair: tuple[Any, Any], side: str) -> None:
    expected, logits, found = both(pair, side)
    assert_near(logits, expected.logits, found["valid"])
    states = expected.hidden_states
    names = ["text.embed", *(f"text.blocks.{i}" for i in range(len(states) - 2)), "text.norm"]
    for name, state in zip(names, states, strict=True):
        assert_near(found[name], state, found["valid"])


def test_greedy_tokens(pair: tuple[Any, Any]) -> None:
    inputs = pair[1].prepare(ROWS)
    expected = pair[0].generate(
        inputs["tokens"], attention_mask=inputs["valid"].long(), max_new_tokens=6, do_sample=False
    )
    for options in ({}, {"chunk": 3}, {"chunk": 1}):
        found = generate(pair[1], inputs, max_new_tokens=6, **options)
        assert found == expected[:, inputs["tokens"].shape[1] :].tolist()
    right = pair[1].prepare(ROWS, pad="right")
    assert generate(pair[1], right, max_new_tokens=6, chunk=2) == found


def test_every_way_of_running(pair: tuple[Any, Any]) -> None:
    check_running(pair[1], ROWS, vocab=97)


def test_a_row_ends_with_its_stop_token(tmp_path: Path) -> None:
    model = loaded(original("qwen2", "grouped"), tmp_path)
    inputs = model.prepare(ROWS)
    free = generate(model, inputs, max_new_tokens=8)
    stop = free[0][2]
    found = generate(model, inputs, max_new_tokens=8, stop=[stop])
    assert found == [row[: row.index(stop) + 1] if stop in row else row for row in free]
    assert len(found[0]) < 8
    assert [len(row) for row in generate(model, inputs, max_new_tokens=8, stop=range(97))] == [1, 1, 1]


def test_llama_3_stretches_its_frequencies(tmp_path: Path) -> None:
    model = original("llama", "grouped", rope_parameters=LLAMA3)
    mine = loaded(model, tmp_path)
    tokens = torch.arange(60)[None]
    with torch.no_grad():
        assert_near(mine(tokens=tokens), model(input_ids=tokens).logits)


def test_what_is_not_written_is_refused(tmp_path: Path) -> None:
    model = original("qwen2", "grouped", rope_parameters={**LLAMA3, "rope_type": "linear"})
    mine = loaded(model, tmp_path / "rope")
    with pytest.raises(UsageError, match="rotary scaling `linear` is not known here"):
        mine(tokens=torch.ones(1, 2, dtype=torch.long))
    with pytest.raises(UsageError, match="layer_types does not say what 3 layers are"):
        dovetail.load(
            tmp_path / "rope",
            settings={"text.use_sliding_window": True, "text.layer_types": ["full_attention"]},
        )
    with pytest.raises(UsageError, match="a text model: it takes no images"):
        mine.prepare([[1]], [["image"]])
    with pytest.raises(UsageError, match="at least one token"):
        mine.prepare([[]])


@pytest.mark.parametrize(
    "name",
    [name if name == "attention-and-mlp" else pytest.param(name, marks=pytest.mark.slow) for name in BIASED],
)
def test_biases_that_a_config_grants(name: str, tmp_path: Path) -> None:
    family, more = BIASED[name]
    model = original(family, "grouped", **more)
    here = tmp_path / name
    mine = loaded(model, here)
    report = dovetail.validate(here)
    assert (report.family, report.findings) == (family, ())
    pair = (model, mine)
    expected, logits, found = both(pair)
    assert_near(logits, expected.logits, found["valid"])
    # with the weights laid out anew, q, k and v are one product, gate and up another
    again = dovetail.load(here, weights="packed")
    assert_near(again(**again.prepare(ROWS)), expected.logits, found["valid"])
    # another layout and back, cut in two and put together, saved: nothing lost, and transformers reads it
    fingerprint, out = dovetail.fingerprint(here), tmp_path / f"{name}-out"
    dovetail.save(mine, out / "saved", layout="hf", like=here)
    dovetail.split(here, out / "nodes", nodes=2)
    dovetail.merge(out / "nodes", out / "merged")
    outs = ["saved", "merged"]
    if {"attention_bias", "mlp_bias"} <= {*more} and family == "llama":
        dovetail.convert(here, out / "litgpt", to="litgpt")
        (out / "litgpt" / "config.json").unlink(missing_ok=True)
        dovetail.convert(out / "litgpt", out / "back", to="hf")
        outs.append("back")
    dovetail.graft([here], out / "grafted", config=here / "config.json")
    for one in [*outs, "grafted"]:
        assert dovetail.fingerprint(out / one) == fingerprint, (name, one)
        theirs, said = type(model).from_pretrained(out / one, output_loading_info=True)
        assert {key: names for key, names in said.items() if names} == {}
        states = both((theirs.eval(), mine))[0]
        assert_near(states.logits, expected.logits, found["valid"])


def test_a_config_that_denies_biases_is_contradicted(tmp_path: Path) -> None:
    loaded(original("llama", "grouped", attention_bias=True), tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    there = "the attention_bias tensors of text are there (`model.layers.0.self_attn.q_proj.bias`), and "
    wrong = {
        "false": ({"attention_bias": False}, there + "config.json: attention_bias is false"),
        "silent": ({}, there + "config.json: attention_bias is not said, which is false"),
        "true": (
            {"attention_bias": True, "mlp_bias": True},
            "the mlp_bias tensors of text are not there, and config.json: mlp_bias is true",
        ),
    }
    for said, message in wrong.values():
        kept = {key: value for key, value in config.items() if key not in ("attention_bias", "mlp_bias")}
        path.write_text(json.dumps({**kept, **said}))
        (finding,) = dovetail.validate(tmp_path / "model").findings
        assert (finding.code, finding.severity, finding.message) == ("config-conflict", "error", message)
        with pytest.raises(CheckpointError, match="_bias"):
            dovetail.load(tmp_path / "model")
        dovetail.convert(tmp_path / "model", tmp_path / "out", to="hf", trust="weights", overwrite=True)
        right = json.loads((tmp_path / "out" / "config.json").read_text())
        assert right["attention_bias"] is True
        assert not right.get("mlp_bias", False)


def test_litgpt_has_biases_everywhere_or_nowhere(tmp_path: Path) -> None:
    loaded(original("llama", "grouped", attention_bias=True), tmp_path / "model")
    with pytest.raises(UsageError, match="LitGPT has biases in attention and MLP or in neither"):
        dovetail.convert(tmp_path / "model", tmp_path / "out", to="litgpt")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("family", ["llama", "mistral", "smollm3", "qwen2", "qwen3", "gemma"])
def test_a_bare_model_gives_hidden_states_and_refuses_logits(family: str, tmp_path: Path) -> None:
    whole = original(family, "grouped", tie_word_embeddings=False)
    mine = loaded(whole.model, tmp_path / "bare")
    report = dovetail.validate(tmp_path / "bare")
    assert (report.family, report.layout) == (family, "hf-base")
    assert [(one.code, one.severity) for one in report.findings] == [("no-head", "note")]
    inputs = mine.prepare(ROWS)
    with torch.no_grad():
        states = whole.model(
            input_ids=inputs["tokens"],
            attention_mask=inputs["valid"].long(),
            position_ids=(inputs["valid"].cumsum(-1) - 1).clamp(min=0),
        )
        assert_near(mine.hidden(mine.embed(**inputs)), states.last_hidden_state, inputs["valid"])
    with pytest.raises(UsageError, match="a bare model, saved without its head"):
        mine(**inputs)


def test_a_bare_model_whose_head_is_tied_is_whole(tmp_path: Path) -> None:
    whole = original("qwen2", "one-head-each")
    mine = loaded(whole.model, tmp_path)
    assert dovetail.validate(tmp_path).findings == ()
    inputs = mine.prepare(ROWS[:1])
    with torch.no_grad():
        assert_near(mine(**inputs), whole(input_ids=inputs["tokens"]).logits)
