"""A model seen as stages, from tensors to tensors: what goes into each, what comes out, under its name.

    vision.patch_embed   vision.blocks.0 …   merger   text.embed   prefix   text.blocks.0 …   text.norm   head

A stage is a module that the model calls, or its head (`models/taps.py`). It may take rotations, masks and
a past beside its main input; all of them are taken apart into tensors here, so that any backend can run it.

`prefix` and `suffix` are no steps but what lies ready for a decoder: embeddings of images and text, of
state and actions, with their positions and columns. The model puts them together between its stages.
"""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any, NamedTuple, cast

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dovetail.inputs.values import Values
from dovetail.models.attention import After, Here, Packed, Past, Sight, written_out
from dovetail.models.cache import Appended
from dovetail.models.language import LanguageModel
from dovetail.models.policies.policy import Policy, Suffix
from dovetail.models.policies.prefix import Behind, Keeping
from dovetail.models.stream import Columns, Stream
from dovetail.models.taps import Step, attached, in_place, steps_of

# What people call the stages of a model: modules of these names, by the purpose of the part they are in.
_STACK = re.compile(r"patch_embed|embed|blocks\.\d+|norm|pool")
_STAGES = {
    "tower": _STACK,
    "decoder": _STACK,
    "connector": re.compile(r"|\d+"),  # all of it, or each of several
    "policy head": re.compile(r"\w+"),
}
# What lies ready for a decoder, and the method of a model that puts it together.
_READY = (("prefix", "embed"), ("suffix", "suffix"))
Run = Callable[..., tuple[Tensor, ...]]


class Kept(NamedTuple):
    """Stands for a past that keeps keys and values (`Keeping`): they are outputs of the stage."""

    sight: Sight


class Flat(nn.Module):
    """A stage that takes and gives tensors only. What else it was called with is part of it."""

    def __init__(self, module: nn.Module, leaves: list[Any], spec: pytree.TreeSpec) -> None:
        super().__init__()
        self.module = module
        self._constants = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self._is_tensor = [isinstance(leaf, Tensor) for leaf in leaves]
        self._spec = spec

    def __deepcopy__(self, memo: dict[int, Any]) -> "Flat":
        """A copy with weights of its own; the structure of the call is shared."""
        twin = Flat.__new__(Flat)
        nn.Module.__init__(twin)
        twin.module = deepcopy(self.module, memo)
        twin._constants, twin._is_tensor, twin._spec = self._constants, self._is_tensor, self._spec
        return twin

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        left = iter(tensors)
        leaves = [
            next(left) if is_tensor else constant
            for is_tensor, constant in zip(self._is_tensor, self._constants, strict=True)
        ]
        args, kwargs = pytree.tree_unflatten(leaves, self._spec)
        args = [Keeping(one.sight) if isinstance(one, Kept) else one for one in args]
        found, _ = pytree.tree_flatten(self.module(*args, **kwargs))
        return tuple(found) + _kept(args)


class Call(NamedTuple):
    """One call of a stage: the stage, its tensors, what each is called, and what came out.

    Of what is no step (`prefix`) there is no stage, and the tensors are those that lie ready.
    """

    name: str
    stage: Flat | None
    tensors: tuple[Tensor, ...]
    labels: tuple[str, ...]
    outputs: tuple[Tensor, ...]
    shape: pytree.TreeSpec | None


