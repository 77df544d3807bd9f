"""pi0 and pi0.5 equal openpi's recorded outputs; pi0 equals transformers; joint equals cached."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dovetail.errors import UsageError
from dovetail.families import family as declared
from dovetail.inputs.values import values_from
from dovetail.loading.load import load
from dovetail.models import build
from dovetail.models.masks import block_mask, open_empty_rows, positions_of
from dovetail.models.policies.policy import Policy, blocks_of, time_embedding
from dovetail.models.rotary import Rotation
from dovetail.models.taps import tapped
from every_layout import every_layout
from files import MODELS, plan_of
from parity import assert_near, loaded, randomise

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

GOLDEN = Path(__file__).parents[2] / "golden"
FAMILIES = ["pi0", "pi05"]


def recorded(family: str) -> dict[str, Any]:
    return {name: torch.from_numpy(array) for name, array in np.load(GOLDEN / family / "io.npz").items()}


def prepared(model: Any, io: dict[str, Any], **changes: Any) -> Any:
    io = {**io, **changes}
    return model.prepare(io["images"], io["image_masks"], io["lang_tokens"], io["lang_masks"], io["state"])


@pytest.fixture(scope="module", params=FAMILIES)
def golden(request: Any) -> tuple[Any, dict[str, Any]]:
    return load(GOLDEN / request.param), recorded(request.param)


@pytest.fixture(scope="module", params=FAMILIES)
def wide(request: Any) -> tuple[Any, dict[str, Any]]:
    """The same in float64."""
    io = recorded(request.param)
    floats = {name: x.double() for name, x in io.items() if x.is_floating_point()}
    return load(GOLDEN / request.param, dtype="float64"), {**io, **floats}


def test_what_openpi_recorded(golden: tuple[Any, dict[str, Any]]) -> None:
    model, io = golden
    inputs = prepared(model, io)
    with torch.no_grad():
        stream = model.embed(inputs)
        assert_near(stream.x, io["prefix_embs"], io["prefix_pad"])
        assert torch.equal(stream.columns.valid, io["prefix_pad"])
        suffix = model.suffix(inputs.get("state"), io["x_t"], io["time"])
        assert_near(suffix.x, io["suffix_embs"])
        assert torch.equal(suffix.block, io["suffix_att"].cumsum(-1).long())
        if io["adarms_cond"].numel():
            assert_near(model.heads.condition(io["time"]), io["adarms_cond"])
        assert_near(model.velocity(inputs, io["x_t"], io["time"]), io["v_joint"])
        assert_near(model(io["x_t"], io["time"], **inputs), io["v_joint"])
        prefix = model.prefix(inputs)
        assert_near(model.velocity(inputs, io["x_t"], io["time"], prefix=prefix), io["v_cache"])
        errors = model.squared_errors(inputs, io["actions"], noise=io["noise"], t=io["time"])
        assert_near(errors, io["loss"], atol=5e-5)
        loss = model.loss(inputs, io["actions"], noise=io["noise"], t=io["time"])
        assert_near(loss, io["loss"].mean(), atol=5e-5)
    assert_near(model.sample_actions(inputs, noise=io["noise"], num_steps=4), io["sample4"])
    assert_near(model.sample_actions(inputs, noise=io["noise"]), io["sample10"], atol=2e-4)


def test_masks_and_positions(golden: tuple[Any, dict[str, Any]]) -> None:
    io = golden[1]
    suffix = torch.ones(2, io["suffix_att"].shape[1], dtype=torch.bool)
    valid = torch.cat([io["prefix_pad"], suffix], dim=1)
    flags = torch.cat([io["prefix_att"].long(), io["suffix_att"].long()], dim=1)
    block = flags.cumsum(-1)
    assert torch.equal(block_mask(block, block, valid)[:, 0] & valid[:, :, None], io["att_2d"])
    assert torch.equal(positions_of(valid)[valid], io["position_ids"][valid])


def test_the_time(golden: tuple[Any, dict[str, Any]]) -> None:
    io = golden[1]
    mine = time_embedding(io["time"], 32, min_period=4e-3, max_period=4.0)
    assert_near(mine.float(), io["time_emb"], atol=1e-7)
    t = torch.tensor([0.1, 0.5, 1.0], dtype=torch.float64)
    table = [
        [0, 0, 1, 0.156434, 1, -1, 0, 0.987688],
        [0, 0, 1, 0.707107, 1, -1, 0, 0.707107],
        [0, 0, 0, 1, 1, 1, -1, 0],
    ]
    found = time_embedding(t, 8, min_period=4e-3, max_period=4.0)
    assert_near(found, torch.tensor(table, dtype=torch.float64), atol=1e-6)
    wide = time_embedding(t[1:2], 1024, min_period=4e-3, max_period=4.0)[0]
    at = {1: 0.900485, 255: -0.127483, 511: 0.707107, 512: 1.0, 767: 0.991841, 1023: 0.707107}
    assert_near(wide[list(at)], torch.tensor(list(at.values()), dtype=torch.float64), atol=1e-6)
    with pytest.raises(UsageError, match="even width"):
        time_embedding(t, 7, min_period=4e-3, max_period=4.0)


def jointly(model: Any, inputs: dict[str, Any], x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The velocity where prefix and suffix run side by side, with one attention over both in every layer."""
    prefix, suffix = model.embed(inputs), model.suffix(inputs.get("state"), x_t, t)
    cut = prefix.x.shape[1]
    valid = torch.cat([prefix.columns.valid, torch.ones_like(suffix.block, dtype=torch.bool)], dim=1)
    blocks = torch.cat([prefix.columns.block, suffix.block], dim=1)
    mask = open_empty_rows(block_mask(blocks, blocks, valid))
    by = model.vlm.rotation(positions_of(valid), suffix.x.dtype)
    x, y = prefix.x, suffix.x
    for ours, theirs in zip(model.vlm.blocks.values(), model.expert.blocks.values(), strict=True):
        sides = Side(), Side()
        told = () if suffix.condition is None else (suffix.condition,)
        # each block runs twice: to hand over its queries, keys and values, then with what was found
        ours(x, Rotation(by.cos[:, :cut], by.sin[:, :cut]), sides[0])
        theirs(y, Rotation(by.cos[:, cut:], by.sin[:, cut:]), sides[1], *told)
        both = [torch.cat(pair, dim=2) for pair in zip(sides[0].given, sides[1].given, strict=True)]
        found = torch.nn.functional.scaled_dot_product_attention(*both, attn_mask=mask, enable_gqa=True)
        sides[0].found, sides[1].found = found[:, :, :cut], found[:, :, cut:]
        x = ours(x, Rotation(by.cos[:, :cut], by.sin[:, :cut]), sides[0])
        y = theirs(y, Rotation(by.cos[:, cut:], by.sin[:, cut:]), sides[1], *told)
    norm = model.expert.norm
    y = norm(y) if suffix.condition is None else norm(y, norm.modulation(suffix.condition))
    return model.action_out(y[:, -x_t.shape[1] :])  # type: ignore[no-any-return]


