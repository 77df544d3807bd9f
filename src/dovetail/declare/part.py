"""A part: the tensors of one reusable module, and what naming traditions call them.

Both are written as tables, one row a tensor, columns two or more spaces apart:

    LEAVES = '''
    embed.weight                          vocab d_model
    blocks.{layer}.attn.q.(weight|bias)   (q_heads head_dim) d_model | (q_heads head_dim)
    head.weight                           vocab d_model                                      if head
    '''
    LITGPT = '''
    embed.weight                          wte.weight
    blocks.{layer}.attn.[q k v].weight    h.{layer}.attn.qkv.weight                          concat
    -                                     h.{layer}.attn.rope.inv_freq                       buffer
    '''

`(a|b)` writes several rows in one; alternatives on both sides belong together, and shapes that differ
between them are separated by ` | `. `[q k v]` names the leaves that one stored tensor joins. Marks of a
leaf are separated by commas: `if feature` for one that only some variants have, `dead` for one that is
stored and never used, `init RULE` for one that begins otherwise than leaves of its name do. A row whose
leaf is `-` is stored by some writers and carries nothing: its last column is the reason.
A row marked `also` is a second name for a leaf that has one already. `stack expert` is one tensor for all
values of an index that the stored name does not have:

    experts.{expert}.[gate up].weight     experts.gate_up_proj                concat, stack expert

The count of an index is a dim: `{layer}` counts `layers`.
"""

import re
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from itertools import product
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from dovetail.declare.ops import Op, Shape, parse_op
from dovetail.dims import Expression, parse_expression, parse_shape
from dovetail.errors import DeclarationError
from dovetail.names import Template

_NONE: Mapping[str, Any] = MappingProxyType({})
_COLUMNS = re.compile(r"\s{2,}")
_CHOICE = re.compile(r"\(([a-z0-9_.]+(?:\|[a-z0-9_.]+)+)\)", re.IGNORECASE)
_JOIN = re.compile(r"\[([^\]]+)\]")


# How a new tensor may begin; `a_log` is log(1), log(2) ... along the last axis.
INITIAL_RULES = ("normal", "zeros", "ones", "a_log")
_MARK = re.compile(rf"dead|if [a-z_]+|init (?:{'|'.join(INITIAL_RULES)})")
_MARKS = f"marks: dead, if FEATURE, init RULE (a rule is one of {', '.join(INITIAL_RULES)})"


class LeafSpec:
    """One tensor of a part as it is declared: canonical name, symbolic shape, mark and how it begins."""

    def __init__(
        self,
        name: str,
        shape: str,
        feature: str | None = None,
        is_dead: bool = False,
        marked_init: str | None = None,
    ) -> None:
        self.name = name
        self.shape_text = shape
        self.feature = feature
        self.is_dead = is_dead
        self._marked_init = marked_init

    @cached_property
    def template(self) -> Template:
        """The name as a template."""
        return Template(self.name)

    @cached_property
    def shape(self) -> Shape:
        """The parsed shape; only asked for once names have matched."""
        return parse_shape(self.shape_text)

    @property
    def init(self) -> str:
        """The rule by which a new tensor begins: as marked, else zeros for a bias, ones for a weight of one
        axis, which is that of a norm, and normal numbers for all others."""
        if self._marked_init is not None:
            return self._marked_init
        word = self.name.rpartition(".")[2]
        if word == "bias":
            return "zeros"
        return "ones" if word == "weight" and len(self.shape) == 1 else "normal"


class Row(NamedTuple):
    """One stored tensor of a naming: its name, the leaves in it and the op that joins them."""

    stored: Template
    leaves: tuple[str, ...]
    op: Op
    is_alias: bool = False


class Ignored(NamedTuple):
    """A stored tensor that carries nothing, and why."""

    stored: Template
    reason: str


def table_rows(text: str) -> list[list[str]]:
    """The rows of a table, each a list of its columns."""
    return [_COLUMNS.split(line.strip()) for line in text.strip().splitlines() if line.strip()]


