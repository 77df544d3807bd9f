"""The inputs of text models: rows of token ids, and no images."""

from collections.abc import Sequence
from typing import Never

from dovetail.inputs.language import Arrays, Batch, LanguageInputs, Size, no_images
from dovetail.inputs.values import Values


class TextInputs(LanguageInputs):
    """Pads rows."""

    def __init__(self, values: Values) -> None:
        super().__init__(values)

    def num_features(self, height: int, width: int) -> Never:
        raise no_images(self.family)

    def expanded(self, row: Sequence[int], sizes: Sequence[Size]) -> list[int]:
        if sizes:
            raise no_images(self.family)
        return list(row)

    def more(self, batch: Batch) -> Arrays:
        return {}
