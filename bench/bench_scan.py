"""Claim: token by token is the fastest form of the selective scan on a CPU; the exponentials are most of it.

PanoVLM's resampler (1,792 channels of 64 states, 256 tokens) on one view and on eight, against forms of the
same scan that take fewer steps over more memory, against the scan in transformers' Mamba, and against the
exponentials alone, which every form needs.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from dovetail.models.resamplers.bimamba import BiMamba, BiMambaConfig
from dovetail.models.resamplers.selective_scan import selective_scan
from measure import Row, milliseconds, show, sized, timed, where

CHANNELS, STATES, TOKENS = sized((1792, 64, 256), (56, 4, 32))
Scan = Callable[..., Tensor]


def given(views: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        "u": torch.randn(views, TOKENS, CHANNELS),
        "delta": torch.nn.functional.softplus(torch.randn(views, TOKENS, CHANNELS) - 3),
        "A": -torch.arange(1.0, STATES + 1).expand(CHANNELS, STATES).contiguous(),
        "B": torch.randn(views, TOKENS, STATES),
        "C": torch.randn(views, TOKENS, STATES),
        "D": torch.ones(CHANNELS),
    }


def exponentials(u: Tensor, delta: Tensor, *, A: Tensor, **_: Tensor) -> Tensor:
    """Only the decays: what no form can leave out."""
    out = u.new_empty(u.shape[0], CHANNELS, STATES)
    for t in range(TOKENS):
        torch.mul(delta[:, t, :, None], A, out=out)
        out.exp_()
    return out


def at_once(steps: int) -> Scan:
    """Decays and inputs of several tokens at once, states one by one, outputs in one product."""

    def scan(u: Tensor, delta: Tensor, *, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        state, out = u.new_zeros(u.shape[0], CHANNELS, STATES), []
        for start in range(0, TOKENS, steps):
            part = slice(start, start + steps)
            decay = torch.exp(delta[:, part, :, None] * A)
            driven = (delta * u)[:, part, :, None] * B[:, part, None]
            states = []
            for i in range(steps):
                state = torch.addcmul(driven[:, i], decay[:, i], state)
                states.append(state)
            out.append(torch.einsum("tbis,bts->bti", torch.stack(states), C[:, part]))
        return torch.cat(out, dim=1) + D * u

    return scan


def doubling(u: Tensor, delta: Tensor, *, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """A parallel scan: each token joins with the one 1, 2, 4, ... before it."""
    decay = torch.exp(delta[..., None] * A)
    state = (delta * u)[..., None] * B[:, :, None]
    step = 1
    while step < TOKENS:
        state = torch.cat([state[:, :step], state[:, step:] + decay[:, step:] * state[:, :-step]], dim=1)
        decay = torch.cat([decay[:, :step], decay[:, step:] * decay[:, :-step]], dim=1)
        step *= 2
    return torch.einsum("btis,bts->bti", state, C) + D * u


def materialised(u: Tensor, delta: Tensor, *, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """As transformers@5.23.0 modeling_mamba.py without kernels: everything first, then token by token."""
    decay = torch.exp(A[None, :, None, :] * delta.transpose(1, 2)[..., None])
    driven = delta.transpose(1, 2)[..., None] * B[:, None] * u.transpose(1, 2)[..., None]
    state, out = u.new_zeros(u.shape[0], CHANNELS, STATES), []
    for t in range(TOKENS):
        state = decay[:, :, t] * state + driven[:, :, t]
        out.append(torch.matmul(state, C[:, t, :, None])[:, :, 0])
    return torch.stack(out, dim=1) + D * u


def compare(views: int) -> list[Row]:
    forms: dict[str, Scan] = {
        "the exponentials alone": exponentials,
        "token by token (ours)": selective_scan,
        "4 tokens at once": at_once(4),
        "16 tokens at once": at_once(16),
        "everything first (as transformers)": materialised,
        "doubling": doubling,
    }
    values = given(views)
    expected = selective_scan(**values)
    taken = {name: timed(lambda form=form: form(**values), times=3) for name, form in forms.items()}  # type: ignore[misc]
    floor = taken["the exponentials alone"]
    rows = []
    for name, form in forms.items():
        gap = "" if form is exponentials else f"{float((form(**values) - expected).abs().max()):.0e}"
        rows.append((name, milliseconds(taken[name]), f"{taken[name] / floor:.1f}x", gap))
    return rows


def main() -> None:
    print(where("torch"))
    columns = ("form", "time", "of the floor", "greatest difference")
    with torch.inference_mode():
        for views in (1, 8):
            show(f"{views} x {TOKENS} tokens, {CHANNELS} channels, {STATES} states", columns, compare(views))
        config = BiMambaConfig(
            in_dim=1152,
            hidden_dim=1024,
            out_dim=768,
            depth=sized(4, 1),
            d_inner=CHANNELS,
            d_state=STATES,
            d_conv=4,
            dt_rank=64,
            norm_first=True,
            norm_eps=1e-5,
        )
        model = BiMamba(config)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.02)
        rows = []
        for views in (1, 8):
            features = torch.randn(views, TOKENS, config.in_dim)
            rows.append((f"{views}", milliseconds(timed(partial(model, features), times=3))))
        show("the resampler, 4 blocks, both directions", ("views", "time"), rows)


if __name__ == "__main__":
    main()