class Side:
    """What a block is given to attend to where the attention is done elsewhere."""

    def __init__(self) -> None:
        self.given: tuple[torch.Tensor, ...] = ()
        self.found: torch.Tensor | None = None

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        self.given = q, k, v
        return torch.zeros_like(q) if self.found is None else self.found


def test_joint_equals_kept_in_float64(wide: tuple[Any, dict[str, Any]]) -> None:
    model, io = wide
    inputs = prepared(model, io)
    with torch.no_grad():
        joint = jointly(model, inputs, io["x_t"], io["time"])
        prefix = model.prefix(inputs)
        before = [x.clone() for layer in prefix.layers for x in (layer.k, layer.v)]
        assert_near(model.velocity(inputs, io["x_t"], io["time"]), joint, atol=1e-12)
        for _ in range(2):
            assert_near(model.velocity(inputs, io["x_t"], io["time"], prefix=prefix), joint, atol=1e-12)
        after = [x for layer in prefix.layers for x in (layer.k, layer.v)]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_prefix_with_room_serves_suffixes_of_any_length_and_copies_once(
    wide: tuple[Any, dict[str, Any]],
) -> None:
    model, io = wide
    inputs = prepared(model, io)
    with torch.inference_mode():
        plain, roomy = model.prefix(inputs), model.prefix(inputs, has_room=True)
        longer = torch.cat([io["x_t"], io["x_t"]], dim=1)
        for x_t in (io["x_t"], -io["x_t"], longer, io["x_t"] + 1):
            expected = model.velocity(inputs, x_t, io["time"], prefix=plain)
            assert torch.equal(model.velocity(inputs, x_t, io["time"], prefix=roomy), expected)
        places = [layer._room[0].data_ptr() for layer in roomy.layers]
        for _ in range(3):
            model.velocity(inputs, io["x_t"], io["time"], prefix=roomy)
        assert places == [layer._room[0].data_ptr() for layer in roomy.layers]
        assert not any(layer._room for layer in plain.layers)


