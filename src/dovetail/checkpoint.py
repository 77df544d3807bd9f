"""A checkpoint that is opened and explained: the one noun that every verb takes.

Opening reads headers only. What is of no known family, or damaged, is a checkpoint too; a verb that goes
on from it refuses damage, unless the user allows it by name: then it goes on as it is and is written into
the certificate, so that no later reader takes the result for a whole one.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from dovetail.declare.family import Family, Layout
from dovetail.declare.part import Part
from dovetail.errors import CheckpointError, listed
from dovetail.explain.detect import Explanation
from dovetail.explain.documents import Documents, Side
from dovetail.explain.examine import Examination, examine
from dovetail.explain.part_sizes import PartSizes
from dovetail.explain.sizes import Inference
from dovetail.explain.trust import TRUST_WEIGHTS, side_of
from dovetail.families import built_in, family, third_party
from dovetail.names import star
from dovetail.report import Finding, Report
from dovetail.store.content import check_copies
from dovetail.store.open import open_checkpoint
from dovetail.store.store import Store, local_sources

if TYPE_CHECKING:
    from dovetail.explain.corrections import Correction
    from dovetail.weights.hashes import LeafContent, Progress
    from dovetail.weights.leaf import Leaf

Path = str | os.PathLike[str]


class Checkpoint:
    """An opened checkpoint and what is known of it. `allowed` is damage that the user lets pass.

    What is said of its family, parts and leaves can only be asked of one that `is_known`.
    """

    def __init__(
        self,
        examination: Examination,
        allowed: Sequence[Finding] = (),
        leaves: "Mapping[str, Leaf] | None" = None,
    ) -> None:
        self.report: Report = examination.report
        self.store: Store = examination.store
        self.documents: Documents = examination.documents
        self.examination = examination
        self.allowed = tuple(allowed)
        self._in_memory = leaves

    @property
    def is_known(self) -> bool:
        """Whether it is of a known family, or comes close to one."""
        return self.examination.explanation is not None and self.examination.inference is not None

    @property
    def is_piece(self) -> bool:
        """Whether it is a node of a split or a chunk of LitGPT's by itself, and values may be of the rest."""
        names = [os.path.basename(name) for name in self.store.files]
        is_chunk = len(names) == 1 and names[0].startswith(("model_starter.", "model_secondary"))
        return is_chunk or self.documents.node is not None

    @property
    def explanation(self) -> Explanation:
        """Its tensors as the parts of its family."""
        assert self.examination.explanation is not None
        return self.examination.explanation

    @property
    def inference(self) -> Inference:
        """Its sizes as far as shapes decide them."""
        assert self.examination.inference is not None
        return self.examination.inference

    @property
    def family(self) -> Family:
        """The family."""
        return self.explanation.family

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """The layouts that the file may be in."""
        return tuple(self.family.layout(id) for id in self.explanation.common_layouts)

    @property
    def kinds(self) -> dict[str, Part]:
        """The part in each role that has tensors of its own."""
        return {role: match.part for role, match in self.explanation.roles.items()}

    @property
    def features(self) -> dict[str, frozenset[str]]:
        """The marked leaves of each role that are there."""
        roles = self.explanation.roles.items()
        return {role: frozenset((*match.part.features, *match.features)) for role, match in roles}

    @property
    def parts(self) -> dict[str, Part]:
        """The part in each role, a tied one included."""
        parts = self.kinds
        lost = {tie.role for tie in self.report.ties if tie.is_lost}
        for role in self.family.ties.keys() - lost:
            parts.setdefault(role, self.family.parts[role][0])
        return parts

    def sizes(self, role: str) -> PartSizes:
        """The sizes of one part."""
        return PartSizes(role, self.parts[role], self.inference.solver)

    @cached_property
    def leaves(self) -> "Mapping[str, Leaf]":
        """Its leaves by full name in the order of the files, tagged as its certificate says.

        Raises:
            CheckpointError: a shape is not what its family declares.
            UsageError: where a leaf's bytes are depends on a size that nothing decides.
        """
        if self._in_memory is not None:
            return self._in_memory
        from dovetail.weights.stored_leaves import stored_leaves  # headers need none of it

        leaves = stored_leaves(self.explanation, self.inference, self.store)
        for name, tag in self._stamped("init", dict).items():
            if name in leaves and isinstance(tag, str) and tag != "tied":
                leaves[name] = leaves[name]._replace(init=tag)  # type: ignore[arg-type]
        return leaves

    def with_leaves(self, leaves: "Mapping[str, Leaf]") -> "Checkpoint":
        """The same with leaves from elsewhere, of a model in memory, in the place of those in the files.

        A tied part is tied exactly if it is not among them.
        """
        roles = {leaf.role for leaf in leaves.values()}
        ties = tuple(
            tie if tie.is_lost else tie._replace(flag=tie.role not in roles) for tie in self.report.ties
        )
        report = self.report.replace(ties=ties)
        return Checkpoint(self.examination._replace(report=report), self.allowed, leaves)

    @property
    def left_out(self) -> dict[str, list[str]]:
        """What the files hold beside the leaves, by the rule that says why it is left."""
        if self._in_memory is not None:
            return {}
        left = {rule: list(names) for rule, names in self.explanation.inventory.set_aside.items()}
        for match in self.explanation.roles.values():
            for name, reason in match.ignored:
                left.setdefault(reason, []).append(name)
            if match.duplicates:
                why = "a second name of a tensor that is kept; compared before writing"
                left.setdefault(why, []).extend(name for name, _ in match.duplicates)
        if self.explanation.unexplained:
            left["unexpected, let pass with --allow"] = list(self.explanation.unexplained)
        return left

    @property
    def copies(self) -> tuple[tuple[Store, str, str], ...]:
        """Second names of tensors in the files, each with the name that is kept: they must be equal."""
        if self._in_memory is not None:
            return ()
        matches = self.explanation.roles.values()
        return tuple((self.store, *pair) for match in matches for pair in match.duplicates)

    def contents(self, progress: "Progress | None" = None) -> "dict[str, LeafContent]":
        """The content of every leaf. `progress` is told the bytes read and the bytes in all.

        Raises:
            CheckpointError: the input holds no values, two copies of a tensor differ, or a file changed
                while it was read.
        """
        if not self.store.has_bytes:
            raise CheckpointError(
                "this input holds names and shapes only, no values",
                checkpoint=self.report.path,
                hint="give the weights themselves",
            )
        from dovetail.weights.hashes import check_unchanged, contents_of

        check_copies(self.copies)
        contents = contents_of(self.store, self.leaves, progress=progress)
        check_unchanged(local_sources(self.store))
        return contents

    @cached_property
    def corrections(self) -> "list[Correction]":
        """What configs say otherwise than what counts."""
        from dovetail.explain.corrections import corrections

        return corrections(self.family, self.kinds, self.documents, self.report.config, ties=self.report.ties)

    @property
    def let_pass_before(self) -> tuple[str, ...]:
        """The damage that was let pass when it was written."""
        return tuple(one for one in self._stamped("allowed", list) if isinstance(one, str))

    def _stamped(self, key: str, kind: type) -> Any:
        """A collection in the certificate, empty where there is none."""
        stamp = self.documents.stamp
        found = stamp.values.get(key) if stamp else None
        return found if isinstance(found, kind) else kind()

    def usable(self, *, allow: Collection[str] = (), to_be: str = "changed") -> "Checkpoint":
        """The same, if it is of a known family and not damaged beyond what is allowed.

        An adapter beside the weights that it changes is refused like damage: without it, they are others.
        `allow` are patterns of tensor names (`*` stands for anything); `to_be` is what a damaged one
        cannot be.

        Raises:
            CheckpointError: it is not.
        """
        errors = [one for one in self.report.findings if one.severity == "error" or one.code == "adapter"]
        causes = [finding for finding in errors if finding.code != "incomplete"]
        allowed = [finding for finding in causes if _is_allowed(finding, allow)]
        refused = [finding for finding in causes if finding not in allowed]
        # what nodes lack explains whatever else is missing
        refused = [finding for finding in refused if finding.code == "nodes"] or refused
        if refused or (errors and not causes) or not self.is_known:
            said = _said(refused or errors)
            raise CheckpointError(
                f"this checkpoint cannot be {to_be} as it is: {said}" if self.report.family else said,
                checkpoint=self.report.path,
                hint=_way_out(refused, to_be),
            )
        return Checkpoint(self.examination, allowed)


