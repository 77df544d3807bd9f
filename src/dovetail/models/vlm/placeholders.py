"""The features of images in the places of their placeholders (`dovetail.inputs.placeholders`)."""

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dovetail.errors import UsageError


def filled(
    table: nn.Module,
    tokens: Int[Tensor, "b n"],
    where: Bool[Tensor, "b n"],
    features: Float[Tensor, "p d"] | None,
) -> Float[Tensor, "b n d"]:
    """The embeddings of the tokens, with the features in order where the placeholders are.

    A placeholder may be an id that the table does not have.

    Raises:
        UsageError: there are not as many placeholders as features.
    """
    return put(table(tokens.masked_fill(where, 0)), where, features)


def put(
    x: Float[Tensor, "b n d"], where: Bool[Tensor, "b n"], features: Float[Tensor, "p d"] | None
) -> Float[Tensor, "b n d"]:
    """The embeddings with the features, in order, in the places that are true.

    Raises:
        UsageError: there are not as many places as features.
    """
    count = 0 if features is None else len(features)
    if int(where.sum()) != count:
        raise UsageError(
            "the image tokens do not match the images",
            expected=f"{count} tokens, one for each feature of the images",
            found=f"{int(where.sum())}",
            hint="make the inputs with model.prepare(tokens, images)",
        )
    return x if features is None else x.masked_scatter(where[..., None], features.to(x.dtype))
