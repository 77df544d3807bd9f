"""A dialect: what config.json says to the readers of a layout that are not transformers.

A family declares its config once, as transformers has it (`ConfigKeys`). A layout of another project
declares its dialect: how to know a config that is in it, and how to make one out of the family's.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


def _nothing(_: Any) -> None:
    return None


class Dialect(NamedTuple):
    """How one project's config.json speaks.

    `is_spoken` says whether a config is in this dialect. `write` makes, for a Blueprint, one out of the
    config that transformers would have and of what was said by `role.name`. `limit` says in words what
    keeps the project from building a model of a Blueprint's sizes, None where nothing does.
    """

    is_spoken: Callable[[Mapping[str, Any]], bool]
    write: Callable[[Any, Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]
    limit: Callable[[Any], str | None] = _nothing