def test_an_action_changes_neither_state_nor_prefix(wide: tuple[Any, dict[str, Any]]) -> None:
    model, io = wide
    inputs = prepared(model, io)
    other = io["x_t"].clone()
    other[:, 3] += 1
    names = [f"{role}.blocks.{part}" for role in ("vlm", "expert") for part in ("?", "*.mlp")]
    with torch.no_grad():
        with tapped(model, *names) as first:
            one = model.velocity(inputs, io["x_t"], io["time"])
        first = dict(first)
        with tapped(model, *names) as second:
            two = model.velocity(inputs, other, io["time"])
    num_states = 1 if model.d_state else 0
    for name in first:
        if name.startswith("vlm"):
            assert torch.equal(first[name], second[name])
        else:
            assert torch.equal(first[name][:, :num_states], second[name][:, :num_states])
    assert float((one - two).abs().amax(dim=(0, 2)).min()) > 1e-6  # but every action


def test_padding_and_masked_cameras_change_nothing(wide: tuple[Any, dict[str, Any]]) -> None:
    model, io = wide
    with torch.no_grad():
        plain = model.velocity(prepared(model, io), io["x_t"], io["time"])
        masked = ~io["image_masks"]
        assert masked.any()
        images, tokens = io["images"].clone(), io["lang_tokens"].clone()
        images[masked] = images[masked].flip(-1) * 0.3
        tokens[~io["lang_masks"]] = 10_000  # beyond the table
        changed = prepared(model, io, images=images, lang_tokens=tokens)
        assert_near(model.velocity(changed, io["x_t"], io["time"]), plain, atol=1e-12)
        # text moved to the other end of its columns: what is padding stands elsewhere
        order = torch.stack([torch.cat([(~m).nonzero(), m.nonzero()])[:, 0] for m in io["lang_masks"]])
        moved = {name: io[name].gather(1, order) for name in ("lang_tokens", "lang_masks")}
        assert not torch.equal(moved["lang_masks"], io["lang_masks"])
        assert_near(model.velocity(prepared(model, io, **moved), io["x_t"], io["time"]), plain, atol=1e-12)
        # a camera that no row has may as well be left out
        none = {"image_masks": torch.cat([io["image_masks"], torch.zeros(1, 2, dtype=torch.bool)])}
        none["images"] = torch.cat([io["images"], io["images"][:1]])
        assert_near(model.velocity(prepared(model, io, **none), io["x_t"], io["time"]), plain, atol=1e-12)


# vision width, heads; text width, heads, head width, feed-forward; expert width, feed-forward; layers
SHAPES = {
    "odd-heads": (35, 5, 36, 3, 14, 44, 22, 30, 2),
    "one-head": (26, 1, 40, 1, 34, 61, 32, 41, 3),
    "two-key-heads": (24, 3, 32, 4, 8, 56, 20, 37, 2),
}


