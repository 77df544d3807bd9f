"""The form of a message, and the tree in the docstring."""

import ast
import re
from pathlib import Path

import pytest

import dovetail.errors as errors


def test_a_message_has_what_where_and_next() -> None:
    error = errors.FormatError(
        "header is truncated", file="a.safetensors", expected=None, found="3", hint="again"
    )
    assert str(error) == "header is truncated\n  file   a.safetensors\n  found  3\n\nhint: again"


def test_the_tree_in_the_docstring_is_the_tree_in_the_code() -> None:
    drawn = re.findall(r"(\w+Error)", errors.__doc__ or "")
    defined = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    ]
    assert set(drawn) == set(defined)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError, 2),
        (errors.FormatError, 1),
        (errors.UnsafeError, 1),
        (errors.RemoteError, 1),
        (errors.DeclarationError, 3),
        (errors.WriteError, 1),
    ],
)
def test_exit_codes(error: type[errors.DovetailError], code: int) -> None:
    assert error("x").exit_code == code


def test_a_long_list_is_cut_and_counted() -> None:
    assert errors.listed(range(14)) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 4 more"


def test_every_class_has_a_next_step_of_its_own() -> None:
    """Errors that are raised without a hint end with that of their class."""
    tree = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, Exception)]
    steps = [one("x").hint for one in tree]
    assert [one.__name__ for one in tree if "next_step" not in vars(one)] == []
    assert len({*steps}) == len(steps)
    assert str(errors.FormatError("x")).endswith(f"\n\nhint: {errors.FormatError.next_step}")


# What their class says of the next step is enough: what is wrong with the file, the server or the declaration.
SAID_BY_CLASS = ("FormatError", "DataError", "UnsafeError", "MissingError", "RemoteError", "DeclarationError")


def raised_without_a_hint(source: str) -> list[str]:
    """The errors that a text of Python makes without saying what to do next."""
    tree = {one.__name__ for one in vars(errors).values() if isinstance(one, type)} - {*SAID_BY_CLASS}
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            says = {"hint", None} & {one.arg for one in node.keywords}
            if node.func.id in tree and node.func.id.endswith("Error") and not says:
                found.append(ast.unparse(node))
    return found


def test_every_error_says_what_to_do_next() -> None:
    source = Path(errors.__file__).parent
    found = [
        (str(one), call) for one in source.rglob("*.py") for call in raised_without_a_hint(one.read_text())
    ]
    assert found == []


def test_an_error_without_a_next_step_is_found() -> None:
    source = (
        "UsageError('a', hint='b')\nraise FormatError('c')\nraise UsageError('d')\nx(WriteError('e', file=f))"
    )
    assert raised_without_a_hint(source) == ["UsageError('d')", "WriteError('e', file=f)"]


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("qwen2-vl", "qwen2_vl"),
        ("Qwen2_VL", "qwen2_vl"),
        ("llamma", "llama"),
        ("0.5b", "qwen2-0.5b"),
        ("x", None),
    ],
)
def test_the_word_that_is_meant_is_found(word: str, near: str | None) -> None:
    assert errors.nearest(word, ["qwen2_vl", "qwen3_vl", "llama", "qwen2-0.5b"]) == near