@contextmanager
def opened(
    path: Path,
    *,
    as_: str | None = None,
    given: Mapping[str, Any] | None = None,
    size: str | None = None,
    trust: str | None = None,
    allow: Collection[str] = (),
    to_be: str | None = None,
) -> Iterator[Checkpoint]:
    """Opens a checkpoint and says what it is.

    `as_` (`family` or `family/layout`) asserts what it must be, `size` which published size of the family.
    `given` are values that no file says (`{"text.kv_heads": 2}`), `trust` is the side that counts where
    `weights`, `config` and `stamp` contradict each other. A verb that goes on from it names what a damaged
    one cannot be in `to_be`: then damage beyond `allow` is refused, as in `Checkpoint.usable`.

    Raises:
        CheckpointError: it is of no known family or damaged where that matters, or a file breaks its
            format, is unsafe to read, or is missing.
        RemoteError: a server did not give what was asked for.
        UsageError: there is nothing to open, `as_` names no family or layout, or `given` no value of it.
    """
    if as_ is not None:
        family_and_layout(as_)
    side_of(trust)
    with open_checkpoint(path) as store:
        checkpoint = examined(store, as_=as_, given=given, size=size, trust=trust)
        yield checkpoint if to_be is None else checkpoint.usable(allow=allow, to_be=to_be)