def _choices(text: str) -> list[tuple[str, ...]]:
    return [tuple(choice.split("|")) for choice in _CHOICE.findall(text)]


def _choose(text: str, picks: tuple[int, ...]) -> str:
    for pick in picks:
        text = _CHOICE.sub(lambda match, pick=pick: match[1].split("|")[pick], text, count=1)  # type: ignore[misc]
    return text


def _picks(text: str) -> list[tuple[int, ...]]:
    return list(product(*(range(len(choice)) for choice in _choices(text))))


def parse_leaves(text: str) -> dict[str, LeafSpec]:
    """The leaves of a table by canonical name.

    Raises:
        DeclarationError: a row is malformed or names a leaf twice.
    """
    leaves: dict[str, LeafSpec] = {}
    for columns in table_rows(text):
        if len(columns) not in (2, 3):
            raise DeclarationError(f"a leaf row has a name, a shape and marks: {columns}")
        name, shapes = columns[0], columns[1].split(" | ")
        marks = columns[2].split(", ") if len(columns) == 3 else []
        for mark in marks:
            if not _MARK.fullmatch(mark):
                raise DeclarationError(f"`{mark}` is no mark of a leaf", row=name, hint=_MARKS)
        said = dict(mark.split() for mark in marks if mark != "dead")
        for picks in _picks(name):
            leaf = _choose(name, picks)
            if leaf in leaves:
                raise DeclarationError(f"leaf `{leaf}` is declared twice")
            shape = shapes[picks[-1]] if len(shapes) > 1 else shapes[0]
            leaves[leaf] = LeafSpec(leaf, shape, said.get("if"), "dead" in marks, said.get("init"))
    return leaves


class Naming:
    """What one tradition (hf, timm, litgpt …) calls the leaves of a part."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def _parsed(self) -> tuple[tuple[Row, ...], tuple[Ignored, ...]]:
        rows, ignored = [], []
        for columns in table_rows(self._text):
            if len(columns) not in (2, 3):
                raise DeclarationError(
                    f"a naming row has a leaf, a stored name and at most one op: {columns}"
                )
            left, right, op = columns[0], columns[1], columns[2] if len(columns) == 3 else ""
            for picks in _picks(right):
                stored = Template(_choose(right, picks))
                if left == "-":
                    ignored.append(Ignored(stored, op or "buffer"))
                else:
                    rows.append(_row(_choose(left, picks), stored, op))
        return tuple(rows), tuple(ignored)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The stored tensors, in declared order."""
        return self._parsed[0]

    @property
    def ignored(self) -> tuple[Ignored, ...]:
        """Stored tensors that carry nothing."""
        return self._parsed[1]


def _row(left: str, stored: Template, op: str) -> Row:
    joined = _JOIN.search(left)
    leaves = tuple(_JOIN.sub(name, left) for name in joined[1].split()) if joined else (left,)
    return Row(stored, leaves, parse_op("" if op == "also" else op, len(leaves)), op == "also")


class Setting(NamedTuple):
    """A value that no weight shows: found in a config file or a stamp, or a labelled default.

    `spellings` are the keys that config files use for it; `default` is None where there is no honest one.
    `unsaid` is what a config.json of transformers means that says nothing, if that is something else: the
    files leave out what the config class has by itself. One that `is_quiet` is listed only where a file or
    the caller says it. `null` is what a config means that says null. `when` is another setting of the part:
    without it this one means nothing, and is not asked for. `means` gives the
    value for what a config says, where projects have different words for it.
    """

    name: str
    spellings: tuple[str, ...]
    default: Any = None
    why: str = "convention"
    unsaid: Any = None
    means: Callable[[Any], Any] | None = None
    is_quiet: bool = False
    null: Any = None
    when: str = ""

    def spelled(self, value: Any) -> Any:
        """A value as a config has it."""
        return None if self.null is not None and value == self.null else value


