"""Watching a model: what goes into a module, what comes out, by its name: `text.blocks.3.attn`, `merger`.

>>> with tapped(model, "text.blocks.*") as outputs:            # doctest: +SKIP
...     model(**inputs)
>>> outputs["text.blocks.3"].shape                             # doctest: +SKIP

A name of a module is the beginning of its parameters' names, so what it puts out is called like the weights
that made it; `head` is what makes logits, whether its matrix is the token table or not. What no module puts
out (positions, masks) comes from the methods that make it: `prepare`, `embed`.

`tapped` keeps outputs. Whatever else one wants of a module's calls (their time, their inputs, another result
in the place of theirs) is a `Tap`: a function that is called instead of the module, and gives what the call
gives. `attached` puts one on.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from torch import nn

from dovetail.errors import UsageError, listed
from dovetail.models.language import Head, LanguageModel


class Step(NamedTuple):
    """One call of a module, not yet made."""

    name: str
    module: nn.Module
    forward: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self) -> Any:
        """What the module makes of it."""
        return self.forward(*self.args, **self.kwargs)


Tap = Callable[[Step], Any]


class Outputs(dict[str, Any]):
    """The last output of each module by its name; `not_run` are those that have not run."""

    def __init__(self, names: Collection[str]) -> None:
        super().__init__()
        self._names = tuple(names)

    @property
    def not_run(self) -> tuple[str, ...]:
        """The modules that were named and have put out nothing."""
        return tuple(name for name in self._names if name not in self)

    def __missing__(self, name: str) -> Any:
        if name in self._names:
            raise UsageError(f"`{name}` has not run", hint=f"what has: {listed(self)}" if self else None)
        raise UsageError(f"`{name}` was not watched", hint=f"what is: {listed(self._names)}")


@contextmanager
def tapped(model: nn.Module, *patterns: str) -> Iterator[Outputs]:
    """The last output of each module that a pattern names, as long as the context lasts; `*` stands for
    anything. Of a pattern some modules may not run (`not_run`), but not all.

    Raises:
        UsageError: no module has such a name, or at the end of the context none that has one has run.
    """
    by_pattern = {pattern: matching(model, pattern) for pattern in patterns}
    names = list(dict.fromkeys(name for found in by_pattern.values() for name in found))
    outputs = Outputs(names)

    def keep(step: Step) -> Any:
        outputs[step.name] = result = step.run()
        return result

    with attached(model, keep, names):
        yield outputs
    for pattern, found in by_pattern.items():
        if not any(name in outputs for name in found):
            raise UsageError(
                f"nothing that `{pattern}` names has run",
                hint=f"it names {listed(found, 4)}; run the model within the context",
            )


@contextmanager
def attached(model: nn.Module, tap: Tap, names: Collection[str]) -> Iterator[None]:
    """Calls a tap in the place of the named modules, as long as the context lasts."""
    modules = steps_of(model)
    with ExitStack() as stack:
        for name in names:
            owner, method = (model, "logits") if _makes_logits(model, name) else (modules[name], "forward")
            stack.enter_context(
                in_place(owner, method, _tapped_call(name, modules[name], owner, method, tap))
            )
        yield


def matching(model: nn.Module, pattern: str) -> list[str]:
    """The modules that a pattern names.

    Raises:
        UsageError: there is none.
    """
    modules = steps_of(model)
    found = [name for name in modules if fnmatchcase(name, pattern)]
    if not found:
        near = [name for name in modules if name.startswith(pattern.split(".", maxsplit=1)[0])]
        raise UsageError(
            f"no module that runs is called `{pattern}`", hint=f"there are: {listed(near or modules)}"
        )
    return found


def steps_of(model: nn.Module) -> Mapping[str, nn.Module]:
    """Every module that is called when a model runs, by name; a table or a list of layers is not."""
    found = {
        name: module
        for name, module in model.named_modules()
        if name and type(module).forward is not nn.Module.forward
    }
    return found | {"head": Head(model.head_weight)} if isinstance(model, LanguageModel) else found


@contextmanager
def in_place(module: nn.Module, method: str, other: Callable[..., Any]) -> Iterator[None]:
    """Another method of a module, as long as the context lasts."""
    before = module.__dict__.get(method)
    setattr(module, method, other)
    try:
        yield
    finally:
        if before is None:
            delattr(module, method)
        else:
            setattr(module, method, before)


def _makes_logits(model: nn.Module, name: str) -> bool:
    """Whether a step is the head of a language model, which calls no module for it."""
    return name == "head" and isinstance(model, LanguageModel)


def _tapped_call(name: str, module: nn.Module, owner: nn.Module, method: str, tap: Tap) -> Callable[..., Any]:
    """A method that hands its calls to a tap, which sees the module as it is without one."""
    forward = getattr(owner, method)

    def call(*args: Any, **kwargs: Any) -> Any:
        with in_place(owner, method, forward):
            return tap(Step(name, module, forward, args, kwargs))

    return call
