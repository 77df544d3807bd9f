"""Who reads a store, and that they stop when somebody wants them to."""

import threading
import time
from pathlib import Path

import pytest

from dovetail.store.readers import readers
from dovetail.store.source import ByteSource, LocalSource
from dovetail.store.store import Store


class Elsewhere(ByteSource):
    """A file that is not on this machine."""

    name, size = "x", 0

    def read_at(self, offset: int, length: int) -> bytes:
        return b""

    def close(self) -> None:
        """Nothing."""


def store(source: ByteSource) -> Store:
    made = Store("x", "safetensors", files=("x",), entries={})
    made._sources[0] = source
    return made


def test_the_calling_thread_reads_what_is_elsewhere(tmp_path: Path) -> None:
    """It hears Ctrl-C while it waits for a server; another thread would wait to the end of its tensor."""
    (tmp_path / "x").touch()
    here, there = store(LocalSource(str(tmp_path / "x"))), store(Elsewhere())
    for stores, is_mine in (((here,), False), ((there,), True), ((here, there), True)):
        with readers(*stores) as read:
            threads = set(read(lambda _: threading.get_ident(), range(5)))
            assert (threads == {threading.get_ident()}) == is_mine
    here.close()


def test_after_an_interruption_nothing_more_is_begun(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    here, begun = store(LocalSource(str(tmp_path / "x"))), []

    def work(number: int) -> int:
        begun.append(number)
        time.sleep(0.01)
        return number

    def interrupted() -> None:
        with readers(here) as read:
            results = read(work, range(1000))
            assert next(results) == 0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(begun) < 50
    here.close()
