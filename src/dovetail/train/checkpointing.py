"""Gradient checkpointing: what a block computes inside is not kept for the way back but computed again.

It costs one more forward run of every block and saves what lies between the blocks' ends (arXiv:1604.06174).
The numbers are the same.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from dovetail.models.blocks import Blocks


def enable(model: nn.Module, *, every: int = 1, **settings: Any) -> None:
    """Makes the blocks of the decoders and towers of a model compute again on the way back, or every
    second, third ... of each.

    `settings` are those of `torch.utils.checkpoint.checkpoint`. Doing it twice changes nothing.
    """
    disable(model)
    for block in _blocks(model, every):
        again = partial(_again, block.forward, {"use_reentrant": False, **settings})
        block.forward = again


def disable(model: nn.Module) -> None:
    """Takes it back."""
    for block in _blocks(model):
        vars(block).pop("forward", None)


def is_enabled(model: nn.Module) -> bool:
    """Whether blocks compute again."""
    return any("forward" in vars(block) for block in _blocks(model))


def _blocks(model: nn.Module, every: int = 1) -> list[nn.Module]:
    parts = [part for part in model.modules() if isinstance(part, Blocks)]
    return [block for part in parts for block in list(part.values())[::every]]


def _again(forward: Any, settings: dict[str, Any], *inputs: Any, **more: Any) -> Any:
    """What a block gives; where nothing is learnt it is run as it is."""
    return (
        checkpoint(forward, *inputs, **settings, **more)
        if torch.is_grad_enabled()
        else forward(*inputs, **more)
    )
