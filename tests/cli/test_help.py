"""`--help` of every verb, word for word; an option is added by review of `tests/golden/help`."""

import pytest

import snapshots
from commands import dovetail
from dovetail.cli import VERBS

PAGES = {"dovetail": (), **{verb: (verb,) for verb in VERBS}}


@pytest.mark.parametrize("page", PAGES)
def test_help_says_this(page: str) -> None:
    answer = dovetail(*PAGES[page], "--help")
    assert (answer.code, answer.err) == (0, "")
    snapshots.check(f"help/{page}.txt", answer.out)


def test_every_snapshot_is_of_a_verb() -> None:
    assert snapshots.names("help") == set(PAGES)


def test_without_a_verb_the_help_is_talk_and_the_usage_wrong() -> None:
    answer = dovetail()
    assert (answer.code, answer.out, answer.err) == (2, "", dovetail("--help").out)


def test_version() -> None:
    assert dovetail("--version") == (0, "dovetail 0.1.0\n", "")
