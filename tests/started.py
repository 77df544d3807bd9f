"""A process that has imported `dovetail` already and forks a child for each command.

A child has words, a folder, an environment, pipes or a terminal of its own, and ends as a command started by
hand ends: what it prints, its exit code, and the signal that ends it. Only what Python reads from the
environment before the first import (PYTHONPATH, PYTHONHASHSEED) is the same for all children.

`Started` asks; this file, run as a program, answers.
"""

import atexit
import contextlib
import json
import os
import runpy
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

# What a child finds imported: public names of dovetail, and packages that it imports when it needs them.
# huggingface_hub is not among them, for it reads the environment when it is imported.
PLAIN = (
    *("dovetail.inspect", "dovetail.make", "dovetail.convert", "dovetail.split", "dovetail.merge"),
    *("dovetail.graft", "dovetail.stamp", "dovetail.diff", "dovetail.fingerprint"),
    *("numpy", "blake3", "yaml", "rich.console", "rich.progress"),
)
RUNNING = (
    *PLAIN,
    *("torch", "einops", "jaxtyping", "PIL.Image", "tokenizers", "jinja2"),
    *("dovetail.load", "dovetail.Generator", "dovetail.Actor"),
)
# Words of the commands that run a model.
RUN = ("generate", "act", "verify", "--forward")
_MOST = 1 << 17  # bytes of a request

# A command line of pages and shells: a small Python that hands over what it was given.
_SCRIPT = """#!{python} -IS
import json, os, socket, sys
asked = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
asked.connect({running!r} if {{*{run}}} & {{*sys.argv}} else {plain!r})
request = {{"words": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
socket.send_fds(asked, [json.dumps(request).encode()], [0, 1, 2])
os._exit(int(asked.recv(100)))
"""


class Started:
    """A process that waits for commands. It is started for the first one and ends with this process."""

    def __init__(self, names: Sequence[str], **settings: str) -> None:
        self.names, self.settings = names, settings
        self._door: str | None = None

    @property
    def door(self) -> str:
        """The path of the socket on which it waits."""
        if self._door is None:
            self._door = self._start()
        return self._door

    def begin(
        self, words: Iterable[str], folder: Path, environment: Mapping[str, str], files: Sequence[int]
    ) -> socket.socket:
        """Lets a child run `dovetail WORDS` with these files as its stdin, stdout and stderr."""
        asked = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        asked.connect(self.door)
        request = {"words": [*words], "folder": str(folder), "environment": dict(environment)}
        socket.send_fds(asked, [json.dumps(request).encode()], files)
        return asked

    def _start(self) -> str:
        folder = tempfile.mkdtemp(prefix="started")
        door = os.path.join(folder, "door")
        waiting = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        waiting.bind(door)
        waiting.listen()
        theirs, ours = os.pipe()  # ends with this process
        process = subprocess.Popen(
            [sys.executable, __file__, str(waiting.fileno()), str(theirs), *self.names],
            pass_fds=[waiting.fileno(), theirs],
            env={**os.environ, **self.settings},
        )
        waiting.close()
        os.close(theirs)

        def end() -> None:
            os.close(ours)
            process.wait()
            shutil.rmtree(folder)

        atexit.register(end)
        return door


def ended(asked: socket.socket) -> int:
    """Waits for a child; its exit code, or minus the signal that ended it."""
    with asked:
        answer = asked.recv(_MOST)
    assert answer, "the process that runs commands has ended"
    return int(answer)


def script(path: Path, plain: Started, running: Started) -> None:
    """Writes a program `dovetail`, for shells whose PATH leads to it."""
    text = _SCRIPT.format(python=sys.executable, plain=plain.door, running=running.door, run=RUN)
    path.write_text(text)
    path.chmod(0o755)


# -- the other side


def answer(waiting: socket.socket, alive: int, names: Sequence[str]) -> None:
    """Imports what children need, and becomes `python -m dovetail` in each of them."""
    del sys.path[0]  # the folder of the tests
    for name in names:
        home, _, public = name.rpartition(".")
        getattr(import_module(home), public) if home == "dovetail" else import_module(name)
    while True:
        ready, _, _ = select.select([waiting, alive], [], [])
        if alive in ready:
            sys.exit()
        asked, _ = waiting.accept()
        if os.fork() == 0:
            waiting.close()
            os.close(alive)
            become(child_of(asked))
            end_with(exit_code())
        asked.close()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # those of earlier requests
                pass


def child_of(asked: socket.socket) -> dict[str, Any]:
    """Forks a child and tells how it ended; comes back in the child, with its request."""
    data, files, _, _ = socket.recv_fds(asked, _MOST, 3)
    if child := os.fork():
        for file in files:
            os.close(file)
        _, status = os.waitpid(child, 0)
        asked.send(str(os.waitstatus_to_exitcode(status)).encode())
        os._exit(0)
    asked.close()
    for i, file in enumerate(files):
        os.dup2(file, i)
        os.close(file)
    return dict(json.loads(data))


def become(request: dict[str, Any]) -> None:
    """Gives this process the words, the folder and the environment of a command."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.path.insert(0, request["folder"])
    sys.argv = ["dovetail", *request["words"]]
    # new ones: those of the parent remember what kind of file was behind their number
    sys.stdout = open(1, "w", buffering=1 if os.isatty(1) else -1, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def exit_code() -> int:
    """Runs the command; what it ends with."""
    try:
        runpy.run_module("dovetail", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def end_with(code: int) -> None:
    """Ends this process without taking its memory apart, which costs more than most commands."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if not stream.closed:
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    answer(socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2]), sys.argv[3:])
