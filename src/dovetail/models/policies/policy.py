"""What acting, training and checking need of a model that moves a robot: one interface.

    inputs = model.prepare(images, image_masks, tokens, token_mask, state)
    v = model.velocity(inputs, x_t, t)                                  [batch, steps, actions]
    loss = model.loss(inputs, actions)                                  a number
    actions = model.sample_actions(inputs, noise=noise, num_steps=10)   [batch, steps, actions]

    b  batch    c  cameras    p  tokens of the prefix    s  tokens of the suffix    d, e  their widths
    t  action steps    a  action width

The prefix is PaliGemma's: the patches of every camera, then the text, all of which see each other. What
the suffix is, a family says (`suffix`). Time runs from 1, noise, to 0, actions: `x_t = t noise + (1 - t)
actions`, the velocity is `noise - actions`, and a step of Euler's goes against it (arXiv:2210.02747).

Cameras and text that are masked are not looked at and take no positions.

Sources: openpi@15a9616 `models_pytorch/pi0_pytorch.py`; arXiv:2410.24164 sec. 4 and app. B.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import UsageError
from dovetail.inputs.policy import PolicyInputs
from dovetail.inputs.values import Values
from dovetail.models.arrays import tensors
from dovetail.models.layers import Linear
from dovetail.models.masks import positions_of, sight_among, sight_of
from dovetail.models.policies.prefix import Keeping, Prefix
from dovetail.models.stream import Columns, Stream
from dovetail.models.text import build_decoder
from dovetail.models.towers.siglip import build_tower
from dovetail.models.towers.vit import unread
from dovetail.models.trainable import Count, Trainable, averaged, drawn_noise, drawn_times

Inputs = dict[str, Any]


def unread_prefix(layers: int) -> dict[str, str]:
    """The parameters beside the tower's that no action depends on, as patterns, and why."""
    last = f"vlm.blocks.{layers - 1}"
    names = (
        f"{last}.attn.q",
        f"{last}.attn.q_norm",
        f"{last}.attn.o",
        f"{last}.norm2",
        f"{last}.mlp",
        "vlm.norm",
    )
    why = "actions read the keys and values of the last layer, and nothing reads what it puts out"
    statistics = "statistics of a data set are measured, not learnt"
    return {f"{name}.*": why for name in names} | {"normalizer.*": statistics}


class Suffix(NamedTuple):
    """What follows the prefix: embeddings, and the block of each token (`masks.py`; the prefix is block 0).
    The actions come last. `condition` is what the expert is told beside them."""

    x: Float[Tensor, "b s e"]
    block: Int[Tensor, "b s"]
    condition: Float[Tensor, "b e"] | None = None


