"""Inputs for `verify` that somebody chose: text, images, cameras, a state, noise; at another resolution.

What is fed is what `generate` and `act` would feed: through the tokenizer, the frame and the statistics that
lie beside the weights. Actions to start from and the time are the seed's where they are not given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from dovetail.checkpoint import Path, opened
from dovetail.errors import UsageError
from dovetail.inputs.prompt import Prompter
from dovetail.inputs.robot import read_robot
from dovetail.inputs.tokenizer import read_side_values, read_tokenizer
from dovetail.models.arrays import tensors
from dovetail.models.language import LanguageModel
from dovetail.models.policies.policy import Policy
from dovetail.parity.example import example_inputs
from dovetail.store.open import open_checkpoint

# How the positions of a tower are interpolated for a grid that is not their own, and which code does so.
INTERPOLATIONS = {"bicubic": False, "bicubic-antialias": True}  # transformers; timm


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What somebody chose. `prompt` is text or token ids; `images` are for models without cameras."""

    prompt: str | Sequence[int] | None = None
    images: Sequence[np.ndarray] = ()
    cameras: Mapping[str, np.ndarray] | None = None
    state: Any = None
    noise: Any = None
    time: float | None = None
    seed: int = 0


class Chosen(NamedTuple):
    """The inputs of one call, and what there is to know about them."""

    inputs: dict[str, Any]
    notes: tuple[str, ...] = ()


def chosen_inputs(model: nn.Module, checkpoint: Path, given: Given) -> Chosen:
    """The inputs of a model; made up where nothing is given.

    Raises:
        UsageError: what is given does not fit the model, or something that belongs to it is missing.
    """
    if isinstance(model, Policy):
        return _policy(model, checkpoint, given)
    foreign = {
        "--camera": given.cameras,
        "--state": given.state,
        "--noise": given.noise,
        "--time": given.time,
    }
    if unfit := [name for name, value in foreign.items() if value is not None]:
        raise UsageError(f"{', '.join(unfit)} are for policies", hint="this model takes --image FILE")
    if isinstance(model, LanguageModel):
        return Chosen(_language(model, checkpoint, given))
    if given.prompt is not None:
        raise UsageError("this model reads no tokens", hint="give --image FILE alone")
    prepare: Any = getattr(model, "prepare", None)
    if given.images and prepare is not None:
        return Chosen(prepare(list(given.images)))
    return Chosen(example_inputs(model, seed=given.seed))


def _language(model: LanguageModel, checkpoint: Path, given: Given) -> dict[str, Any]:
    images, prompt = list(given.images), given.prompt
    if prompt is None and images:
        raise UsageError(
            "images belong to a prompt",
            hint="give --prompt TEXT, or ids with one image token for each image: --tokens 1,IMAGE,2",
        )
    if prompt is None:
        return example_inputs(model, seed=given.seed)
    if isinstance(prompt, str):
        with open_checkpoint(checkpoint) as store:
            values = read_side_values(store)
            tokenizer = read_tokenizer(store, values)
        if tokenizer is None:
            raise UsageError(
                "there is no tokenizer beside the weights", hint="give token ids: --tokens 1,2,3"
            )
        prompt = Prompter(model.inputs, tokenizer, values.config).tokens(prompt, len(images))
    return model.prepare([list(prompt)], [images] if images else ())


def _policy(model: Policy, checkpoint: Path, given: Given) -> Chosen:
    if given.images:
        raise UsageError("a policy has cameras", hint="give --camera NAME=FILE for each")
    inputs = example_inputs(model, seed=given.seed)
    begin, time = inputs.pop("x_t"), inputs.pop("t")
    notes: tuple[str, ...] = ()
    if given.cameras is not None or given.prompt is not None or given.state is not None:
        if given.prompt is None:
            raise UsageError("a policy is told what to do", hint="give --prompt TEXT, or --tokens 2,1234,108")
        with open_checkpoint(checkpoint) as store:
            robot = read_robot(store, model.inputs)
        seen = robot(given.cameras or {}, given.prompt, given.state)
        inputs = tensors(seen.arrays, model.vision.patch_embed.weight.device)
        notes = (*seen.notes, *([f"no image of {', '.join(seen.missing)}: masked"] if seen.missing else []))
    if given.noise is not None:
        begin = model.begin(given.noise).to(begin)
    if given.time is not None:
        if not 0 <= given.time <= 1:
            raise UsageError(f"{given.time} is no time", hint="--time is from 0, actions, to 1, noise")
        time = torch.full_like(time, given.time)
    return Chosen({**inputs, "x_t": begin, "t": time}, notes)


class Resolution(NamedTuple):
    """Settings for images of another size than a model was made for, and what that does."""

    settings: dict[str, Any]
    notes: tuple[str, ...]


def resolution(checkpoint: Path, edge: int | None, interpolation: str | None, **reading: Any) -> Resolution:
    """What makes a checkpoint take images of `edge` x `edge` pixels; `reading` are arguments of `opened`.

    Raises:
        UsageError: it has no tower with positions for squares, or the size or the interpolation is none.
    """
    if interpolation is not None and interpolation not in INTERPOLATIONS:
        known = ", ".join(INTERPOLATIONS)
        raise UsageError(f"positions cannot be interpolated `{interpolation}`", hint=f"one of: {known}")
    if edge is None and interpolation is None:
        return Resolution({}, ())
    settings: dict[str, Any] = {}
    notes = []
    with opened(checkpoint, **reading) as found:
        values = found.report.config
        for role, part in found.kinds.items():
            named = {one.name: one for one in part.facts.settings}
            if "image_size" not in named or "antialias" not in named:
                continue
            patch = values[f"{role}.patch"].value
            if edge is not None and edge < patch:
                raise UsageError(
                    f"images of {edge} pixels have no patch of {patch}", hint=f"--resolution {patch} or more"
                )
            way = interpolation or _way(values[f"{role}.antialias"].value)
            settings |= {f"{role}.antialias": INTERPOLATIONS[way]}
            settings |= {} if edge is None else {f"{role}.image_size": edge}
            size = (
                f"images of {edge} x {edge} pixels, {edge // patch} x {edge // patch} patches; "
                if edge
                else ""
            )
            count = values[f"{role}.positions"].value
            notes.append(f"{role}: {size}its {count} positions are interpolated: {way}")
    if not settings:
        raise UsageError(
            "no tower of this checkpoint has positions for squares of one size",
            hint="leave --resolution and --interpolation out; images are taken in their own size",
        )
    return Resolution(settings, tuple(notes))


def _way(is_antialiased: bool) -> str:
    return next(name for name, value in INTERPOLATIONS.items() if value == is_antialiased)
