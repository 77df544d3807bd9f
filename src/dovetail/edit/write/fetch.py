"""Sources that are elsewhere, brought here before anything is written.

A repository of the hub is downloaded by huggingface_hub: into its cache, going on where an earlier
download was broken off. Files of an ordinary web server are not: nothing says that they stay the same.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from dovetail.errors import UsageError
from dovetail.store.source import LocalSource
from dovetail.store.store import Store

if TYPE_CHECKING:
    from dovetail.store.remote.hub import HubFolder


def fetch(stores: Iterable[Store]) -> None:
    """Makes every file of the stores a local one.

    Raises:
        MissingError: the hub does not have a file.
        RemoteError: the hub cannot be reached, refuses, or breaks off.
        UsageError: a source is on a web server.
        WriteError: the cache cannot be written.
    """
    for store in stores:
        if folder := _repository(store):
            for name in store.files:
                folder.download(name)
            store.close()
        elif store.has_bytes and not _is_local(store):
            raise UsageError(
                f"`{store.path}` can be read from where it is, but not converted",
                hint="fetch it first, for example with `curl -LO`, or give hf://owner/name",
            )


def commit_of(store: Store) -> str | None:
    """The commit that a source from the hub is of."""
    folder = _repository(store)
    return folder.commit.id if folder else None


def _repository(store: Store) -> "HubFolder | None":
    if not store.path.startswith("hf://"):
        return None
    from dovetail.store.remote.hub import HubFolder

    return store.folder if isinstance(store.folder, HubFolder) else None


def _is_local(store: Store) -> bool:
    return all(isinstance(store.source(file), LocalSource) for file in range(len(store.files)))
