"""Work on the network that comes to an end, whatever the server does.

A timeout of an HTTP client is one for each read: a server that sends a byte a second, or one 1xx answer
after the other, never meets it. So the work is done in a thread of its own, and whoever waits for it
stops waiting when the time is over or Ctrl-C is pressed. What is left behind is hung up on.
"""

import socket
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from operator import itemgetter
from queue import Empty, SimpleQueue
from typing import Any, TypeVar
from weakref import WeakSet

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_lock = threading.Lock()
_connections: WeakSet[Any] = WeakSet()


class OutOfTime(Exception):  # becomes an error of ours at once
    """Work did not end within its time."""


class Waiter:
    """Whether somebody still waits for a piece of work."""

    __slots__ = ("has_left",)

    def __init__(self) -> None:
        self.has_left = False


def within(seconds: float, work: Callable[[Waiter], _Result]) -> _Result:
    """What the work gives or raises; Ctrl-C is heeded while it goes on.

    Raises:
        OutOfTime: it takes longer. Every connection is hung up then; other work asks again.
    """
    waiter = Waiter()
    answers = _started([lambda: work(waiter)])
    try:
        result, error = answers.get(timeout=seconds)
    except BaseException as trouble:
        waiter.has_left = True
        _hang_up()
        if isinstance(trouble, Empty):
            raise OutOfTime(f"not done after {seconds:,.0f} s") from None
        raise
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]  # the queue does not know what work gives


def each(work: Callable[[_Item], _Result], items: Sequence[_Item], *, at_once: int) -> list[_Result]:
    """What the work gives for each item, several at once; each piece sees to its own end.

    Unlike an executor's, its threads do not keep a program from ending.
    """
    waiting: SimpleQueue[int] = SimpleQueue()
    for number in range(len(items)):
        waiting.put(number)

    def some() -> list[tuple[int, _Result | BaseException]]:
        done: list[tuple[int, _Result | BaseException]] = []
        while True:
            try:
                number = waiting.get_nowait()
                done.append((number, work(items[number])))
            except Empty:
                return done
            except BaseException as error:  # noqa: BLE001  # raised again below, the first of all
                done.append((number, error))

    num_threads = min(at_once, len(items))
    answers = _started([some] * num_threads)
    done = sorted((one for _ in range(num_threads) for one in answers.get()[0]), key=itemgetter(0))
    for _, result in done:
        if isinstance(result, BaseException):
            raise result
    return [result for _, result in done]


def _started(pieces: Sequence[Callable[[], Any]]) -> "SimpleQueue[tuple[Any, BaseException | None]]":
    """Where the results of pieces of work arrive, each of which is done in a thread of its own."""
    answers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

    def run(piece: Callable[[], Any]) -> None:
        try:
            answers.put((piece(), None))
        except BaseException as error:  # noqa: BLE001  # raised again by whoever waits
            answers.put((None, error))

    for piece in pieces:
        threading.Thread(target=run, args=(piece,), daemon=True).start()
    return answers


def note_connection(event: str, details: dict[str, Any]) -> None:
    """Remembers a new connection: the `trace` extension of an httpx request."""
    if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
        with _lock:
            _connections.add(details["return_value"])


def _hang_up() -> None:
    with _lock:
        streams = list(_connections)
        _connections.clear()
    for stream in streams:
        with suppress(Exception):  # it is closed already
            stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
