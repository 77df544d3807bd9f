"""Two decoders that attend as one: a prefix, and a suffix that looks at it and that it does not look at.

    b  batch    h  query heads    g  key heads    c  head width
    p  tokens of the prefix    s  tokens of the suffix    d, e  their widths

Each has weights of its own; in every layer the queries, keys and values of both are joined along the
sequence and there is one attention over all. Because no token of the prefix looks at the suffix, the
prefix may also be run alone, once, and its keys and values kept: the suffix then attends to them as often
as it likes. A suffix's own keys and values go behind them only while it attends.

                  prefix p p p p   suffix s s s
    together          one attention, (p + s) x (p + s)
    kept + beside     p x p, then s x (p + s)

Sources: openpi@15a9616 `models_pytorch/gemma_pytorch.py:PaliGemmaWithExpertModel`; arXiv:2410.24164 sec. 4.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dovetail.models.decoder import Block, Decoder
from dovetail.models.layers import attend
from dovetail.models.masks import Mask
from dovetail.models.rotary import Rotation
from dovetail.models.taps import watching

Heads = tuple[Float[Tensor, "b h n c"], Float[Tensor, "b g n c"], Float[Tensor, "b g n c"]]


@runtime_checkable
class Layer(Protocol):
    """A layer of a decoder, cut in two where it attends: a tuple of its block and what sets it."""

    def __getitem__(self, key: Any) -> Any:
        """The block, or the rest."""

    def enter(self, x: Float[Tensor, "b n d"], by: Rotation) -> Heads:
        """Queries, keys and values."""

    def leave(self, x: Float[Tensor, "b n d"], y: Float[Tensor, "b h n c"]) -> Float[Tensor, "b n d"]:
        """What follows, from the input of the layer and what its heads found."""


class Plain(NamedTuple):
    """A layer as `decoder.py` has it."""

    block: Block

    def enter(self, x: Float[Tensor, "b n d"], by: Rotation) -> Heads:
        """Queries, keys and values of the normed input."""
        return self.block.attn.qkv(self.block.norm1(x), by)

    def leave(self, x: Float[Tensor, "b n d"], y: Float[Tensor, "b h n c"]) -> Float[Tensor, "b n d"]:
        """The two residuals."""
        x = x + self.block.attn.out(y)
        return x + self.block.mlp(self.block.norm2(x))


class Stack(NamedTuple):
    """The layers of a decoder and its last norm; `name` is its role."""

    name: str
    layers: Sequence[Layer]
    norm: Callable[[Tensor], Tensor]


def stack_of(name: str, decoder: Decoder) -> Stack:
    """A decoder of `decoder.py`, ready to attend with another."""
    return Stack(name, [Plain(cast("Block", block)) for block in decoder.blocks.values()], decoder.norm)


class Kept(NamedTuple):
    """The keys, turned to their positions, and the values of one layer of a prefix."""

    k: Float[Tensor, "b g p c"]
    v: Float[Tensor, "b g p c"]

    def beside(self, k: Float[Tensor, "b g s c"], v: Float[Tensor, "b g s c"]) -> "Kept":
        """The same with those of a suffix behind."""
        return Kept(torch.cat([self.k, k], dim=2), torch.cat([self.v, v], dim=2))


class Roomy:
    """What was kept of one layer, with room behind: a suffix is written where the one before it was, so
    that the prefix is copied once, not for every suffix. For inference: nothing can be differentiated."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._whole: Kept | None = None

    def beside(self, k: Float[Tensor, "b g s c"], v: Float[Tensor, "b g s c"]) -> Kept:
        """The same with those of a suffix behind, until the next one comes."""
        start = self._kept.k.shape[2]
        if self._whole is None or self._whole.k.shape[2] != start + k.shape[2]:
            self._whole = self._kept.beside(k, v)
        else:
            self._whole.k[:, :, start:] = k
            self._whole.v[:, :, start:] = v
        return self._whole


def together(
    stacks: tuple[Stack, Stack],
    xs: tuple[Float[Tensor, "b p d"], Float[Tensor, "b s e"]],
    bys: tuple[Rotation, Rotation],
    mask: Mask,
) -> Float[Tensor, "b s e"]:
    """The suffix after the last norm, with one attention over both in every layer."""
    x, y = xs
    cut = x.shape[1]
    for prefix, suffix in zip(stacks[0].layers, stacks[1].layers, strict=True):
        ours, theirs = prefix.enter(x, bys[0]), suffix.enter(y, bys[1])
        q, k, v = (torch.cat(pair, dim=2) for pair in zip(ours, theirs, strict=True))
        found = attend(q, k, v, mask)
        x, y = prefix.leave(x, found[:, :, :cut]), suffix.leave(y, found[:, :, cut:])
    return stacks[1].norm(y)


def kept(stack: Stack, x: Float[Tensor, "b p d"], by: Rotation, mask: Mask) -> tuple[Kept, ...]:
    """The keys and values of every layer of the prefix by itself."""
    layers = []
    watch = watching()
    for i, layer in enumerate(stack.layers):
        if watch is None:
            x, one = alone(layer, x, by, mask)
        else:
            x, one = watch(f"{stack.name}.blocks.{i}", Step(layer, alone), x, by, mask, layer[1:])
        layers.append(one)
    return tuple(layers)


def alone(
    layer: Layer, x: Float[Tensor, "b p d"], by: Rotation, mask: Mask
) -> tuple[Float[Tensor, "b p d"], Kept]:
    """One layer of the prefix: what comes out, and what is kept."""
    q, k, v = layer.enter(x, by)
    return layer.leave(x, attend(q, k, v, mask)), Kept(k, v)


def beside(
    stack: Stack, prefix: Sequence[Kept | Roomy], y: Float[Tensor, "b s e"], by: Rotation, mask: Mask
) -> Float[Tensor, "b s e"]:
    """The suffix after the last norm, attending to what was kept of the prefix and to itself."""
    watch = watching()
    for i, (layer, past) in enumerate(zip(stack.layers, prefix, strict=True)):
        if watch is None:
            y = after(layer, y, by, mask, past)
        else:
            y = watch(f"{stack.name}.blocks.{i}", Step(layer, after), y, by, mask, layer[1:], past)
    return stack.norm(y)


def after(
    layer: Layer, y: Float[Tensor, "b s e"], by: Rotation, mask: Mask, past: Kept | Roomy
) -> Float[Tensor, "b s e"]:
    """One layer of the suffix."""
    q, k, v = layer.enter(y, by)
    return layer.leave(y, attend(q, *past.beside(k, v), mask))


class Step(nn.Module):
    """One layer of `kept` or `beside` as a module, for whoever looks on. What a layer is beside its block
    (the modulation of its norms) is an input."""

    def __init__(self, layer: Layer, run: Callable[..., Any]) -> None:
        super().__init__()
        self.block = layer[0]
        self._kind = type(layer)
        self._run = run

    def forward(
        self, x: Float[Tensor, "b n d"], by: Rotation, mask: Mask, rest: tuple[Any, ...], past: Any = None
    ) -> Any:
        layer = self._kind(self.block, *rest)  # type: ignore[call-arg]
        return self._run(layer, x, by, mask) if past is None else self._run(layer, x, by, mask, past)
