"""`graft`: a new model, its parts from one or more donors, with an account of both sides.

A leaf is taken from the first donor that has one of the same canonical name, in the same kind of part,
with the same shape. What differs in shape stops the run unless the user said what to do about it; what no
donor has begins as the family declares, from a seed, and carries a tag for as long as the model lives.
"""

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from dovetail.checkpoint import Checkpoint, Path, opened
from dovetail.declare.blueprint import PlannedLeaf
from dovetail.declare.family import Family, Layout
from dovetail.edit.conversion import Conversion, Words, cast_leaves, format_of, words_of, writable_layout
from dovetail.edit.graft_donated import said_by_donors, sizes_of_donors
from dovetail.edit.graft_target import is_place, target_of
from dovetail.edit.plan import Output, Plan
from dovetail.edit.side_files.carried import travelling
from dovetail.edit.side_files.config_files import CONFIG
from dovetail.edit.side_files.config_json import adapted, config_json, corrected
from dovetail.edit.write.execute import Done, Progress, Writing, execute
from dovetail.edit.write.files import DEFAULT_SHARD, output_files
from dovetail.errors import CheckpointError, UsageError, listed
from dovetail.explain.corrections import Correction, corrections, model_type_of
from dovetail.explain.leaves import canonical_name
from dovetail.explain.part_sizes import KnownSizes
from dovetail.explain.variant import VARIANT
from dovetail.explain.wanted import Described, described
from dovetail.names import star
from dovetail.store.open import located
from dovetail.weights.fresh import fresh
from dovetail.weights.interpolate import interpolated, resized
from dovetail.weights.lay_out import Target, lay_out
from dovetail.weights.leaf import Leaf

# What stands beside the weights of a model.
_BESIDE = (".json", ".jinja", ".model")


class Filling(NamedTuple):
    """How the new model is filled, beyond plain copies.

    `only` are the parts that donors fill (all by default), `resize_vocab` the rows of the token tables,
    `interpolate` whether position tables may be made to fit; `seed` is that of what no donor has.
    """

    only: Collection[str] = ()
    interpolate: bool = False
    resize_vocab: int | None = None
    seed: int = 0


class Row(NamedTuple):
    """Leaves of one part with one fate: on the new model's side, or left over on a donor's."""

    side: str
    part: str
    template: str
    fate: str
    leaves: int
    first: str
    donor: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The row as plain JSON values."""
        return self._asdict()


class Graft(NamedTuple):
    """A planned graft: the account of both sides, and the plan unless `problems` forbid it. `notes` say what
    of the new model is otherwise than in its donors, `model` is the new model without weights."""

    rows: tuple[Row, ...]
    problems: tuple[str, ...]
    plan: Plan
    model: Described
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The graft as plain JSON values."""
        return {
            **self.plan.as_json(),
            "rows": [row.as_json() for row in self.rows],
            "problems": list(self.problems),
            "notes": list(self.notes),
        }


_PLAIN, _NO_CHANGES = Filling(), Conversion()


def graft(
    donors: Sequence[Path],
    out: Path,
    *,
    config: Path,
    only: Words = (),
    interpolate: bool = False,
    resize_vocab: int | None = None,
    seed: int = 0,
    to: str | None = None,
    format: str | None = None,
    max_shard_size: int = DEFAULT_SHARD,
    dtype: Words = (),
    set: Mapping[str, Any] | None = None,
    allow: Words = (),
    trust: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    sync: bool = True,
    progress: Progress | None = None,
) -> Done:
    """Writes a new model with what donors have of it; the rest begins fresh and is tagged.

    `config` is a config.json or a folder with one, here or elsewhere, a published size as FAMILY/SIZE,
    or a family, whose sizes are those of the donors; `set` are sizes and settings that it does not say.
    `only` are the parts that donors fill, `seed` is that of the rest.
    `interpolate` makes position tables of images fit, `resize_vocab` cuts or fills token rows. All other
    words are those of `convert`.

    Raises:
        CheckpointError: a donor is damaged, nothing of it is wanted, or something does not fit.
        UsageError: the target is not known, or its sizes are not.
        WriteError: there is no room or no permission; what was written is kept for `resume`.
    """
    filling = Filling(words_of(only), interpolate, resize_vocab, seed)
    asked = Conversion(to, format, max_shard_size, words_of(dtype), allow=words_of(allow))
    with opened_graft(donors, config, filling=filling, asked=asked, given=set, trust=trust) as planned:
        return execute(checked(planned), os.fspath(out), Writing(overwrite, resume, sync), progress)


