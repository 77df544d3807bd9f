"""What models are fed, made from text, images, cameras and states: arrays, without weights or torch.

One class per family, named by its declaration (`Family.inputs`), made from sizes and settings alone.
"""

from typing import Any

from dovetail.declare.reference import referenced
from dovetail.errors import UsageError
from dovetail.inputs.values import Values


def build(values: Values) -> Any:
    """What makes the inputs of a model: a `LanguageInputs`, a `PolicyInputs` or a `TowerInputs`.

    Raises:
        UsageError: the family declares no inputs, or a value that they need is not known.
        DeclarationError: the family names inputs that cannot be imported.
    """
    if not values.family.inputs:
        raise UsageError(
            f"dovetail makes no inputs for {values.family.id}", hint="call the model with tensors of your own"
        )
    return referenced(values.family.inputs)(values)
