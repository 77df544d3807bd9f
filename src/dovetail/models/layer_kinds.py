"""What the layers of a decoder do differently by their number: how far they look, whether they turn.

    sliding window    a layer looks at the last tokens only; `layer_types` says which layers do, else
                      `max_window_layers` how many of the first do not, else all do
    no positions      `no_rope_layers` has a 0 for a layer that turns nothing, else every so-manieth does not

Sources: transformers@5.23.0 `configuration_{mistral,ministral,qwen2,smollm3}.py`.
"""

from collections.abc import Sequence
from typing import Any

from dovetail.errors import UsageError
from dovetail.inputs.values import Values

_SLIDING, _FULL = "sliding_attention", "full_attention"


def windows(values: Values, role: str) -> tuple[int, ...]:
    """The tokens that each layer of a decoder looks at, 0 for all; empty where no layer has a window.

    Raises:
        UsageError: a value that says so cannot be understood.
    """
    used = values.values.get(f"{role}.use_sliding_window")
    if (used is not None and not used.value) or f"{role}.sliding_window" not in values.values:
        return ()
    size, layers = values.integer(f"{role}.sliding_window"), values.integer(f"{role}.layers")
    if size < 0:
        raise UsageError(
            f"{role}.sliding_window cannot be {size}", hint="it is a number of tokens; 0 is none"
        )
    kinds = _listed(values, role, "layer_types", layers, (_FULL, _SLIDING))
    if not kinds and (first := values.values.get(f"{role}.max_window_layers")):
        kinds = [_SLIDING if layer >= first.value else _FULL for layer in range(layers)]
    if not kinds and (off := unrotated(values, role)):
        kinds = [_SLIDING if layer in off else _FULL for layer in range(layers)]
    sizes = tuple(size if kind == _SLIDING else 0 for kind in kinds or [_SLIDING] * layers)
    return sizes if any(sizes) else ()


def unrotated(values: Values, role: str) -> frozenset[int]:
    """The layers of a decoder whose queries and keys are not turned to their positions.

    Raises:
        UsageError: a value that says so cannot be understood.
    """
    if f"{role}.no_rope_layers" not in values.values:
        return frozenset()
    layers = values.integer(f"{role}.layers")
    turns = _listed(values, role, "no_rope_layers", layers, (0, 1))
    if not turns:
        every = values.integer(f"{role}.no_rope_layer_interval")
        if every < 1:
            raise UsageError(f"{role}.no_rope_layer_interval cannot be {every}", hint="it counts from 1")
        turns = [int((layer + 1) % every != 0) for layer in range(layers)]
    return frozenset(layer for layer in range(layers) if not turns[layer])


def _listed(values: Values, role: str, name: str, layers: int, known: Sequence[Any]) -> list[Any]:
    """What a setting says of each layer, empty if it says nothing."""
    found = values.values.get(f"{role}.{name}")
    said = found.value if found is not None else None
    if said is None or said == []:
        return []
    if not isinstance(said, list) or len(said) < layers or any(one not in known for one in said):
        raise UsageError(
            f"{role}.{name} does not say what {layers} layers are",
            expected=f"{layers} of {', '.join(map(str, known))}",
            found=", ".join(map(str, said)) if isinstance(said, list) else str(said),
            source=found.evidence if found is not None else None,
            hint="give one word for each layer",
        )
    return said[:layers]
