"""What every form of a manifest is to those who read it: records by number."""

from abc import ABC, abstractmethod
from typing import Any

from dovetail.data.sample import Sample


class Records(ABC):
    """The records of one file or folder, by number from 0."""

    path: str
    form: str

    @abstractmethod
    def __len__(self) -> int:
        """How many there are."""

    @abstractmethod
    def fields(self, number: int) -> dict[str, Any]:
        """A record as it is written.

        Raises:
            DataError: it cannot be read.
        """

    @abstractmethod
    def sample(self, number: int) -> Sample:
        """A record as a sample.

        Raises:
            DataError: it cannot be read, or is none.
        """

    @abstractmethod
    def content_hash(self) -> str:
        """The same for the same records; images that are files of their own are not read."""
