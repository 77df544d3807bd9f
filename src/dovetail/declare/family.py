"""A family: which parts it has, how their sizes meet, and where each layout puts them.

    FAMILY = Family(
        id="qwen2_vl",
        parts={"vision": (QWEN2_VIT,), "merger": (MERGER,), "text": (QWEN2,), "head": (HEAD,)},
        joints="merger.d_in = vision.d_vision; merger.d_out = text.d_model; head.vocab = text.vocab",
        ties={"head": "text.embed.weight"},
        layouts=(
            layout("hf", {"vision": "visual.", "merger": "visual.merger.", "text": "model.", ...}),
            layout("litgpt", {..., "text": Mount("transformer.", "litgpt")}),
        ),
    )

A role (`text`) is filled by one of several parts: a tuple lists the kinds it may be.
"""

from collections.abc import Callable, Collection, Mapping
from copy import copy
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

from dovetail.declare.dialect import Dialect
from dovetail.declare.part import Part, Setting
from dovetail.declare.prompt import PLAIN, Prompt
from dovetail.dims import Expression, parse_expression
from dovetail.errors import UsageError, suggestion

_NONE: Mapping[str, Any] = MappingProxyType({})


class Mount(NamedTuple):
    """Where a layout puts one part and what it calls the leaves.

    `moved` gives leaves a full stored name of their own, outside the prefix. `also` are further names
    of a leaf and `aliases` further prefixes of the whole part, under which writers store the same
    tensors once more. `beside` is a role: the part goes here only in a model that has that role as well.
    """

    prefix: str
    naming: str = "hf"
    moved: tuple[tuple[str, str], ...] = ()
    also: tuple[tuple[str, str], ...] = ()
    aliases: tuple[str, ...] = ()
    beside: str = ""


class Container(NamedTuple):
    """The file that a layout is written to: `kind` is `safetensors` or `torch`.

    `wrapper` goes before every name: the levels of a nested torch file, or a prefix. `has_litgpt_config`
    says that the layout's readers want a `model_config.yaml`, `is_one_file` that they open one file
    whatever its size, and no shards.
    """

    kind: str = "safetensors"
    file: str = "model.safetensors"
    wrapper: str = ""
    has_litgpt_config: bool = False
    is_one_file: bool = False


SAFETENSORS = Container()
ONE_FILE = Container(is_one_file=True)
LITGPT = Container("torch", "lit_model.pth", has_litgpt_config=True)
LIGHTNING = Container("torch", "last.ckpt", "state_dict/model.")


class Layout(NamedTuple):
    """One way to name the tensors of a family.

    A role may have several mounts, tried in order. A layout that a bug wrote is read and never
    written (`is_writable` false, `note` says whose). Roles in `optional` may be absent here even if
    the family needs them; roles without a mount do not exist in this layout.
    `stores_ties` means that this layout has a tensor of its own for a tied head. `dialect` is how its
    config.json speaks, if not as transformers has it. `readers` are the programs that open it, each with
    its versions (`transformers>=4.45,<6`), `untried` those whose names these are and that no test here was
    held against, `doubled_for` those that want a tensor once more under each of
    its further names (`also`). `implies` are settings of the family that
    only the tool has that writes the layout. One that `is_in_memory` has the names that the newest
    transformers has in memory, where they are others than on disk: those of adapters.
    """

    id: str
    mounts: Mapping[str, tuple[Mount, ...]]
    is_writable: bool = True
    note: str = ""
    optional: tuple[str, ...] = ()
    stores_ties: bool = False
    container: Container = SAFETENSORS
    dialect: Dialect | None = None
    readers: tuple[str, ...] = ()
    implies: Mapping[str, Any] = _NONE
    doubled_for: tuple[str, ...] = ()
    is_in_memory: bool = False
    untried: tuple[str, ...] = ()

    @property
    def second_names(self) -> dict[str, str]:
        """The further names of tensors that have a name of their own, by that name."""
        every = [mount for mounts in self.mounts.values() for mount in mounts]
        return {
            dict(one.moved)[leaf]: name for one in every for leaf, name in one.also if leaf in dict(one.moved)
        }

    def mount(self, role: str, part: Part, roles: Collection[str]) -> Mount:
        """Where a part goes in a model with these roles.

        Raises:
            UsageError: the layout has no names for it.
        """
        fitting = [mount for mount in self.mounts.get(role, ()) if mount.naming in part.namings]
        if not fitting:
            raise UsageError(
                f"layout {self.id} has no names for {role} = {part.id}",
                hint="choose another layout or another kind: `dovetail families` lists them",
            )
        return next((mount for mount in fitting if mount.beside in roles), fitting[0])


