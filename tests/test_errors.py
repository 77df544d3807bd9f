"""The form of a message, and the tree in the docstring."""

import re

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