class Derived(NamedTuple):
    """A value that follows from sizes, for whoever rebuilds the part from a config.

    `compute` gives the value and its evidence; `agrees` says whether a config's value means the same.
    """

    name: str
    needs: tuple[str, ...]
    compute: Callable[[Mapping[str, int]], tuple[Any, str]]
    agrees: Callable[[Any, Mapping[str, int]], bool]
    spellings: tuple[str, ...] = ()


class LayerKinds(NamedTuple):
    """Kinds of layers, of which every layer is one: `{layer:full}` runs over those of the kind `full`.

    `words` maps each kind to what a config calls it in the list under `spelling`, one word a layer. Names
    tell the kinds apart, or shapes: leaves of several kinds may be stored under one name, and then the kind
    that is declared first is the one that most layers are of.
    """

    words: Mapping[str, str]
    spelling: str = "layer_types"
    over: str = "layer"


class Facts(NamedTuple):
    """What a part knows about its dims beyond the shapes.

    `spellings`: the keys that config files use for each dim; `a * b` multiplies two keys, `len(a)` counts
    the members of a list.
    `open_dims`: dims in no shape at all, each with the dim that it must divide.
    `sizes`: published sizes by name; they settle open dims where all else agrees.
    `conventions`: values for open dims of unpublished sizes, as (dim, value, why).
    `equations`: what must hold between dims, as "a = expression".
    `derived`: values for the reader of a report, computed from the sizes.
    `constants`: what the kind says by itself. `counts`: the dim that counts an index, if not its plural.
    `named_by`: where another kind has the same tensors, keys of a config and how the value ends that
    names this one. `only_named`: the kind is looked for only where they do. `litgpt`: what LitGPT's config
    says of this kind of decoder. `layer_kinds`: indices whose members are of several kinds. `flags`: optional
    features that a config grants with `true`, by its keys; a config that is silent does not.
    """

    spellings: Mapping[str, tuple[str, ...]] = _NONE
    open_dims: Mapping[str, str] = _NONE
    settings: tuple[Setting, ...] = ()
    sizes: Mapping[str, Mapping[str, int]] = _NONE
    conventions: tuple[tuple[str, int, str], ...] = ()
    equations: tuple[str, ...] = ()
    derived: tuple[Derived, ...] = ()
    constants: Mapping[str, Any] = _NONE
    counts: Mapping[str, str] = _NONE
    named_by: tuple[str, ...] = ()
    litgpt: Mapping[str, Any] = _NONE
    layer_kinds: tuple[LayerKinds, ...] = ()
    only_named: bool = False
    flags: Mapping[str, str] = _NONE


def parse_spellings(text: str) -> dict[str, tuple[str, ...]]:
    """A table of dims and the keys that config files use for them, separated by ` | `."""
    return {name: tuple(keys.split(" | ")) for name, keys in table_rows(text)}


_NO_FACTS = Facts()


Purpose = Literal["tower", "connector", "decoder", "head", "policy head", ""]


