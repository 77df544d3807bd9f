"""Many named tuples at once, out of their columns.

A checkpoint of 100,000 tensors is as many records in each step of a plan. Made one by one in Python they
cost more than everything else; made of columns they cost what the tuples cost.
"""

from collections.abc import Iterable
from itertools import repeat
from typing import Any, TypeVar

T = TypeVar("T", bound=tuple[Any, ...])


def rows_of(kind: type[T], *columns: Iterable[Any]) -> list[T]:
    """One `kind` for each row of the columns, given in the order of its fields, defaults included.

    A column may be endless (`itertools.repeat`), the first must not be.
    """
    return list(map(tuple.__new__, repeat(kind), zip(*columns)))  # noqa: B905 (some columns are endless)
