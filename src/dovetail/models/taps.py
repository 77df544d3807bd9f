"""Reading what a module puts out, by its name: `text.blocks.3.attn`, `vision.norm`, `merger`.

>>> with tapped(model, "text.blocks.*") as taps:               # doctest: +SKIP
...     model(**inputs)
>>> taps["text.blocks.3"].shape                                # doctest: +SKIP

A name of a module is the beginning of its parameters' names, so a tap is called like the weights that
made it. What no module puts out (positions, masks) comes from the methods that make it: `prepare`,
`embed`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from fnmatch import fnmatchcase
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from dovetail.errors import UsageError, listed


@contextmanager
def tapped(model: nn.Module, *names: str) -> Iterator[dict[str, Tensor]]:
    """The last output of each named module, as long as the context lasts. `*` stands for anything.

    Raises:
        UsageError: no module has this name.
    """
    modules = dict(model.named_modules())
    taps: dict[str, Tensor] = {}
    handles = []
    for pattern in names:
        matching = [name for name in modules if name and fnmatchcase(name, pattern)]
        if not matching:
            near = [name for name in modules if name.startswith(pattern.split(".")[0])]
            raise UsageError(f"no module is called `{pattern}`", hint=f"there are: {listed(near or modules)}")
        handles += [modules[name].register_forward_hook(_record(taps, name)) for name in matching]
    try:
        yield taps
    finally:
        for handle in handles:
            handle.remove()


def _record(taps: dict[str, Tensor], name: str) -> Any:
    def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
        taps[name] = output

    return hook


@runtime_checkable
class Watcher(Protocol):
    """Looks on at the steps of a model that are no modules of it, or runs them otherwise."""

    def __call__(self, name: str, step: nn.Module, *args: Any) -> Any:
        """What a step gives for its arguments."""


_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


def watching() -> Watcher | None:
    """Who looks on; a model asks before it makes a module of a step."""
    return _watcher.get()


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Lets someone look on, as long as the context lasts."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)
