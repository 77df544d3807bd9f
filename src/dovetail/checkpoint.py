"""A checkpoint that is to be changed: examined, found whole, its leaves ready to be moved.

Damage is refused. What the user allows by name goes on as it is and is written into the certificate, so
that no later reader takes the result for a whole one.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from dovetail.declare.family import Family, Layout
from dovetail.declare.part import Part
from dovetail.errors import CheckpointError, listed
from dovetail.explain.detect import Explanation
from dovetail.explain.documents import Documents
from dovetail.explain.examine import Examination, examine
from dovetail.explain.part_sizes import PartSizes
from dovetail.explain.sizes import Inference
from dovetail.families import built_in, family, third_party
from dovetail.names import star
from dovetail.report import Finding, Report
from dovetail.store.open import open_checkpoint
from dovetail.store.store import Store
from dovetail.weights.leaf import Leaf
from dovetail.weights.stored_leaves import stored_leaves

Path = str | os.PathLike[str]


class Subject(NamedTuple):
    """An opened checkpoint of a known family.

    `leaves` are its leaves in the order of the files; `allowed` the damage that the user lets pass.
    """

    report: Report
    store: Store
    one: Explanation
    inference: Inference
    documents: Documents
    leaves: Mapping[str, Leaf]
    allowed: tuple[Finding, ...]

    @property
    def family(self) -> Family:
        """The family."""
        return self.one.family

    @property
    def let_pass_before(self) -> tuple[str, ...]:
        """The damage that was let pass when it was written."""
        stamp = self.documents.stamp
        allowed = stamp.values.get("allowed") if stamp else None
        return tuple(one for one in allowed if isinstance(one, str)) if isinstance(allowed, list) else ()

    @property
    def layouts(self) -> tuple[Layout, ...]:
        """The layouts that the file may be in."""
        return tuple(self.family.layout(id) for id in self.one.common_layouts)

    @property
    def parts(self) -> dict[str, Part]:
        """The part in each role, a tied one included."""
        parts = {role: match.part for role, match in self.one.roles.items()}
        for role in self.family.ties:
            parts.setdefault(role, self.family.parts[role][0])
        return parts

    def sizes(self, role: str) -> PartSizes:
        """The sizes of one part."""
        return PartSizes(role, self.parts[role], self.inference.solver)


@contextmanager
def opened_subject(
    checkpoint: Path,
    *,
    as_: str | None = None,
    allow: Collection[str] = (),
    given: Mapping[str, Any] | None = None,
    verb: str = "changed",
) -> Iterator[Subject]:
    """Opens a checkpoint for a verb that goes on from it.

    `allow` are patterns of tensor names (`*` stands for anything) whose damage may pass; `verb` is what a
    damaged one cannot be.

    Raises:
        CheckpointError: it is of no known family, or damaged beyond what is allowed.
        UsageError: `as_` names no family.
    """
    with open_checkpoint(checkpoint) as store:
        if as_ is None:
            examination = examine(store, built_in, more_families=third_party, given=given)
        else:
            id, _, layout = as_.partition("/")
            examination = examine(store, tuple, as_family=family(id), as_layout=layout or None, given=given)
        yield subject_of(examination, allow, verb=verb)


def subject_of(examination: Examination, allow: Collection[str] = (), *, verb: str = "changed") -> Subject:
    """The subject of an examined checkpoint; `verb` is what a damaged one cannot be.

    Raises:
        CheckpointError: it is of no known family, or damaged beyond what is allowed.
    """
    report, store = examination.report, examination.store
    allowed = _refuse_damage(examination, allow, verb)
    one, inference = examination.one, examination.inference
    assert one is not None
    assert inference is not None
    leaves = stored_leaves(one, inference, store)
    stamp = examination.documents.stamp
    tags = stamp.values.get("init") if stamp else None
    if isinstance(tags, dict):
        leaves |= {
            name: leaf._replace(init=tags[name])
            for name, leaf in leaves.items()
            if isinstance(tags.get(name), str) and tags[name] != "tied"
        }
    return Subject(report, store, one, inference, examination.documents, leaves, allowed)


def _refuse_damage(examination: Examination, allow: Collection[str], verb: str) -> tuple[Finding, ...]:
    report = examination.report
    errors = [finding for finding in report.findings if finding.severity == "error"]
    causes = [finding for finding in errors if finding.code != "incomplete"]
    allowed = tuple(finding for finding in causes if _is_allowed(finding, allow))
    refused = [finding for finding in causes if finding not in allowed]
    # what nodes lack explains whatever else is missing
    refused = [finding for finding in refused if finding.code == "nodes"] or refused
    if refused or (errors and not causes) or examination.one is None:
        raise CheckpointError(
            f"this checkpoint cannot be {verb} as it is: " + _said(refused or errors),
            checkpoint=report.path,
            hint=_way_out(refused, verb),
        )
    return allowed


def _way_out(refused: Sequence[Finding], verb: str) -> str:
    """The next step: that of the finding if there is one cause, else to read all of them."""
    can_pass = verb != "fingerprinted" and any(finding.tensors for finding in refused)
    tags = "; --allow 'NAME' lets a tensor pass, and tags the result" if can_pass else ""
    step = refused[0].hint if len(refused) == 1 else None
    return f"{step or '`dovetail validate` says all'}{tags}"


def _is_allowed(finding: Finding, allow: Collection[str]) -> bool:
    return bool(finding.tensors) and all(
        any(fnmatchcase(name, pattern) or star(name) == pattern for pattern in allow)
        for name in finding.tensors
    )


def _said(findings: Sequence[Finding]) -> str:
    return listed([finding.message for finding in findings], 3) if findings else "no family is known for it"
