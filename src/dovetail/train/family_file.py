"""What the project of a family itself keeps beside a checkpoint, written at every save of a training."""

import os

from dovetail.checkpoint import Path, opened
from dovetail.declare.reference import referenced
from dovetail.edit.stamp import known_values
from dovetail.store.open import open_checkpoint
from dovetail.train.record import Record


def family_file(folder: str, *, like: Path, said: Record) -> dict[str, bytes]:
    """The file by its name, for the checkpoint in a folder; nothing where the project of the family has none.

    Its fields are those beside `like`, the checkpoint that the training began with, and what the record of
    the run says.

    Raises:
        UsageError: the file beside `like` cannot be read.
        CheckpointError: the checkpoint in the folder is damaged.
    """
    with opened(folder) as source:
        if source.family.side_file is None:
            return {}
        name, maker = source.family.side_file
        with open_checkpoint(os.fspath(like)) as before:
            existing = before.side_file(name)
        make = referenced(maker)
        return {name: make(source, known_values(source), existing, overwrite=False, training=said)}