def plan_graft(
    donors: Sequence[Path],
    *,
    config: Path,
    only: Words = (),
    interpolate: bool = False,
    resize_vocab: int | None = None,
    seed: int = 0,
    to: str | None = None,
    format: str | None = None,
    max_shard_size: int = DEFAULT_SHARD,
    dtype: Words = (),
    set: Mapping[str, Any] | None = None,
    allow: Words = (),
    trust: str | None = None,
) -> Graft:
    """What `graft` would write, and what would become of each leaf, from headers alone.

    Raises:
        CheckpointError: a donor is of no known family or damaged.
        UsageError: the target is not known, or its sizes are not.
    """
    filling = Filling(words_of(only), interpolate, resize_vocab, seed)
    asked = Conversion(to, format, max_shard_size, words_of(dtype), allow=words_of(allow))
    with opened_graft(donors, config, filling=filling, asked=asked, given=set, trust=trust) as planned:
        return planned


@contextmanager
def opened_graft(
    donors: Sequence[Path],
    config: Path,
    *,
    filling: Filling = _PLAIN,
    asked: Conversion = _NO_CHANGES,
    given: Mapping[str, Any] | None = None,
    trust: str | None = None,
) -> Iterator[Graft]:
    """Opens donors and target and says what would go where.

    `config` is a config.json or a folder with one, here or elsewhere, a published size as FAMILY/SIZE,
    or a family, whose sizes are those of the donors; `given` are sizes and settings that it does not say.
    `trust` is about the donors.

    Raises:
        CheckpointError: a donor is of no known family or damaged.
        UsageError: the target is not known, or its sizes are not.
    """
    with ExitStack() as stack:
        sources = [
            stack.enter_context(opened(one, trust=trust, allow=asked.allow, to_be="changed"))
            for one in donors
        ]
        yield _planned(sources, os.fspath(config), filling, asked, given=given or {})


def _planned(
    donors: Sequence[Checkpoint],
    config: str,
    filling: Filling,
    asked: Conversion,
    *,
    given: Mapping[str, Any],
) -> Graft:
    if filling.resize_vocab is not None and filling.resize_vocab < 1:
        raise UsageError(
            f"--resize-vocab {filling.resize_vocab} leaves no rows", hint="give a number above 0"
        )
    one, documents, published = target_of(config, given)
    given = documents.given
    notes: tuple[str, ...] = ()
    if published is None and not is_place(config):
        said, notes = said_by_donors(one, donors)
        given = {**said, **given}
        documents = documents._replace(given=given)
    if filling.resize_vocab:
        given = {**given, **{f"{role}.vocab": filling.resize_vocab for role in _with_vocab(one)}}
        documents = documents._replace(given=given)
    model = described(one, documents, donated=sizes_of_donors(one, donors), published=published)
    work = _Work(donors, model, filling)
    for leaf in model.plan.leaves():
        work.fill(leaf)
    leaves, lossy = cast_leaves(work.leaves, asked.dtypes, allow=asked.allow)
    layout = _layout(one, asked.to)
    target = Target(
        one, layout, model.plan.kinds, {role: KnownSizes(model.plan.dims(role)) for role in model.plan.kinds}
    )
    files = output_files(
        lay_out(leaves, target),
        layout.container,
        format=format_of(asked.format),
        max_shard_size=asked.max_shard_size,
    )
    wrong = corrections(one, model.plan.kinds, documents, model.config)
    texts = _side_files(config, model, leaves, donors, filling, wrong=wrong)
    plan = Plan(
        verb="graft",
        source=" + ".join(donor.report.path for donor in donors),
        family=one,
        source_layout=None,
        parts={role: part.id for role, part in model.plan.kinds.items()},
        outputs=(Output(files, layout.id, texts, facts={"donors": _donor_facts(donors)}),),
        stores=tuple(donor.store for donor in donors),
        config=model.config,
        lossy=lossy,
        corrected=tuple(str(each) for each in wrong if each.found.document in texts),
        findings=tuple(finding for donor in donors for finding in donor.allowed),
    )
    rows = (*work.rows(), *work.left_over())
    return Graft(rows, tuple(work.problems()), plan, model, notes)


def checked(graft: Graft) -> Plan:
    """The plan of a graft that may be carried out.

    Raises:
        CheckpointError: something does not fit.
    """
    if graft.problems:
        raise CheckpointError(
            graft.problems[0], more=listed(graft.problems[1:], 3) or None, hint="--dry-run shows both sides"
        )
    return graft.plan