def original(shape: str) -> Any:
    d_vision, vision_heads, width, heads, head_dim, ffn, expert, expert_ffn, layers = SHAPES[shape]
    gemma = {
        "model_type": "gemma",
        "hidden_size": width,
        "intermediate_size": ffn,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 2 if shape == "two-key-heads" else 1,
        "head_dim": head_dim,
        "vocab_size": 97,
    }
    tower = {
        "model_type": "siglip_vision_model",
        "hidden_size": d_vision,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": vision_heads,
        "image_size": 28,
        "patch_size": 14,
        "vision_use_head": False,
    }
    vlm = {
        "model_type": "paligemma",
        "vision_config": tower,
        "text_config": gemma,
        "projection_dim": width,
        "image_token_index": 96,
    }
    config = transformers.PI0Config(
        vlm_config=vlm,
        dit_config={**gemma, "hidden_size": expert, "intermediate_size": expert_ffn},
        max_state_dim=5,
        max_action_dim=7,
        chunk_size=4,
    )
    return randomise(transformers.PI0ForConditionalGeneration(config))


def batch() -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same inputs for ours and for theirs: three cameras, of which row 1 lacks the second, and text."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 2, 3, 28, 28, generator=generator) * 2 - 1
    cameras = torch.tensor([[True, True], [True, False], [True, True]])
    text = [[5, 9, 17, 3], [8, 20]]
    tokens, mask = torch.zeros(2, 6, dtype=torch.long), torch.zeros(2, 6, dtype=torch.bool)
    ids, attention = torch.zeros(2, 18, dtype=torch.long), torch.zeros(2, 18, dtype=torch.long)
    for i, row in enumerate(text):
        tokens[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), True
        whole = [96] * 4 * int(cameras[:, i].sum()) + row
        ids[i, : len(whole)], attention[i, : len(whole)] = torch.tensor(whole), 1
    state = torch.randn(2, 5, generator=generator)
    theirs = {
        "state": state,
        "input_ids": ids,
        "attention_mask": attention,
        "pixel_values": images.transpose(0, 1),
        "pixel_attention_mask": cameras.T,
    }
    return (images, cameras, tokens, mask, state), theirs


