"""The words of Hugging Face for what a model is given, and what dovetail calls the same.

Callers mix the two up, and Python's own message for an unknown argument does not say which is meant.
"""

from collections.abc import Iterable

from dovetail.errors import UsageError

# what tokenizers and processors of transformers call arguments -> an argument that makes inputs
_OF_INPUTS = {
    "input_ids": "tokens",
    "pixel_values": "images",
    "pixel_values_videos": "images",
    "padding_side": "pad",
}
# -> an array of finished inputs
_OF_MODELS = {
    "input_ids": "tokens",
    "attention_mask": "valid",
    "position_ids": "positions",
    "pixel_values": "pixels",
    "pixel_values_videos": "frames",
    "image_grid_thw": "grids",
    "image_sizes": "sizes",
}


def refuse_arguments(names: Iterable[str], known: str) -> None:
    """Refuses arguments that nothing makes inputs from; `known` are those that there are.

    Raises:
        UsageError: there is one.
    """
    for name in names:
        meant = _OF_INPUTS.get(name)
        hint = f"arguments: {known}"
        if meant is not None:
            hint = f"what Hugging Face calls `{name}` is made from `{meant}` here"
        elif name in _OF_MODELS:
            hint = f"`{_OF_MODELS[name]}` is made here, from tokens and images; leave `{name}` out"
        raise UsageError(f"inputs are made from no `{name}`", hint=hint)


def refuse_foreign_inputs(names: Iterable[str]) -> None:
    """Refuses inputs of a model that have Hugging Face's names.

    Raises:
        UsageError: there is one.
    """
    for name in names:
        if name in _OF_MODELS:
            raise UsageError(
                f"a model takes no `{name}`",
                hint=f"it is `{_OF_MODELS[name]}` here; model.prepare(tokens, images) makes all inputs",
            )