Placed = Mapping[str, str | Mount | tuple[Mount, ...]]


def layout(
    id: str,
    mounts: Placed,
    *,
    writable: bool = True,
    note: str = "",
    optional: tuple[str, ...] = (),
    stores_ties: bool = False,
    container: Container = SAFETENSORS,
    dialect: Dialect | None = None,
    readers: tuple[str, ...] = (),
    implies: Mapping[str, Any] = _NONE,
    doubled_for: tuple[str, ...] = (),
    in_memory: bool = False,
    untried: tuple[str, ...] = (),
) -> Layout:
    """A layout whose mounts may be written as plain prefixes."""

    def one(mount: str | Mount | tuple[Mount, ...]) -> tuple[Mount, ...]:
        if isinstance(mount, str):
            return (Mount(mount),)
        return (mount,) if isinstance(mount, Mount) else mount

    placed = {role: one(mount) for role, mount in mounts.items()}
    return Layout(
        id=id,
        mounts=placed,
        is_writable=writable,
        note=note,
        optional=optional,
        stores_ties=stores_ties,
        container=container,
        dialect=dialect,
        readers=readers,
        implies=implies,
        doubled_for=doubled_for,
        untried=untried,
        is_in_memory=in_memory,
    )


class ConfigKeys(NamedTuple):
    """How config files speak of a family.

    `model_types` are the values of `model_type` (or lerobot's `type`) that name it. `roots` are, per
    role, the dotted sections to look in, in order; "" is the top level. `presets` are, per role, a key
    whose value names a whole set of sizes (openpi's `paligemma_variant: gemma_2b`).
    The rest is for writing: `architecture` is the class that transformers loads, `constants` are values
    by dotted key, `write_roots` are sections where not the first root; both may be functions of the
    Blueprint, which give None where nothing is said. `named_by` are a key and the value by which other
    configs name the family where another one has the same tensors. `litgpt` gives, for a Blueprint and what
    is known by name, the fields that a fork of LitGPT has for the other parts.
    """

    model_types: tuple[str, ...] = ()
    roots: Mapping[str, tuple[str, ...]] = _NONE
    presets: Mapping[str, str] = _NONE
    architecture: str = ""
    constants: Mapping[str, Any] = _NONE
    write_roots: Mapping[str, Any] = _NONE
    named_by: tuple[str, str] | None = None
    litgpt: Callable[[Any, Mapping[str, Any]], dict[str, Any]] | None = None


_NO_CONFIG = ConfigKeys()


class Pipeline(NamedTuple):
    """How a model is cut for several machines, one after the other.

    `spine` are the roles whose layers are dealt out; `last` are roles and leaves that come after the last
    layer (`head`, `text.norm`). Everything else comes before the first.
    `carried` are roles before the first layer whose outputs are added inside the spine, one after each of
    its first layers: they travel with the stream, as far as the last layer that adds one.
    """

    spine: tuple[str, ...] = ("text",)
    last: tuple[str, ...] = ("text.norm", "head")
    carried: tuple[str, ...] = ()

    def is_last(self, leaf: str) -> bool:
        """Whether a leaf comes after the last layer."""
        return any(leaf.startswith(f"{one}.") for one in self.last)


_DECODER = Pipeline()


