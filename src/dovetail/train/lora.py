"""LoRA: matrices of a low rank that are learned beside frozen weights (arXiv:2106.09685), through peft.

    add_lora(model, Lora(rank=16))            peft's layers take the place of the linear layers
    merged(model.state_dict(), lora)          the weights of the whole model, under its own names

Only linear layers are adapted. What is to be trained whole beside them (the token table, a projector) is
named in `whole`: it is in the adapter as it is, as peft's `modules_to_save`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from dovetail.errors import UsageError, listed
from dovetail.inputs.values import Values
from dovetail.models.layers import Linear
from dovetail.models.trainable import Trainable

_NAME = "default"  # peft's name of the one adapter
_A, _B, _BASE = f".lora_A.{_NAME}.weight", f".lora_B.{_NAME}.weight", ".base_layer."


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """What is adapted and how. A weight becomes W + alpha / rank * B A, with A [rank, in] and B [out, rank].

    `targets` are patterns of linear layers (`text.*.attn.q`), by default all in the blocks of the decoders;
    `whole` are patterns of modules that are trained whole (`text.embed`, `projector`).
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    whole: tuple[str, ...] = ()

    @property
    def scale(self) -> float:
        """What the product is multiplied by."""
        return self.alpha / self.rank


def add_lora(model: nn.Module, lora: Lora, *, seed: int = 42) -> list[str]:
    """Freezes a model and adapts its layers; gives the names of those layers.

    A is drawn from the seed, B is 0.

    Raises:
        UsageError: a number is none, or a pattern fits no layer that can be adapted.
    """
    if lora.rank < 1 or lora.alpha <= 0 or not 0 <= lora.dropout < 1:
        raise UsageError(
            f"a LoRA of rank {lora.rank}, alpha {lora.alpha} and dropout {lora.dropout} is none",
            hint="rank is 1 or more, alpha above 0, dropout from 0 to below 1",
        )
    from peft import LoraConfig, inject_adapter_in_model

    names = targets_of(model, lora)
    wholes = whole_modules(model, lora)
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=names)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name=_NAME)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_is_adapter(name) or name.rpartition(".")[0] in wholes)
    return names


def targets_of(model: nn.Module, lora: Lora) -> list[str]:
    """The layers that are adapted, by name.

    Raises:
        UsageError: a pattern fits none of those that can be.
    """
    values: Values = vars(model)["values"]
    unreached = model.unreachable if isinstance(model, Trainable) else {}
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, Linear)
        and name.partition(".")[0] not in {*values.family.ties, "head"}
        and f"{name}.weight" not in unreached
    ]
    spine = values.family.pipeline.spine
    patterns = lora.targets or tuple(f"{role}.blocks.*" for role in spine)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise UsageError(
                f"`{pattern}` fits no linear layer that can be adapted",
                found=listed(dict.fromkeys(_starred(name) for name in layers), 10),
                hint="patterns are of these names, for example 'text.blocks.*.attn.q'; a head or a token "
                "table is trained whole instead",
            )
    return [name for name in layers if any(fnmatchcase(name, pattern) for pattern in patterns)]


def whole_modules(model: nn.Module, lora: Lora) -> set[str]:
    """The modules with parameters of their own that are trained whole.

    Raises:
        UsageError: a pattern fits none.
    """
    owners = dict.fromkeys(name.rpartition(".")[0] for name, _ in model.named_parameters())
    found: set[str] = set()
    for pattern in lora.whole:
        fitting = {name for name in owners if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")}
        if not fitting:
            raise UsageError(
                f"`{pattern}` fits no module to train whole",
                found=listed(dict.fromkeys(_starred(name) for name in owners), 10),
                hint="name a part (`projector`) or a module (`text.embed`)",
            )
        found |= fitting
    return found


def merged(state: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """The weights of the whole model under its own names, each adapted one with its product added.

    The sum is made in float32 or wider and rounded once.
    """
    whole = {}
    for name, one in state.items():
        if _is_adapter(name):
            continue
        plain = name.replace(_BASE, ".")
        module = plain.removesuffix(".weight")
        is_adapted = plain != name and plain.endswith(".weight")
        whole[plain] = _sum(one, state[module + _A], state[module + _B], lora.scale) if is_adapted else one
    return whole


def _sum(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    wide = torch.promote_types(weight.dtype, torch.float32)
    product = b.detach().to(wide) @ a.detach().to(wide)
    return (weight.detach().to(wide) + scale * product).to(weight.dtype)


def factors(state: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of each adapted layer, by its name."""
    names = [name.removesuffix(_A) for name in state if name.endswith(_A)]
    return {name: (state[name + _A], state[name + _B]) for name in names}


def put_factors(model: nn.Module, found: Mapping[str, tuple[Tensor, Tensor]]) -> None:
    """Puts A and B into the layers that have them."""
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, (a, b) in found.items():
            parameters[name + _A].copy_(a)
            parameters[name + _B].copy_(b)


def _is_adapter(name: str) -> bool:
    return name.endswith((_A, _B))


def _starred(name: str) -> str:
    return ".".join("*" if piece.isdigit() else piece for piece in name.split("."))


def patterns_of(words: Iterable[str]) -> tuple[str, ...]:
    """Patterns from words that may each hold several, set apart by commas."""
    return tuple(one.strip() for word in words for one in word.split(",") if one.strip())
