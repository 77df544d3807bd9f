"""`load_inputs`: from a checkpoint, of which the header is enough, to what makes its model's inputs."""

from collections.abc import Mapping
from typing import Any

from dovetail.checkpoint import Path, opened
from dovetail.inputs import build
from dovetail.inputs.values import values_of


def load_inputs(
    checkpoint: Path,
    *,
    settings: Mapping[str, Any] | None = None,
    as_: str | None = None,
    trust: str | None = None,
) -> Any:
    """What makes the inputs of a checkpoint's model: arrays, without weights and without torch.

    A `LanguageInputs`, a `PolicyInputs` or a `TowerInputs`, equal to the `inputs` of the loaded model. No
    weight is read, and none need be there: a header listing does. `settings`, `as_` and `trust` are those
    of `load`.

    Raises:
        UsageError: there is nothing to open, its family has no inputs, or nothing decides a value.
        CheckpointError: a file breaks its format, or no family claims the checkpoint.
        RemoteError: a server did not give what was asked for.
    """
    with opened(checkpoint, as_=as_, given=settings, trust=trust) as found:
        return build(values_of(found))
