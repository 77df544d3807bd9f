"""Rotary positions (arXiv:2104.09864), half-split: channel `i` turns with channel `i + c/2`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from dovetail.errors import UsageError


class Rotation(NamedTuple):
    """The cosine and sine of every token's angles, for all channels of a head."""

    cos: Float[Tensor, "b n c"]
    sin: Float[Tensor, "b n c"]


def frequencies(width: int, theta: float, *, device: torch.device | None = None) -> Float[Tensor, " half"]:
    """The angle per position of each pair of channels, falling from 1 to nearly 1 / theta.

    Raises:
        UsageError: the width is odd.
    """
    if width % 2:
        raise UsageError(
            f"rotary positions turn pairs of channels, and a head has {width}",
            hint="correct head_dim in the config",
        )
    return 1.0 / theta ** (torch.arange(0, width, 2, device=device).float() / width)


def scaled(frequency: Float[Tensor, " half"], scaling: Mapping[str, Any]) -> Float[Tensor, " half"]:
    """The frequencies under a config's `rope_scaling`.

    Raises:
        UsageError: a kind of scaling that is not written here.
    """
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind in ("default", "mrope"):
        return frequency
    if kind == "llama3":
        return _llama3(frequency, scaling)
    raise UsageError(f"rotary scaling `{kind}` is not known here", hint="known: default, mrope, llama3")


def _llama3(frequency: Float[Tensor, " half"], scaling: Mapping[str, Any]) -> Float[Tensor, " half"]:
    """Llama 3.1: waves longer than the old context are stretched, short ones kept, those between blended.

    Source: transformers@5.23.0 modeling_rope_utils.py:_compute_llama3_parameters.
    """
    factor, context = scaling["factor"], scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = context * frequency / (2 * math.pi)  # full turns within the old context
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return keep * frequency + (1 - keep) * frequency / factor


def rotation(
    positions: Int[Tensor, "b n"], frequency: Float[Tensor, " half"], dtype: torch.dtype
) -> Rotation:
    """The rotation of tokens at these positions."""
    return turned_by(positions[..., None].float() * frequency, dtype)


def sectioned_rotation(
    positions: Int[Tensor, "axes b n"],
    frequency: Float[Tensor, " half"],
    sections: Sequence[int],
    dtype: torch.dtype,
) -> Rotation:
    """The rotation of tokens with several positions each: the first section of the frequencies turns with
    the first position, the next with the next (M-RoPE, arXiv:2409.12191 sec. 2.1).

    Raises:
        UsageError: the sections are not all of the frequencies.
    """
    if sum(sections) != frequency.shape[0] or len(sections) != positions.shape[0]:
        raise UsageError(
            f"rotary sections {list(sections)} do not divide {frequency.shape[0]} frequencies "
            f"among {positions.shape[0]} positions",
            hint="give --set mrope_section=T,H,W",
        )
    angles = positions[..., None].float() * frequency
    pieces = [piece[i] for i, piece in enumerate(torch.split(angles, list(sections), dim=-1))]
    return turned_by(torch.cat(pieces, dim=-1), dtype)


def turned_by(angles: Float[Tensor, "b n half"], dtype: torch.dtype) -> Rotation:
    """The rotation by an angle for every pair of channels."""
    both = torch.cat([angles, angles], dim=-1)
    return Rotation(both.cos().to(dtype), both.sin().to(dtype))


def rotate(x: Float[Tensor, "b h n c"], by: Rotation) -> Float[Tensor, "b h n c"]:
    """Turns each pair of channels by its token's angle."""
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return x * by.cos[:, None] + turned * by.sin[:, None]
