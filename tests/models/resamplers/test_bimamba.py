"""BiMamba equals its recording, transformers' mixer, and its mathematics written out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import MambaConfig
from transformers.models.mamba.modeling_mamba import MambaMixer

from dovetail.models.resamplers.bimamba import BiMamba, BiMambaConfig, Mixer
from models import oracles
from models.oracles import linear, norm, randomised, silu, tokens

GOLDEN = Path(__file__).parents[2] / "golden" / "bimamba"
SIZES = {"in_dim": 7, "hidden_dim": 11, "out_dim": 5, "depth": 2, "d_inner": 19, "d_state": 3, "d_conv": 4}


def config(**changes: Any) -> BiMambaConfig:
    return BiMambaConfig(**{**SIZES, "dt_rank": 2, "norm_first": True, "norm_eps": 1e-5, **changes})


def golden() -> tuple[BiMamba, dict[str, torch.Tensor]]:
    said = json.loads((GOLDEN / "config.json").read_text())
    model = BiMamba(
        BiMambaConfig(
            in_dim=said["in_dim"],
            hidden_dim=said["hidden_dim"],
            out_dim=said["out_dim"],
            depth=said["num_layers"],
            d_inner=int(said["expand"] * said["hidden_dim"]),
            d_state=said["d_state"],
            d_conv=said["d_conv"],
            dt_rank=said["dt_rank"],
            norm_first=said["norm_first"],
            norm_eps=said["layer_norm_eps"],
        )
    )
    stored = load_file(GOLDEN / "model.safetensors")
    prefix = "resampler_module.resampler."
    model.load_state_dict({name.removeprefix(prefix): one for name, one in stored.items()})
    with np.load(GOLDEN / "io.npz") as file:
        return model, {name: torch.from_numpy(file[name]) for name in file}


def test_the_recorded_output() -> None:
    model, recorded = golden()
    with torch.no_grad():
        np.testing.assert_allclose(model(recorded["x"]), recorded["y"], atol=1e-5, rtol=0)
        found = model.blocks[0].forward_block(recorded["block0_forward_in"])
        np.testing.assert_allclose(found, recorded["block0_forward_out"], atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("width", "inner", "states", "conv"), [(12, 24, 5, 4), (9, 13, 8, 2), (17, 21, 2, 3)]
)
def test_the_mixer_of_transformers(width: int, inner: int, states: int, conv: int) -> None:
    said = MambaConfig(hidden_size=width, state_size=states, conv_kernel=conv, num_hidden_layers=1)
    said.intermediate_size, said.time_step_rank = inner, -(-width // 16)
    original = randomised(MambaMixer(said, layer_idx=0), dtype=torch.float32)
    mine = Mixer(
        config(hidden_dim=width, d_inner=inner, d_state=states, d_conv=conv, dt_rank=-(-width // 16))
    )
    mine.load_state_dict(original.state_dict())
    x = tokens(2, 10, width, dtype=torch.float32)
    with torch.no_grad():
        np.testing.assert_allclose(mine(x), original(x), atol=1e-5, rtol=0)


def mixer(w: dict[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    """One sequence through a mixer, token by token."""
    inner = w[f"{name}.D"].shape[0]
    rank = w[f"{name}.dt_proj.weight"].shape[1]
    states = w[f"{name}.A_log"].shape[1]
    both = linear(w, f"{name}.in_proj", x)
    u, gate = both[:, :inner], both[:, inner:]
    kernel = w[f"{name}.conv1d.weight"][:, 0]
    filtered = np.zeros_like(u)
    for t in range(len(u)):
        for back in range(kernel.shape[1]):
            if t - back >= 0:
                filtered[t] += kernel[:, -1 - back] * u[t - back]
    u = silu(filtered + w[f"{name}.conv1d.bias"])
    state, out = np.zeros((inner, states)), []
    for t in range(len(u)):
        said = linear(w, f"{name}.x_proj", u[t])
        delta = np.log1p(np.exp(linear(w, f"{name}.dt_proj", said[:rank])))[:, None]
        B, C = said[rank : rank + states], said[rank + states :]
        state = np.exp(delta * -np.exp(w[f"{name}.A_log"])) * state + delta * B * u[t][:, None]
        out.append(state @ C + w[f"{name}.D"] * u[t])
    return linear(w, f"{name}.out_proj", np.stack(out) * silu(gate))


@pytest.mark.parametrize("norm_first", [True, False])
def test_the_mathematics_written_out(norm_first: bool) -> None:
    model = randomised(BiMamba(config(norm_first=norm_first)))
    w, x = oracles.weights(model), tokens(2, 9, 7)
    with torch.no_grad():
        found = model(x).numpy()
    for row, expected in zip(x.numpy(), found, strict=True):
        y = linear(w, "input_proj", row)
        for i in range(2):
            into = norm(w, f"blocks.{i}.norm", y, 1e-5) if norm_first else y
            ahead = mixer(w, f"blocks.{i}.forward_block", into)
            back = mixer(w, f"blocks.{i}.backward_block", into[::-1])[::-1]
            y = y + (ahead + back) / 2
            y = y if norm_first else norm(w, f"blocks.{i}.norm", y, 1e-5)
        y = linear(w, "output_proj", norm(w, "final_norm", y, 1e-5))
        np.testing.assert_allclose(expected, y, atol=1e-12)


@pytest.mark.parametrize(
    ("hidden", "inner", "out", "parameters"),
    [
        (1024, 1792, 768, 50_706_176),
        (1024, 2048, 1024, 57_929_728),
        (1536, 2304, 768, 95_108_352),
    ],
)
def test_full_sizes_count_right(hidden: int, inner: int, out: int, parameters: int) -> None:
    sizes = config(
        in_dim=1152, hidden_dim=hidden, d_inner=inner, out_dim=out, depth=4, d_state=64, dt_rank=hidden // 16
    )
    with torch.device("meta"):
        model = BiMamba(sizes)
    assert len(model.state_dict()) == 86
    assert sum(weight.numel() for weight in model.parameters()) == parameters