def in_float64(theirs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has transformers make its sines of a time from angles in float64, as ours are."""

    def sines(t: Any) -> Any:
        share = np.linspace(0, 1, theirs.expert_hidden_size // 2)
        angles = t.double().numpy()[:, None] * 2 * np.pi / (4e-3 * 1000**share)
        return torch.from_numpy(np.concatenate([np.sin(angles), np.cos(angles)], axis=1)).float()

    monkeypatch.setattr(theirs.embed_action_time.sinusoid_embeds, "forward", sines)


@pytest.mark.parametrize("shape", list(SHAPES))
def test_pi0_equals_transformers(shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = original(shape)
    mine = loaded(theirs, tmp_path)
    given, same = batch()
    inputs = mine.prepare(*given)
    noise = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(1))
    assert mine.noise(inputs).shape == noise.shape
    # its sines are those of float32 angles, which are the further off the later it is
    t = torch.tensor([0.03, 0.1])
    with torch.no_grad():
        expected = theirs(noise=noise, timestep=t, **same).logits
        assert_near(mine.velocity(inputs, noise, t), expected, atol=4e-5)
    in_float64(theirs, monkeypatch)
    names = [f"expert.blocks.{i}.mlp" for i in range(len(theirs.model.dit.layers))]
    found: dict[str, Any] = {}
    for name, layer in zip(names, theirs.model.dit.layers, strict=True):
        layer.mlp.register_forward_hook(lambda _m, _a, y, name=name: found.update({name: y}))
    t = torch.tensor([0.3, 0.8])
    with torch.no_grad(), tapped(mine, "expert.blocks.*.mlp") as taps:
        expected = theirs(noise=noise, timestep=t, **same).logits
        assert_near(mine.velocity(inputs, noise, t), expected)
    for name in names:
        assert_near(taps[name], found[name])
    expected = theirs.sample_actions(noise=noise, num_steps=5, **same)
    assert_near(mine.sample_actions(inputs, noise=noise, num_steps=5), expected, atol=4e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layout_is_the_same_policy(family: str, tmp_path: Path) -> None:
    sizes = {**MODELS[family][0], "expert.d_model": 54, "vlm.head_dim": 8}
    torch.manual_seed(0)
    images, state, noise = torch.rand(2, 1, 3, 35, 35), torch.rand(1, 17), torch.rand(1, 4, 13)
    outputs = {}
    for layout, model in every_layout(family, sizes, tmp_path):
        inputs = model.prepare(images, [[True], [True]], [[3, 5]], [[True, True]], state)
        outputs[layout] = model.sample_actions(inputs, noise=noise, num_steps=2)
    assert set(outputs) >= {"openpi", "lerobot", "lerobot-0.3", "transformers"}
    assert all(torch.equal(one, outputs["openpi"]) for one in outputs.values())


@pytest.mark.parametrize(("family", "parameters"), [("pi0", 3_238_048_528), ("pi05", 3_353_433_872)])
def test_the_published_size(family: str, parameters: int) -> None:
    """All of a file's parameters but the 263,323,648 of the expert's head, which nothing reads."""
    sizes = declared(family).sizes["base"]
    model = build(values_from(plan_of(family, sizes)))
    assert isinstance(model, Policy)
    assert sum(one.numel() for one in model.parameters()) == parameters
    assert {str(one.device) for one in model.parameters()} == {"meta"}
    assert model.action_shape == (50, 32)
    assert model.d_state == (32 if family == "pi0" else 0)


def test_what_stays_in_float32(golden: tuple[Any, dict[str, Any]], request: Any) -> None:
    family = "pi0" if golden[0].d_state else "pi05"
    model, io = load(GOLDEN / family, dtype="bfloat16"), golden[1]
    wide = {name for name, one in model.named_parameters() if one.dtype == torch.float32}
    assert {name.split(".")[0] for name in wide} == {"vision", "vlm", "expert", "heads"}
    assert all(one.dtype == torch.bfloat16 for name, one in model.named_parameters() if ".attn." in name)
    found = model.sample_actions(prepared(model, io), noise=io["noise"], num_steps=4)
    assert found.dtype == torch.float32
    assert_near(found, io["sample4"], atol=0.1)


def test_decoded_images_and_short_states(golden: tuple[Any, dict[str, Any]]) -> None:
    model = golden[0]
    image = np.full((40, 80, 3), 255, np.uint8)
    inputs = model.prepare([[image], [image]], [[True], [True]], [[1, 2]], [[True, True]], [[1.0, 2.0]])
    assert inputs["pixels"].shape == (2, 1, 3, 56, 56)
    assert inputs["pixels"][0, 0, 0, :, 0].tolist() == [-1.0] * 14 + [1.0] * 28 + [-1.0] * 14
    if model.d_state:
        assert inputs.get("state").tolist() == [[1.0, 2.0, *[0.0] * 6]]
        with pytest.raises(UsageError, match="needs the state"):
            model.prepare([[image]], [[True]], [[1]], [[True]])
        with pytest.raises(UsageError, match="the state does not fit"):
            model.prepare([[image]], [[True]], [[1]], [[True]], [[0.0] * 9])
    with pytest.raises(UsageError, match="do not agree"):
        model.prepare([[image]], [[True, True]], [[1]], [[True]], [[1.0]])
    with pytest.raises(UsageError, match="an image for every row"):
        model.prepare([[image], []], [[True]], [[1]], [[True]], [[1.0]])
    with pytest.raises(UsageError, match="not a decoded image"):
        model.prepare([[image * 1.0]], [[True]], [[1]], [[True]], [[1.0]])


def test_statistics_that_lie_among_the_weights(tmp_path: Path) -> None:
    from dovetail.edit.make import make

    sizes = {**MODELS["pi0"][0], "expert.d_model": 54, "normalizer.d_robot_state": 6}
    sizes |= {"normalizer.d_robot_action": 7}
    make("pi0", tmp_path / "old", layout="lerobot-0.3", set=sizes, dtype="float32")
    model = load(tmp_path / "old")
    mean, std = model.normalizer.state_in.mean, model.normalizer.state_in.std
    assert_near(model.normalizer.state(torch.ones(2, 6)), ((1 - mean) / (std + 1e-8)).expand(2, 6))
    own = model.normalizer.action_out
    assert_near(model.normalizer.actions(torch.ones(1, 3, 13)), (own.std + own.mean).expand(1, 3, 7))


def test_blocks() -> None:
    assert blocks_of([1, 1, 0, 0], 2, torch.device("cpu")).tolist() == [[1, 2, 2, 2]] * 2