class Family:
    """One architecture, declared once.

    `joints` are equalities between dims of two parts, separated by `;`. `ties` maps a role that may be
    absent to the leaf whose tensor it then shares. `tied_heads` maps roles of heads to the decoders whose
    token table they share where they are absent: their joints and ties follow. `optional` roles may be
    absent altogether.
    `is_component` marks families that live inside others (a decoder, a vision tower): they are only
    claimed for files that hold nothing else. `variants` maps a `model_type` to the variant it names.
    `sizes` are published sizes: dims by `role.dim`, kinds by role (`"vision": "dinov2"`).
    `settings` are values of no single part (the id of the image token), named without a role.
    `model` and `inputs` are "package.module:Name" of what runs the family and of what makes its inputs,
    empty where nothing does. `float32` are patterns of parameters (as file names have them) that stay in
    float32 when a narrower type is asked for. `prompt` is how the family is asked. `side_file` is the name
    of a file in which the project of the family keeps what `dovetail stamp` knows, and
    "package.module:Name" of what makes it.
    """

    def __init__(
        self,
        *,
        id: str,
        title: str,
        parts: Mapping[str, tuple[Part, ...]],
        layouts: tuple[Layout, ...],
        joints: str = "",
        ties: Mapping[str, str] = _NONE,
        tied_heads: Mapping[str, str] = _NONE,
        optional: tuple[str, ...] = (),
        is_component: bool = False,
        config: ConfigKeys = _NO_CONFIG,
        variants: Mapping[str, str] = _NONE,
        pipeline: Pipeline = _DECODER,
        sizes: Mapping[str, Mapping[str, int | str]] = _NONE,
        settings: tuple[Setting, ...] = (),
        model: str = "",
        inputs: str = "",
        float32: tuple[str, ...] = (),
        prompt: Prompt = PLAIN,
        side_file: tuple[str, str] | None = None,
        sources: tuple[str, ...] = (),
    ) -> None:
        self.id = id
        self.title = title
        self.parts = parts
        self.layouts = layouts
        met = [f"{a}.{dim} = {b}.{dim}" for a, b in tied_heads.items() for dim in ("vocab", "d_model")]
        self.joints = "; ".join([*filter(None, [joints.strip()]), *met])
        self.ties = {**ties, **{head: f"{text}.embed.weight" for head, text in tied_heads.items()}}
        self.optional = (*optional, *tied_heads)
        self.is_component = is_component
        self.config = config
        self.variants = variants
        self.pipeline = pipeline
        self.sizes = sizes
        self.settings = settings
        self.model = model
        self.inputs = inputs
        self.float32 = float32
        self.prompt = prompt
        self.side_file = side_file
        self.sources = sources

    def __repr__(self) -> str:
        return f"Family({self.id!r})"

    @cached_property
    def joined(self) -> dict[str, str]:
        """Plain equalities: the dim on the left stands for the one on the right's size."""
        return {left: str(right) for left, right in self._joints if _is_name(right)}

    @cached_property
    def sums(self) -> list[tuple[str, Expression]]:
        """Equalities whose right side is more than one name."""
        return [(left, right) for left, right in self._joints if not _is_name(right)]

    @cached_property
    def _joints(self) -> list[tuple[str, Expression]]:
        pairs = [joint.split("=") for joint in self.joints.replace("\n", ";").split(";") if joint.strip()]
        return [(left.strip(), parse_expression(right.strip())) for left, right in pairs]

    def layout(self, id: str) -> Layout:
        """The layout of this id.

        Raises:
            UsageError: the family has no such layout.
        """
        for one in self.layouts:
            if one.id == id:
                return one
        known = [one.id for one in self.layouts]
        hint = suggestion(id, known, f"its layouts: {', '.join(known)}")
        raise UsageError(f"family `{self.id}` has no layout `{id}`", hint=hint)

    def narrowed(self, kinds: Mapping[str, str]) -> "Family":
        """The family with one kind of part in each role that is named."""
        return self.with_parts(
            {
                role: tuple(part for part in parts if part.id == kinds.get(role, part.id)) or parts
                for role, parts in self.parts.items()
            }
        )

    def with_parts(self, parts: Mapping[str, tuple[Part, ...]]) -> "Family":
        """The family with other kinds in its roles."""
        family = copy(self)
        family.parts = parts
        return family

    def kind(self, role: str, id: str) -> Part:
        """The part of this id that may fill a role.

        Raises:
            UsageError: none has this id.
        """
        for part in self.parts[role]:
            if part.id == id:
                return part
        known = [part.id for part in self.parts[role]]
        hint = suggestion(id, known, f"it is one of: {', '.join(known)}")
        raise UsageError(f"{role} of family `{self.id}` is never a `{id}`", hint=hint)


def scoped(role: str, sizes: Mapping[str, int]) -> dict[str, int | str]:
    """Sizes of one role as a family has them: `{"layers": 2}` -> `{"text.layers": 2}`."""
    return {f"{role}.{dim}": value for dim, value in sizes.items()}


def _is_name(expression: Expression) -> bool:
    return len(expression.terms) == 1 and expression.terms[0][0] == 1 and len(expression.terms[0][1]) == 1
