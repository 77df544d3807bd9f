"""How a command ends: 0 good, 1 findings, 2 wrong usage, 3 our bug, 130 interrupted."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import checkpoints as some
import pytest

from commands import Answer, dovetail, python, surroundings
from hubserver import HubServer

BUG = """
import sys
import dovetail.verbs
from dovetail.cli import main

def broken(path, **_):
    raise {error}

dovetail.verbs.inspect = broken
sys.exit(main(["inspect", "x"]))
"""


@pytest.mark.parametrize(
    ("build", "words", "code"),
    [
        (some.made("qwen2", "hf"), ("inspect", "it"), 0),
        (some.made("qwen2", "hf"), ("validate", "it", "--as", "qwen2/hf"), 0),
        (some.made("qwen2", "hf"), ("validate", "it", "--as", "qwen2/litgpt"), 1),
        (some.lost_tensor, ("inspect", "it"), 1),
        (some.lost_tensor, ("validate", "it"), 1),
        (some.lost_tensor, ("validate", "it", "--json"), 1),
        (some.lost_tensor, ("validate", "nothing"), 2),
    ],
)
def test_exit_code(build: some.Build, words: tuple[str, ...], code: int, tmp_path: Path) -> None:
    build(tmp_path / "it")
    assert dovetail(*words, cwd=tmp_path).code == code


def test_our_bug_shows_where_it_is_and_asks_for_a_report() -> None:
    answer = python("-c", BUG.format(error="ZeroDivisionError('half a tensor')"))
    assert (answer.code, answer.out) == (3, "")
    lines = answer.err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-4:] == [
        "ZeroDivisionError: half a tensor",
        "error: ZeroDivisionError: half a tensor",
        "",
        "hint: this is a bug in dovetail 0.1.0; please report it with the command and the lines above",
    ]


def test_an_error_of_ours_is_no_bug() -> None:
    """The sibling: the same place, another error."""
    error = "__import__('dovetail').DovetailError('half a tensor', hint='find the other half')"
    assert python("-c", BUG.format(error=error)) == (
        1,
        "",
        "error: half a tensor\n\nhint: find the other half\n",
    )


def into(target: int, *words: str, cwd: Path) -> tuple[int, str]:
    """Runs a command with its output going to a file descriptor; the exit code and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "dovetail", *words],
        cwd=cwd,
        env=surroundings(),
        stdout=target,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", [("inspect", "it"), ("inspect", "it", "--json"), ("families",)])
def test_a_reader_that_has_gone_is_no_bug(words: tuple[str, ...], tmp_path: Path) -> None:
    """`dovetail inspect it | head -0`, with nobody there from the start."""
    some.made("qwen2", "hf")(tmp_path / "it")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert into(writer, *words, cwd=tmp_path) == (1, "")
    finally:
        os.close(writer)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("words", [("inspect", "it"), ("inspect", "it", "--json"), ("families",)])
def test_a_full_disk_is_no_bug(words: tuple[str, ...], tmp_path: Path) -> None:
    some.made("qwen2", "hf")(tmp_path / "it")
    with open("/dev/full", "w") as full:
        message = "error: the output cannot be written: no space left on device\n\nhint: make room there\n"
        assert into(full.fileno(), *words, cwd=tmp_path) == (1, message)


def test_an_interrupted_command_says_so(tmp_path: Path) -> None:
    """Interrupted while it waits for a server that takes its time."""
    (tmp_path / "model.safetensors").write_bytes(bytes(100))
    with HubServer(tmp_path) as hub:
        hub.faults.delay = threading.Event()
        with subprocess.Popen(
            [sys.executable, "-m", "dovetail", "inspect", f"{hub.url}/files/model.safetensors"],
            env=surroundings(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            while not hub.seen:
                pass
            process.send_signal(signal.SIGINT)
            out, err = process.communicate()
            hub.faults.delay.set()
    assert Answer(process.returncode, out, err) == (130, "", "interrupted\n")
