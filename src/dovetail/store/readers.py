"""How a store is read: by several threads if it is on this machine, by the calling one over the network.

More than one at a time does not read faster over a network, and only the calling thread hears Ctrl-C.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

from dovetail.store.source import LocalSource
from dovetail.store.store import Store

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_MOST = 4  # more do not read faster


class Read(Protocol):
    """Gives what the work gives for each item, in order."""

    def __call__(self, work: Callable[[_Item], _Result], items: Iterable[_Item], /) -> Iterator[_Result]: ...


@contextmanager
def readers(*stores: Store) -> Iterator[Read]:
    """Reads these stores; their files are opened first. After an error nothing more is begun."""
    from concurrent.futures import ThreadPoolExecutor  # which headers do not need: 5 ms at start-up

    sources = [store.source(file) for store in stores for file in range(len(store.files))]
    if not all(isinstance(source, LocalSource) for source in sources):
        yield map
        return
    pool = ThreadPoolExecutor(min(_MOST, os.cpu_count() or 1))
    try:
        yield pool.map
    finally:
        pool.shutdown(cancel_futures=True)
