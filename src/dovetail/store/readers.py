"""Threads that read a store: several for files on this machine, one for what comes over the network."""

import os
from typing import TYPE_CHECKING

from dovetail.store.source import LocalSource
from dovetail.store.store import Store

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

_MOST = 4  # more do not read faster


def readers(*stores: Store) -> "ThreadPoolExecutor":
    """A pool of threads to read these stores with; their files are opened before the threads ask for them."""
    from concurrent.futures import ThreadPoolExecutor  # which headers do not need: 5 ms at start-up

    sources = [store.source(file) for store in stores for file in range(len(store.files))]
    is_local = all(isinstance(source, LocalSource) for source in sources)
    return ThreadPoolExecutor(min(_MOST, os.cpu_count() or 1) if is_local else 1)
