"""What stands beside the weights calls the model: a family, a `model_type`, a class.

A name is evidence and no proof. Where shapes and names of tensors leave something open (which of two families
with the same tensors, whether a file is a damaged model or another one), it decides; where it contradicts
them, it is quoted.
"""

from typing import NamedTuple

from dovetail.declare.family import Family


class Named(NamedTuple):
    """How documents call the model.

    `model_type` is a config's, or the first of its `architectures` where it has none (`is_class`), and
    `document` is where it stands; `stamped` is the family in our certificate.
    """

    model_type: str | None = None
    document: str = ""
    is_class: bool = False
    stamped: str | None = None

    def is_of(self, family: Family) -> bool:
        """Whether one of the names is of this family."""
        return self.stamped == family.id or self._is_of(family)

    def is_against(self, family: Family) -> bool:
        """Whether a config calls the model something that this family is not called."""
        has_names = family.config.architecture if self.is_class else family.config.model_types
        return self.model_type is not None and bool(has_names) and not self.is_of(family)

    def _is_of(self, family: Family) -> bool:
        if self.is_class:
            return self.model_type == family.config.architecture
        return self.model_type in family.config.model_types

    @property
    def sentence(self) -> str:
        """`config.json says `gemma3_text``; empty if no config says anything."""
        return f"{self.document} says `{self.model_type}`" if self.model_type is not None else ""


NOTHING_SAID = Named()
