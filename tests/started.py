"""A process that has imported `dovetail` already and forks a child for each command.

A child has words, a folder, an environment, pipes or a terminal of its own, and ends as a command started by
hand ends: what it prints, its exit code, and the signal that ends it. Only what Python reads from the
environment before the first import (PYTHONPATH, PYTHONHASHSEED) is the same for all children.

`Started` asks; this file, run as a program with the file descriptor of a socket, answers.
"""

import atexit
import json
import os
import runpy
import socket
import subprocess
import sys
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
    *("numpy", "blake3", "yaml", "rich.console", "rich.table", "rich.progress"),
)
RUNNING = (
    *PLAIN,
    *("torch", "einops", "jaxtyping", "PIL.Image", "tokenizers", "jinja2"),
    *("dovetail.load", "dovetail.Generator", "dovetail.Actor"),
)
_MOST = 1 << 18  # bytes of a request


class Started:
    """A process that waits for commands. It is started for the first one and ends with this process."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = names
        self._socket: socket.socket | None = None

    def begin(
        self, words: Iterable[str], folder: Path, environment: Mapping[str, str], files: Sequence[int]
    ) -> None:
        """Lets a child run `dovetail WORDS` with these files as its stdin, stdout and stderr."""
        self._socket = self._socket or self._start()
        request = {"words": [*words], "folder": str(folder), "environment": dict(environment)}
        socket.send_fds(self._socket, [json.dumps(request).encode()], files)

    def end(self) -> int:
        """Waits for the child; its exit code, or minus the signal that ended it."""
        assert self._socket is not None
        answer = self._socket.recv(_MOST)
        assert answer, "the process that runs commands has ended"
        return int(answer)

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno()), *self.names], pass_fds=[theirs.fileno()]
        )
        theirs.close()

        def end() -> None:
            ours.close()
            process.wait()

        atexit.register(end)
        return ours


def child_of(requests: socket.socket) -> dict[str, Any]:
    """Forks a child for each request and tells how it ended; comes back in the child, with its request."""
    while True:
        data, files, _, _ = socket.recv_fds(requests, _MOST, 3)
        if not data:
            sys.exit()
        child = os.fork()
        if not child:
            requests.close()
            for i, file in enumerate(files):
                os.dup2(file, i)
                os.close(file)
            return dict(json.loads(data))
        for file in files:
            os.close(file)
        _, status = os.waitpid(child, 0)
        requests.send(str(os.waitstatus_to_exitcode(status)).encode())


def answer(file: int, names: Sequence[str]) -> None:
    """Imports what children need, and becomes `python -m dovetail` in each of them."""
    del sys.path[0]  # the folder of the tests
    for name in names:
        home, _, public = name.rpartition(".")
        getattr(import_module(home), public) if home == "dovetail" else import_module(name)
    request = child_of(socket.socket(fileno=file))
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.path.insert(0, request["folder"])
    sys.argv = ["dovetail", *request["words"]]
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    end_with(exit_code())


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
    answer(int(sys.argv[1]), sys.argv[2:])