def _with_vocab(one: Family) -> list[str]:
    return [
        role
        for role, parts in one.parts.items()
        if "vocab" in parts[0].dims and role in (*one.pipeline.spine, *one.ties)
    ]


def _layout(one: Family, to: str | None) -> Layout:
    if to is None:
        return next(layout for layout in one.layouts if layout.is_writable)
    return writable_layout(one, to)


class _Misfit(NamedTuple):
    """A leaf whose shape differs, and what the user could say about it."""

    name: str
    donor: tuple[int, ...]
    target: tuple[int, ...]
    hint: str


def _way_out(planned: PlannedLeaf, leaf: Leaf) -> str:
    if _is_table(planned, leaf, "vocab"):
        return "give --resize-vocab N, or the donor's vocab in the config"
    if _is_grid(planned, leaf):
        return "give --interpolate"
    return "take another donor, or name with --only the parts that fit"


class _Work:
    """The new model's leaves, as they are found."""

    def __init__(self, donors: Sequence[Checkpoint], model: Described, filling: Filling) -> None:
        self.leaves: list[Leaf] = []
        self._donors = donors
        self._model = model
        self._filling = filling
        self._fates: dict[tuple[str, str, str, str | None], list[str]] = {}
        self._used: list[set[str]] = [set() for _ in donors]
        self._misfits: dict[tuple[str, str], list[_Misfit]] = {}
        self._filled: dict[str, int] = dict.fromkeys(model.plan.kinds, 0)
        if unknown := [role for role in filling.only if role not in model.plan.kinds]:
            raise UsageError(
                f"the new model has no part `{unknown[0]}`", hint=f"its parts: {', '.join(model.plan.kinds)}"
            )

    def fill(self, planned: PlannedLeaf) -> None:
        """Finds the values of one leaf."""
        name = canonical_name(planned.role, planned.leaf, planned.indices)
        found = self._found(planned)
        if found is None:
            self._keep(fresh(planned, self._dtype(), self._filling.seed), "fresh", None)
            return
        number, leaf = found
        donor = self._donors[number].report.path
        self._used[number].add(leaf.name)
        self._filled[planned.role] += 1
        as_mine = leaf._replace(name=name, role=planned.role, spec=planned.leaf, indices=planned.indices)
        if leaf.shape == planned.shape:
            fate = "tied" if as_mine.init == "tied" else "copied"
            self._keep(as_mine, fate, donor)
        else:
            self._fit(planned, as_mine, donor)

    def _fit(self, planned: PlannedLeaf, leaf: Leaf, donor: str) -> None:
        """What to do about another shape, if the user said it."""
        if self._filling.resize_vocab and _is_table(planned, leaf, "vocab"):
            made = resized(leaf, fresh(planned, leaf.dtype, self._filling.seed))
            self._keep(made, f"resized from {leaf.shape[0]} rows", donor)
        elif self._filling.interpolate and _is_grid(planned, leaf):
            self._keep(interpolated(leaf, planned.shape[0]), f"interpolated from {leaf.shape[0]}", donor)
        else:
            misfit = _Misfit(leaf.name, leaf.shape, planned.shape, _way_out(planned, leaf))
            self._misfits.setdefault((planned.role, donor), []).append(misfit)
            self._keep(fresh(planned, leaf.dtype, self._filling.seed), "does not fit", donor)

    def _keep(self, leaf: Leaf, fate: str, donor: str | None) -> None:
        self.leaves.append(leaf)
        key = (leaf.role, star(leaf.name), fate, donor)
        self._fates.setdefault(key, []).append(leaf.name)

    def _found(self, planned: PlannedLeaf) -> tuple[int, Leaf] | None:
        """The first donor's leaf for a planned one: of the same role, else of the same kind of part."""
        if self._filling.only and planned.role not in self._filling.only:
            return None
        inside = planned.leaf.template.format(**planned.indices)
        for number, donor in enumerate(self._donors):
            roles = [
                role for role, match in donor.explanation.roles.items() if match.part.id == planned.part.id
            ]
            for role in sorted(roles, key=lambda role: role != planned.role):
                if (leaf := donor.leaves.get(f"{role}.{inside}")) is not None:
                    return number, leaf
            if (tied := self._tied(planned, donor)) is not None:
                return number, tied
        return None

    def _tied(self, planned: PlannedLeaf, donor: Checkpoint) -> Leaf | None:
        """The matrix that a donor uses for a head that it does not store."""
        if planned.role not in self._model.plan.family.ties or planned.role in donor.kinds:
            return None
        leaf = donor.leaves.get(donor.family.ties.get(planned.role, ""))
        return None if leaf is None else leaf._replace(init="tied")

    def _dtype(self) -> str:
        """The dtype of fresh leaves: that of most donated ones."""
        kinds = [leaf.dtype for donor in self._donors for leaf in donor.leaves.values()]
        return max(set(kinds), key=kinds.count)

    def rows(self) -> Iterator[Row]:
        """The new model's side."""
        for (role, template, fate, donor), names in self._fates.items():
            yield Row("target", role, template, fate, len(names), names[0], donor)
        for role, leaf in self._model.plan.family.ties.items():
            if role not in self._model.plan.kinds:
                yield Row("target", role, role, f"tied to {leaf}", 0, leaf)

    def left_over(self) -> Iterator[Row]:
        """What donors have and the new model did not take."""
        for donor, used in zip(self._donors, self._used, strict=True):
            groups: dict[tuple[str, str], list[str]] = {}
            for name, leaf in donor.leaves.items():
                if name not in used:
                    groups.setdefault((leaf.role, star(name)), []).append(name)
            for (role, template), names in groups.items():
                yield Row("donor", role, template, "left over", len(names), names[0], donor.report.path)

    def problems(self) -> Iterator[str]:
        """Why the graft cannot be carried out."""
        for (role, donor), misfits in self._misfits.items():
            one = misfits[0]
            shapes = f"`{one.name}` is {list(one.donor)} there and {list(one.target)} in the new model"
            many = f"{len(misfits)} parameters of {role} do" if len(misfits) > 1 else f"{role} does"
            yield f"{many} not fit from {donor}: {shapes}; {one.hint}"
        if not any(self._filled.values()):
            yield "no donor has anything that the new model takes"
        for role in self._filling.only:
            if not self._filled[role]:
                yield f"no donor has anything for the part {role}, which was asked for by --only"


