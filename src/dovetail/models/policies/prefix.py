"""A prefix that was run once: what every layer keeps of it, for the suffixes that look at it.

    p  tokens of the prefix    s  tokens of the suffix    g  key heads    c  head width

The prefix and the suffix of a policy have weights of their own and attend as one: in every layer the
suffix looks at the keys of the prefix and at its own. No token of the prefix looks at the suffix, so that
the prefix runs by itself, p x p, and each suffix s x (p + s) behind it.

Sources: openpi@15a9616 `models_pytorch/gemma_pytorch.py:PaliGemmaWithExpertModel`; arXiv:2410.24164 sec. 4.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from dovetail.errors import UsageError
from dovetail.models.attention import After, Keys, Past, Queries, Sight, seen
from dovetail.models.stream import Columns


class Keeping:
    """Nothing came before; keys, turned to their positions, and values are kept."""

    def __init__(self, sight: Sight) -> None:
        self.sight = sight
        self.k: Tensor | None = None
        self.v: Tensor | None = None

    def attend(self, q: Queries, k: Keys, v: Keys) -> Queries:
        """What each query finds among the keys of this step."""
        self.k, self.v = k, v
        return seen(q, k, v, self.sight)

    def kept(self, *, has_room: bool) -> "KeptLayer":
        """What was kept; `has_room` as in `Policy.prefix`."""
        assert self.k is not None
        assert self.v is not None
        return KeptLayer(self.k, self.v, has_room=has_room)


class KeptLayer:
    """The keys and values of one layer of a prefix.

    With room, the keys of a suffix are written where those of the suffix before it were, so that the
    prefix is copied once and not for every suffix: for inference, nothing can be differentiated.
    """

    def __init__(
        self, k: Float[Tensor, "b g p c"], v: Float[Tensor, "b g p c"], *, has_room: bool = False
    ) -> None:
        self.k, self.v = k, v
        self._has_room = has_room
        self._room: tuple[Tensor, Tensor] | None = None

    def past(self, sight: Sight) -> Past:
        """What a suffix attends to."""
        return Behind(self, sight) if self._has_room else After(self.k, self.v, sight)

    def put(self, k: Keys, v: Keys) -> tuple[Float[Tensor, "b g n c"], Float[Tensor, "b g n c"]]:
        """Keys and values of the prefix with those of a suffix behind them, until the next one comes."""
        start, length = self.k.shape[2], self.k.shape[2] + k.shape[2]
        if self._room is None or self._room[0].shape[2] != length:
            self._room = torch.cat([self.k, k], dim=2), torch.cat([self.v, v], dim=2)
        else:
            self._room[0][:, :, start:] = k
            self._room[1][:, :, start:] = v
        return self._room


class Behind(NamedTuple):
    """The keys of a prefix that has room behind it."""

    layer: KeptLayer
    sight: Sight

    def attend(self, q: Queries, k: Keys, v: Keys) -> Queries:
        """What each query finds among the keys of the prefix and of this step."""
        return seen(q, *self.layer.put(k, v), self.sight)

    def read_only(self) -> After:
        """The same, with nothing kept."""
        return After(self.layer.k, self.layer.v, self.sight)


class Prefix(NamedTuple):
    """A prefix that has been run: what every layer keeps of it, and its columns."""

    layers: tuple[KeptLayer, ...]
    columns: Columns

    def pasts(self, sight: Sight) -> list[Past]:
        """What each layer of a suffix attends to."""
        return [layer.past(sight) for layer in self.layers]


def check_layers(prefix: int, suffix: int) -> None:
    """Raises unless two decoders that attend as one have as many layers.

    Raises:
        UsageError: they do not.
    """
    if prefix != suffix:
        raise UsageError(
            f"a prefix of {prefix} layers and a suffix of {suffix} cannot attend as one",
            hint="correct the number of layers in the config",
        )