class Recorder:
    """Notes every call of every stage of a model; `runners` run stages in the place of the model.

    With `forced`, the calls of another model, each stage puts out what that model's stage put out: what a
    stage is fed is then what this model makes of the right results.
    """

    def __init__(
        self,
        runners: Mapping[str, Run] | None = None,
        shapes: Mapping[str, Call] | None = None,
        *,
        forced: Mapping[str, Call] | None = None,
    ) -> None:
        self.calls: dict[str, Call] = {}
        self._forced = forced or {}
        self._runners = {name: _giving(call) for name, call in self._forced.items()} or runners or {}
        self._shapes = forced or shapes or {}
        self._is_paused = False

    def pause(self) -> None:
        """Lets the model run as it is, unnoted."""
        self._is_paused = True

    def resume(self) -> None:
        """Notes calls again."""
        self._is_paused = False

    def __call__(self, step: Step) -> Any:
        """Runs a stage, or its replacement, and notes it."""
        name, module, forward, args, kwargs = step
        if self._is_paused:
            return forward(*args, **kwargs)
        given = [_frozen(one, args[0]) if isinstance(one, Past) else one for one in args], kwargs
        leaves, spec = pytree.tree_flatten(given)
        stage = Flat(module, leaves, spec)
        tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
        key = self._free(name)
        if key in self._runners:
            outputs = self._runners[key](*tensors)
            like = self._shapes[key].outputs
            outputs = tuple(one.to(old.device, old.dtype) for one, old in zip(outputs, like, strict=True))
            shape = self._shapes[key].shape
            assert shape is not None
            result = pytree.tree_unflatten(list(outputs[: shape.num_leaves]), shape)
            _keep(args, outputs[shape.num_leaves :])
        else:
            result = forward(*args, **kwargs)
            found, shape = pytree.tree_flatten(result)
            outputs = tuple(found) + _kept(args)
        labels = _labels(module, given)
        self.calls[key] = Call(
            name, stage, tensors, labels, tuple(one.detach().clone() for one in outputs), shape
        )
        return result

    def ready(self, name: str, result: Any) -> Any:
        """Notes what lies ready for a decoder."""
        if self._is_paused:
            return result
        key = self._free(name)
        labels, tensors = zip(*_fields(result), strict=True)
        self.calls[key] = Call(name, None, tensors, labels, (tensors[0].detach().clone(),), None)
        return _replaced(result, self._forced[key]) if key in self._forced else result

    def _free(self, name: str) -> str:
        """The name, with a number if the stage was called before."""
        number = sum(one == name or one.startswith(f"{name}#") for one in self.calls)
        return name if number == 0 else f"{name}#{number + 1}"

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator["Recorder"]:
        """Watches a model, as long as the context lasts."""
        with ExitStack() as stack:
            stack.enter_context(attached(model, self, stages_of(model)))
            for name, method in _READY if isinstance(model, LanguageModel | Policy) else ():
                if method in dir(model) and _has_tower(model):
                    stack.enter_context(in_place(model, method, self._place(name, getattr(model, method))))
            yield self

    def _place(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: self.ready(name, method(*args, **kwargs))


def stages_of(model: nn.Module) -> list[str]:
    """The modules of a model that are stages, by name."""
    purposes, steps = _purposes(model), steps_of(model)
    found = []
    for name in steps:
        role, _, rest = name.partition(".")
        stages = _STAGES.get(purposes.get(role, ""))
        is_inside = rest.isdecimal() and role in steps
        if name == "head" or (stages is not None and stages.fullmatch(rest) and not is_inside):
            found.append(name)
    return found


def _frozen(past: Past, x: Tensor) -> Past | Kept:
    """A past that nothing is written to, its masks written out, for a stage whose main input is `x`."""
    if isinstance(past, Packed):
        starts = (0, *past.ends)
        each = [
            _frozen(one, x[:, start:end])
            for one, start, end in zip(past.pasts, starts, past.ends, strict=False)
        ]
        return Packed(past.ends, tuple(each))  # type: ignore[arg-type]
    if isinstance(past, Appended | Behind):
        past = past.read_only()
    assert isinstance(past, Here | After | Keeping)
    before = past.k.shape[2] if isinstance(past, After) else 0
    sight = Sight(written_out(past.sight, x.shape[1], before + x.shape[1], x.device))
    if isinstance(past, After):
        return past._replace(sight=sight)
    return Kept(sight) if isinstance(past, Keeping) else Here(sight)


def _kept(args: Sequence[Any]) -> tuple[Tensor, ...]:
    """The keys and values that a stage has kept."""
    found = [one for past in args if isinstance(past, Keeping) for one in (past.k, past.v)]
    return tuple(one for one in found if one is not None)


def _keep(args: Sequence[Any], kept: Sequence[Tensor]) -> None:
    """Has a past keep what another stage has kept."""
    for past in args:
        if isinstance(past, Keeping):
            past.k, past.v = kept


def _has_tower(model: nn.Module) -> bool:
    return "tower" in _purposes(model).values()


def _purposes(model: nn.Module) -> dict[str, str]:
    """What each part of a model is for, by role."""
    return {role: part.purpose for role, part in cast(Values, model.values).kinds.items()}


def _labels(module: nn.Module, given: Any) -> tuple[str, ...]:
    """A name for each tensor: the parameter that it came in, and its field (`by.cos`)."""
    args, kwargs = given
    names = [name for name in inspect.signature(type(module).forward).parameters if name != "self"]
    labels = []
    for name, value in (*zip(names, args, strict=False), *kwargs.items()):
        for path, leaf in pytree.tree_flatten_with_path(value)[0]:
            if isinstance(leaf, Tensor):
                labels.append(
                    name + "".join(f".{getattr(key, 'name', getattr(key, 'idx', ''))}" for key in path)
                )
    return tuple(labels)


def _giving(call: Call) -> Run:
    """A stage that gives what another gave, whatever it is fed."""
    return lambda *_: call.outputs


def _fields(ready: Stream | Suffix) -> list[tuple[str, Tensor]]:
    """The tensors of what lies ready, by name; the embeddings are the first."""
    if isinstance(ready, Suffix):
        found = [("x", ready.x), ("block", ready.block), ("condition", ready.condition)]
        return [(name, one) for name, one in found if one is not None]
    columns = [(f"columns.{name}", one) for name, one in ready.columns._asdict().items()]
    found = [("x", ready.x), ("positions", ready.positions), *columns, ("added", ready.added)]
    return [(name, one) for name, one in found if one is not None]


def _replaced(ready: Stream | Suffix, call: Call) -> Stream | Suffix:
    """What lies ready, with the tensors of another."""
    given = dict(zip(call.labels, call.tensors, strict=True))
    if isinstance(ready, Suffix):
        return Suffix(**given)
    inside = "columns."
    columns = {name.removeprefix(inside): one for name, one in given.items() if name.startswith(inside)}
    rest = {name: one for name, one in given.items() if not name.startswith(inside)}
    return Stream(columns=Columns(**columns), **rest)