def _is_table(planned: PlannedLeaf, leaf: Leaf, dim: str) -> bool:
    """Whether two leaves are tables of the same width whose rows a dim counts."""
    is_table = len(planned.shape) > 0 and str(planned.leaf.shape[0]) == dim
    return is_table and planned.shape[1:] == leaf.shape[1:]


def _is_grid(planned: PlannedLeaf, leaf: Leaf) -> bool:
    """Whether two leaves are position tables of images."""
    spelled = planned.part.facts.spellings.get("positions", ("",))[0]
    return spelled.startswith("(") and _is_table(planned, leaf, "positions")


def _donor_facts(donors: Sequence[Checkpoint]) -> list[dict[str, Any]]:
    return [
        {"path": donor.report.path, "family": donor.family.id, "layout": donor.explanation.layout}
        for donor in donors
    ]


def _side_files(
    config: str,
    model: Described,
    leaves: Sequence[Leaf],
    donors: Sequence[Checkpoint],
    filling: Filling,
    *,
    wrong: Sequence[Correction],
) -> dict[str, bytes]:
    """The target's own files, then what a donor of the language model has of a tokenizer."""
    texts: dict[str, bytes] = {}
    for donor in donors:
        if any(role in donor.family.pipeline.spine for role in donor.kinds):
            for name, data in travelling(donor.store).items():
                if "config" not in name or "token" in name:
                    texts.setdefault(name, data)
    if is_place(config):
        folder, name = located(config)
        names = [CONFIG] if name else [one for one in folder.files() if one.endswith(_BESIDE)]
        texts |= {one: folder.read(name or one) for one in names if not one.endswith("index.json")}
    for name in texts:
        if here := [each for each in wrong if each.found.document == name]:
            texts[name] = corrected(texts[name], here)
    if CONFIG in texts:
        changes = {"vocab_size": filling.resize_vocab} if filling.resize_vocab else {}
        texts[CONFIG] = adapted(texts[CONFIG], changes)
    else:
        dtype = max({one.dtype for one in leaves}, key=[one.dtype for one in leaves].count)
        texts[CONFIG] = _generated(model, dtype)
    return texts


def _generated(model: Described, dtype: str) -> bytes:
    from dovetail.dtypes import DTYPES

    plan, said = model.plan, {name: one.value for name, one in model.config.items() if one.source == "stamp"}
    is_tied = None if not plan.family.ties else not any(role in plan.kinds for role in plan.family.ties)
    written = config_json(plan, dtype=DTYPES[dtype].torch, is_tied=is_tied, settings=said)
    if VARIANT in said:
        written["model_type"] = model_type_of(plan.family, written["model_type"], said[VARIANT])
    return (json.dumps(written, indent=2) + "\n").encode()