def examined(
    store: Store,
    *,
    as_: str | None = None,
    given: Mapping[str, Any] | None = None,
    size: str | None = None,
    trust: str | None = None,
    ignores_stamp: bool = False,
) -> Checkpoint:
    """The checkpoint in an opened store; `ignores_stamp` reads all documents beside it but our own.

    Raises:
        UsageError: `as_` names no family or layout, `given` no value of it, `size` no size, `trust` no side.
    """
    look = partial(_examined, store, as_, trust=side_of(trust), ignores_stamp=ignores_stamp)
    checkpoint = look(given={})
    if not given and size is None:
        return checkpoint
    from dovetail.explain.given import of_size, resolved

    said = dict(given or {})
    if checkpoint.is_known and not checkpoint.is_piece:
        config, family = checkpoint.report.config, checkpoint.family
        said = resolved(said, config, family)
        said = {**(of_size(size, config, family) if size else {}), **said}
    return look(given=said)


def _examined(
    store: Store, as_: str | None, *, given: Mapping[str, Any], trust: Side | None, ignores_stamp: bool
) -> Checkpoint:
    if as_ is None:
        return Checkpoint(
            examine(
                store,
                built_in,
                more_families=third_party,
                given=given,
                trust=trust,
                ignores_stamp=ignores_stamp,
            )
        )
    one, layout = family_and_layout(as_)
    return Checkpoint(
        examine(
            store,
            tuple,
            as_family=one,
            as_layout=layout,
            given=given,
            trust=trust,
            ignores_stamp=ignores_stamp,
        )
    )


def family_and_layout(text: str) -> tuple[Family, str | None]:
    """The family of `family` or `family/layout`, and the layout if there is one.

    Raises:
        UsageError: there is no such family or layout.
    """
    id, _, layout = text.partition("/")
    one = family(id)
    return one, one.layout(layout).id if layout else None


def _way_out(refused: Sequence[Finding], to_be: str) -> str:
    """The next step: that of the finding if there is one cause, else what helps against all of them."""
    if len(refused) > 1 and all(TRUST_WEIGHTS in (finding.hint or "") for finding in refused):
        return f"{TRUST_WEIGHTS}; `dovetail validate` says all"
    can_pass = to_be != "fingerprinted" and any(_may_pass(finding) for finding in refused)
    tags = "; --allow 'NAME' lets a tensor pass, and tags the result" if can_pass else ""
    step = refused[0].hint if len(refused) == 1 else None
    return f"{step or '`dovetail validate` says all'}{tags}"


def _may_pass(finding: Finding) -> bool:
    """Whether a user can let it pass; packed bytes are no weights, an adapter no model, a shard no tensor."""
    is_other = finding.code in ("quantised", "missing-shard") or (
        finding.code == "adapter" and finding.severity == "error"
    )
    return bool(finding.tensors) and not is_other


def _is_allowed(finding: Finding, allow: Collection[str]) -> bool:
    return _may_pass(finding) and all(
        any(fnmatchcase(name, pattern) or star(name) == pattern for pattern in allow)
        for name in finding.tensors
    )


def _said(findings: Sequence[Finding]) -> str:
    return listed([finding.message for finding in findings], 3) if findings else "no family is known for it"
