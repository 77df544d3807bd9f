"""`--help` of every verb, word for word; an option is added by review of `tests/golden/help`."""

from itertools import pairwise

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


@pytest.mark.parametrize("word", ["--version", "-V"])
def test_version(word: str) -> None:
    assert dovetail(word) == (0, "dovetail 0.1.0\n", "")


@pytest.mark.parametrize("words", [("help",), ("-h",), ("help", "inspect"), ("inspect", "-h")])
def test_help_may_be_asked_for_in_several_ways(words: tuple[str, ...]) -> None:
    page = ("inspect", "--help") if "inspect" in words else ("--help",)
    assert dovetail(*words) == dovetail(*page)


def test_every_verb_has_an_example_of_its_own_and_stands_with_its_kind() -> None:
    out = dovetail("--help").out
    assert [one for one in VERBS if f"$ dovetail {one}" not in out] == []
    assert all(one.example.startswith(f"dovetail {name}") for name, one in VERBS.items())
    jobs = [one.job for one in VERBS.values()]
    assert len([1 for a, b in pairwise(jobs) if a != b]) == len({*jobs}) - 1
