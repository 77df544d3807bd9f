"""A chat template: messages as the text that a model was taught to answer.

A template comes with a checkpoint and is a program: it may loop for ever or ask for all memory there is. It
is rendered by a process of its own (`renderer.py`), one for all templates, which is ended when it takes
longer than a template may and started anew for the next.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from selectors import EVENT_READ, DefaultSelector
from time import monotonic
from typing import Any, NamedTuple

from dovetail.errors import UsageError

SECONDS = 10  # published templates take milliseconds
MEMORY = 512 << 20
_HINT = "--raw gives the model your text as it is"

Message = Mapping[str, Any]


class Conversation(NamedTuple):
    """Messages to render; `is_asking` up to where the model is to answer, else as they are."""

    messages: Sequence[Message]
    is_asking: bool = True


class TakesTextOnly(UsageError):
    """The template adds the pieces of a message to a text, as one does that knows of no images."""


class ChatTemplate:
    """A template and the special tokens that it may name (`bos_token`)."""

    def __init__(self, source: str, specials: Mapping[str, str]) -> None:
        self.source = source
        self._specials = specials

    def prepare(self) -> None:
        """Gets ready to render, while others go on.

        Raises:
            UsageError: what renders cannot be started.
        """
        _RENDERER.start()

    def render(self, messages: Sequence[Message]) -> str:
        """The messages, up to where the model is to answer.

        Raises:
            TakesTextOnly: it cannot take pieces.
            UsageError: the template cannot be read, refuses the messages, or takes too long.
        """
        return self.render_all([Conversation(messages)])[0]

    def render_all(self, conversations: Sequence[Conversation]) -> list[str]:
        """The texts of several conversations, at the cost of one question to the process that renders.

        Raises:
            TakesTextOnly: it cannot take pieces.
            UsageError: the template cannot be read, refuses the messages, or takes too long.
        """
        request = {
            "source": self.source,
            "given": {**self._specials, "tools": None, "documents": None},
            "conversations": [[one.messages, one.is_asking] for one in conversations],
        }
        try:
            line = json.dumps(request).encode() + b"\n"
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"a message is no JSON: {error}", hint="give texts, numbers, lists and dicts"
            ) from None
        answer = _RENDERER.ask(line)
        if "texts" in answer:
            texts: list[str] = answer["texts"]
            return texts
        kind = TakesTextOnly if answer["kind"] == "TypeError" else UsageError
        raise kind(f"the chat template refuses the messages: {answer['error']}", hint=_HINT)


class _Renderer:
    """The process that renders, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def start(self) -> None:
        """Starts the process, unless it runs; it gets ready while others go on.

        Raises:
            UsageError: it cannot be started.
        """
        with self._lock:
            if self._owner == os.getpid() and self._process is not None and self._process.poll() is None:
                return
            self.stop()
            places = [_folder_of(name) for name in ("jinja2", "markupsafe")]
            words = [sys.executable, "-I", "-S", "-X", "utf8", _SCRIPT, str(SECONDS), str(MEMORY), *places]
            try:
                self._process = subprocess.Popen(
                    words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
                )
            except (OSError, ValueError) as error:
                raise UsageError(
                    f"the process that renders chat templates cannot be started: {error}", hint=_HINT
                ) from None
            self._owner = os.getpid()

    def ask(self, line: bytes) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            UsageError: there is none in time, or the process ended over it.
        """
        with self._lock:
            self.start()
            assert self._process is not None
            try:
                return _exchanged(self._process, line)
            except _NoAnswer as error:
                self.stop()
                raise UsageError(f"the chat template {error}", hint=_HINT) from None
            except BaseException:  # Ctrl-C: an answer that comes later would be taken for another
                self.stop()
                raise

    def stop(self) -> None:
        """Ends the process, if it runs."""
        with self._lock:
            process, self._process = self._process, None
            if process is None:
                return
            if self._owner == os.getpid():  # not a copy of it in a process that was forked
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(OSError):  # what was not sent any more
                    pipe.close()  # type: ignore[union-attr]


class _NoAnswer(Exception):
    """What a template did instead of becoming a text."""


def _exchanged(process: "subprocess.Popen[bytes]", line: bytes) -> dict[str, Any]:
    """Sends a line and reads one, without waiting longer than a template may take.

    Raises:
        _NoAnswer: there is none.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(line)
        process.stdin.flush()
    except OSError:
        raise _NoAnswer("cannot be rendered: the process that would do it has ended") from None
    end = monotonic() + SECONDS
    found = bytearray()
    with DefaultSelector() as selector:
        selector.register(process.stdout, EVENT_READ)
        while not found.endswith(b"\n"):
            if not selector.select(max(0.0, end - monotonic())):
                raise _NoAnswer(f"is not done after {SECONDS} seconds")
            piece = os.read(process.stdout.fileno(), 1 << 20)
            if not piece:
                raise _NoAnswer("ends the process that renders it")
            found += piece
    answer: dict[str, Any] = json.loads(found)
    return answer


def _folder_of(package: str) -> str:
    """The folder that a package is imported from.

    Raises:
        UsageError: it is not installed.
    """
    found = find_spec(package)
    if found is None or found.origin is None:
        raise UsageError(f"chat templates need {package}", hint="pip install 'dovetail-weights[torch]'")
    return os.path.dirname(os.path.dirname(found.origin))


_SCRIPT = os.path.join(os.path.dirname(__file__), "renderer.py")
_RENDERER = _Renderer()
atexit.register(_RENDERER.stop)
