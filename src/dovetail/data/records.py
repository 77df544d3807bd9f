"""What every form of a manifest is to those who read it: records by number."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from dovetail.data.image_root import Images
from dovetail.data.record import sample_of
from dovetail.data.sample import Sample


class Records(ABC):
    """The records of one file or folder, by number from 0."""

    path: str
    form: str  # what it is, for people

    @abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @abstractmethod
    def fields(self, number: int) -> dict[str, Any]:
        """A record as it is written, with an `id` if its form has one beside it.

        Raises:
            DataError: it cannot be read; with its file and number.
        """

    @abstractmethod
    def images(self, number: int) -> Images:
        """Where the images are that a record names."""

    @abstractmethod
    def content_hash(self) -> str:
        """The same for the same records; images that are files of their own are not read."""

    def sample(self, number: int) -> Sample:
        """A record as a sample.

        Raises:
            DataError: it cannot be read, or is none; with its file and number.
        """
        return self.sample_of(self.fields(number), number)

    def sample_of(self, fields: Mapping[str, Any], number: int) -> Sample:
        """The fields of a record, read before, as a sample.

        Raises:
            DataError: they are none; with its file and number.
        """
        return sample_of(fields, self.images(number), source=self.path, number=number)