class Policy(Trainable):
    """A model that looks at cameras, a text and a state and says how to act."""

    expert: nn.Module  # the decoder of the suffix, of the family's own kind

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.inputs = PolicyInputs(values)
        self.vision = build_tower(values, "vision")
        self.unreached |= unread("vision", self.vision.config.layers, "normed")
        self.vlm = build_decoder(values, "vlm")
        self.projector = Linear(self.vision.config.d_vision, self.vlm.config.d_model)
        self.normalizer = Normalizer(values) if values.has("normalizer") else None
        self.unreached |= unread_prefix(self.vlm.config.layers)

    @property
    @abstractmethod
    def action_shape(self) -> tuple[int, int]:
        """The steps that the model was made for, and the width of an action."""

    @property
    def d_state(self) -> int:
        """The width of the state; 0 where the text says it."""
        return self.inputs.d_state

    @abstractmethod
    def suffix(
        self, state: Float[Tensor, "b _"] | None, x_t: Float[Tensor, "b t a"], t: Float[Tensor, " b"]
    ) -> Suffix:
        """The tokens that follow the prefix."""

    @abstractmethod
    def action_out(self, y: Float[Tensor, "b t e"]) -> Float[Tensor, "b t a"]:
        """The velocity that the last hidden states of the actions mean."""

    def prepare(
        self,
        images: Any = (),
        image_masks: Any = (),
        tokens: Any = (),
        token_mask: Any = (),
        state: Any = None,
        **more: Any,
    ) -> Inputs:
        """The inputs for a batch: those of `self.inputs`, which says what each may be, as tensors.

        Raises:
            UsageError: what `PolicyInputs` refuses.
        """
        given = (_array(one) for one in (images, image_masks, tokens, token_mask, state))
        return tensors(self.inputs(*given, **more), self.vision.patch_embed.weight.device)

    def velocity(
        self,
        inputs: Inputs,
        x_t: Float[Tensor, "b t a"],
        t: Float[Tensor, " b"],
        *,
        prefix: Prefix | None = None,
    ) -> Float[Tensor, "b t a"]:
        """Where noisy actions come from, at a time in [0, 1] for each row.

        With `prefix`, a prefix that has been run is used again (`self.prefix(inputs)`).
        """
        before = self.prefix(inputs) if prefix is None else prefix
        suffix = self.suffix(inputs.get("state"), x_t, t)
        valid = F.pad(before.columns.valid, (0, suffix.x.shape[1]), value=True)
        block = torch.cat([before.columns.block, suffix.block], dim=1)
        by = self.vlm.rotation(positions_of(valid)[:, -suffix.x.shape[1] :], suffix.x.dtype)
        sight = sight_among(suffix.block, block, valid)
        y = self.expert(suffix.x, by, before.pasts(sight), suffix.condition)
        return self.action_out(y[:, -x_t.shape[1] :])

    def forward(
        self, x_t: Float[Tensor, "b t a"], t: Float[Tensor, " b"], **inputs: Any
    ) -> Float[Tensor, "b t a"]:
        return self.velocity(inputs, x_t, t)

    def loss(
        self,
        inputs: Inputs,
        targets: Float[Tensor, "b t a"],
        *,
        num_items_in_batch: Count | None = None,
        counts: Bool[Tensor, "b t a"] | None = None,
        noise: Float[Tensor, "b t a"] | None = None,
        t: Float[Tensor, " b"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """The squared error of the velocity towards actions, the mean over all numbers of them, or over those
        that `counts` has.

        Noise and times that are not given are drawn, from `generator` where there is one.

        Raises:
            UsageError: the targets are no actions of this policy.
        """
        rows, width = len(inputs["tokens"]), self.action_shape[1]
        if targets.ndim != 3 or len(targets) != rows or targets.shape[2] != width:
            raise UsageError(
                "the targets are no actions of this policy",
                expected=f"({rows}, steps, {width})",
                found=str(tuple(targets.shape)),
                hint="narrower actions are followed by zeros",
            )
        if noise is None:
            noise = drawn_noise(targets.shape, generator, targets.device)
        if t is None:
            t = drawn_times(rows, generator, targets.device)
        errors = self.squared_errors(inputs, targets, noise=noise, t=t)
        return averaged(errors if counts is None else errors[counts], num_items_in_batch)

    def squared_errors(
        self,
        inputs: Inputs,
        actions: Float[Tensor, "b t a"],
        *,
        noise: Float[Tensor, "b t a"],
        t: Float[Tensor, " b"],
    ) -> Float[Tensor, "b t a"]:
        """The squared error of the velocity, number by number."""
        share = t[:, None, None]
        x_t = share * noise + (1 - share) * actions
        return F.mse_loss(self.velocity(inputs, x_t, t), noise - actions, reduction="none")

    @torch.inference_mode()
    def sample_actions(
        self, inputs: Inputs, *, noise: Float[Tensor, "b t a"], num_steps: int = 10
    ) -> Float[Tensor, "b t a"]:
        """Actions, from noise in that many steps of Euler's. The prefix is run once.

        Times are 1 - i / num_steps; openpi adds them up in float32 instead, which moves actions by some
        3e-5 at 10 steps and by nothing at 4.
        """
        prefix = self.prefix(inputs, has_room=True)
        x = noise
        for i in range(num_steps):
            t = torch.full((len(x),), 1 - i / num_steps, device=x.device, dtype=x.dtype)
            x = x - self.velocity(inputs, x, t, prefix=prefix) / num_steps
        return x

    def noise(self, inputs: Inputs, generator: torch.Generator | None = None) -> Float[Tensor, "b t a"]:
        """Noise for a batch, in the shape of the actions that the model was made for."""
        shape = (len(inputs["tokens"]), *self.action_shape)
        return drawn_noise(shape, generator, inputs["tokens"].device)

    def begin(self, noise: Any) -> Float[Tensor, "1 t a"]:
        """Noise that somebody gives, [steps, width], as actions of one row begin.

        Raises:
            UsageError: it has another shape.
        """
        given = torch.as_tensor(np.asarray(noise, dtype=np.float32))
        if given.shape == (1, *self.action_shape):
            return given
        if given.shape != self.action_shape:
            raise UsageError(
                "the noise does not fit",
                expected=str(self.action_shape),
                found=str(tuple(given.shape)),
                hint="give a .npy file of steps x width",
            )
        return given[None]

    def embed(self, inputs: Inputs) -> Stream:
        """The prefix: the patches of all cameras, not scaled, then the text, times sqrt(d)."""
        pixels, ids = inputs["pixels"], inputs["tokens"]
        cameras, rows = pixels.shape[:2]
        patches = self.projector(self.vision(pixels.flatten(0, 1))).unflatten(0, (cameras, rows))
        seen = inputs["image_masks"][:, :, None].expand(patches.shape[:3])
        text = self.vlm.embed(ids.masked_fill(~inputs["token_mask"], 0))
        x = torch.cat([*patches, text], dim=1)
        valid = torch.cat([*seen, inputs["token_mask"]], dim=1)
        is_patch = torch.arange(x.shape[1], device=x.device) < x.shape[1] - ids.shape[1]
        columns = Columns(
            valid, torch.zeros_like(valid, dtype=torch.long), is_patch.long().expand(valid.shape)
        )
        return Stream(x, positions_of(valid), columns)

    def prefix(self, inputs: Inputs, *, has_room: bool = False) -> Prefix:
        """The prefix, run once. What is kept of it never changes; with `has_room`, which is for inference,
        it is not copied for every suffix either."""
        stream = self.embed(inputs)
        pasts = [Keeping(sight_of(stream.columns)) for _ in self.vlm.blocks]
        self.vlm(stream.x, self.vlm.rotation(stream.positions, stream.x.dtype), pasts)
        return Prefix(tuple(past.kept(has_room=has_room) for past in pasts), stream.columns)


def _array(given: Any) -> Any:
    """A tensor as an array; anything else as it is."""
    return given.detach().cpu().numpy() if isinstance(given, Tensor) else given


class Statistics(nn.Module):
    """A mean and a standard deviation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.empty(width), requires_grad=False)
        self.std = nn.Parameter(torch.empty(width), requires_grad=False)


class Normalizer(nn.Module):
    """The statistics of the data set that lerobot 0.1-0.3 kept among the weights.

    Source: lerobot@v0.3.3 `policies/normalize.py`.
    """

    def __init__(self, values: Values) -> None:
        super().__init__()
        d_state, d_action = (
            values.values[f"normalizer.{name}"].value for name in ("d_robot_state", "d_robot_action")
        )
        self.state_in = Statistics(d_state)
        self.action_in = Statistics(d_action)
        self.action_out = Statistics(d_action)

    def state(self, state: Float[Tensor, "b width"]) -> Float[Tensor, "b width"]:
        """A state of the robot as the model wants it."""
        return (state - self.state_in.mean) / (self.state_in.std + 1e-8)

    def actions(self, actions: Float[Tensor, "b t a"]) -> Float[Tensor, "b t width"]:
        """The model's actions as the robot wants them."""
        own = actions[:, :, : len(self.action_out.mean)]
        return own * self.action_out.std + self.action_out.mean


def time_embedding(
    t: Float[Tensor, " b"], width: int, *, min_period: float, max_period: float
) -> Float[Tensor, "b width"]:
    """The sines, then the cosines, of a time at `width / 2` periods between the two, in float64.

    In float32 the angles of the shortest periods, up to 785 radians, are off in the fifth digit, as
    transformers@5.23.0 has them.

    Raises:
        UsageError: the width is odd.
    """
    if width % 2:
        raise UsageError(
            f"a time has as many sines as cosines, so an even width, not {width}",
            hint="correct the width in the config",
        )
    share = torch.linspace(0, 1, width // 2, dtype=torch.float64, device=t.device)
    periods = min_period * (max_period / min_period) ** share
    angles = 2 * math.pi * t.double()[:, None] / periods
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def blocks_of(flags: Sequence[int], rows: int, device: torch.device) -> Int[Tensor, "b s"]:
    """The block of each token of a suffix, from where new blocks begin.

    >>> blocks_of([1, 1, 0, 0], 1, torch.device("cpu")).tolist()
    [[1, 2, 2, 2]]
    """
    return torch.tensor(flags, device=device).cumsum(0).expand(rows, -1)