class Part:
    """The tensors of one module, in one variant.

    `features` are the marked leaves this variant has; `optional` those that a file may have or lack,
    all or none of them. `purpose` is what the module does in a model: a tower reads an image or a text by
    itself, a connector leads from one width to another, a decoder is the language model or an expert beside
    it, a head gives logits, a policy head leads to and from states and actions.
    `module` is "package.module:Name" of what the models of dovetail build it from: the Dialect of a decoder.
    """

    def __init__(
        self,
        *,
        id: str,
        table: str,
        namings: Mapping[str, Naming],
        features: tuple[str, ...] = (),
        optional: tuple[str, ...] = (),
        facts: Facts = _NO_FACTS,
        purpose: Purpose = "",
        module: str = "",
    ) -> None:
        self.id = id
        self.table = table
        self.namings = namings
        self.features = features
        self.optional = optional
        self.facts = facts
        self.purpose: Purpose = purpose
        self.module = module
        self._leaves: dict[str, LeafSpec] | None = None
        self._rows: dict[str, tuple[Row, ...]] = {}
        self._stars: dict[str, tuple[str, ...]] = {}

    def __repr__(self) -> str:
        return f"Part({self.id!r})"

    @property
    def leaves(self) -> dict[str, LeafSpec]:
        """The leaves of this variant by canonical name."""
        if self._leaves is None:
            wanted = {None, *self.features, *self.optional}
            self._leaves = {n: leaf for n, leaf in parse_leaves(self.table).items() if leaf.feature in wanted}
        return self._leaves

    def rows(self, naming: str) -> tuple[Row, ...]:
        """The stored tensors of this variant in one naming."""
        if naming not in self._rows:
            mine = self.leaves
            self._rows[naming] = tuple(
                r for r in self.namings[naming].rows if all(leaf in mine for leaf in r.leaves)
            )
        return self._rows[naming]

    def stars(self, naming: str) -> tuple[str, ...]:
        """The stars of all stored tensors of this variant in one naming."""
        if naming not in self._stars:
            self._stars[naming] = tuple(dict.fromkeys(row.stored.star for row in self.rows(naming)))
        return self._stars[naming]

    def num_required(self, naming: str) -> int:
        """How many stored tensors (counted by template) a whole part has at least."""
        return sum(1 for row in self.rows(naming) if not row.is_alias and self.is_required(row.leaves[0]))

    def is_required(self, leaf: str) -> bool:
        """Whether a whole checkpoint must have this leaf."""
        found = self.leaves[leaf]
        return not found.is_dead and found.feature not in self.optional

    @cached_property
    def num_required_leaves(self) -> int:
        """How many leaves a whole checkpoint must have, each stack counted once."""
        return sum(map(self.is_required, self.leaves))

    def count_name(self, index: str) -> str:
        """The dim that counts an index."""
        return self.facts.counts.get(index, f"{index}s")

    @property
    def dims(self) -> tuple[str, ...]:
        """Every dim of the part, in order of appearance."""
        return self.dims_with(self.optional)

    def leaves_with(self, optional: Collection[str]) -> list[LeafSpec]:
        """The leaves of the part if it has these of its optional features."""
        off = {*self.optional} - {*optional}
        return [leaf for leaf in self.leaves.values() if leaf.feature not in off]

    def dims_with(self, optional: Collection[str]) -> tuple[str, ...]:
        """Every dim of the part if it has these of its optional features."""
        leaves = self.leaves_with(optional)
        names: dict[str, None] = {}
        for leaf in leaves:
            names |= dict.fromkeys(self.count_name(index) for index in leaf.template.fields)
        for leaf in leaves:
            for axis in leaf.shape:
                names |= dict.fromkeys(name for name in axis.names if "(" not in name)
        return tuple(names | dict.fromkeys(self.facts.open_dims))

    @cached_property
    def subsets(self) -> tuple[str, ...]:
        """What the members of each subset of an index are called: `{layer:cross}` has `cross_layers`."""
        templates = [leaf.template for leaf in self.leaves.values()]
        pairs = [pair for one in templates for pair in zip(one.fields, one.subsets, strict=True)]
        return tuple(dict.fromkeys(f"{subset}_{self.count_name(index)}" for index, subset in pairs if subset))

    def kinds_of(self, rule: LayerKinds) -> dict[str, str]:
        """The name of the members of each kind, `full_layers`, with the word that a config has for it."""
        return {f"{kind}_{self.count_name(rule.over)}": word for kind, word in rule.words.items()}

    def equations(self) -> list[tuple[str, Expression]]:
        """What must hold between the dims."""
        pairs = (equation.split(" = ") for equation in self.facts.equations)
        return [(left.strip(), parse_expression(right)) for left, right in pairs]

    def only_where_named(self, key: str, value: object) -> "Part":
        """The same as a kind that a file is held against only where its config has this value: for roles
        that are nearly always filled otherwise."""
        facts = self.facts._replace(named_by=(key, str(value)), only_named=True)
        return Part(
            id=self.id,
            table=self.table,
            namings=self.namings,
            features=self.features,
            optional=self.optional,
            facts=facts,
            purpose=self.purpose,
            module=self.module,
        )
