"""LitGPT chunks of which one is not here: which it is, and what follows from that and is no other damage.

The chunks are `model_starter.pth`, `model_secondary0.pth`, …; their order is in nothing but their names.
Which are not here, their certificates say (how many there are), a gap in the numbers, and what a whole model
has first, last and in number of layers.
"""

import os
import re
from typing import NamedTuple

from dovetail.errors import listed
from dovetail.explain.detect import Explanation
from dovetail.explain.documents import Documents
from dovetail.explain.match import RowMatch
from dovetail.report import Finding, counted
from dovetail.store.store import Store

_CHUNK = r"model_(?:(starter)|secondary([0-9]+))\.(pth|safetensors)"
_FOLLOWS = ("tie-flag", "certificate-leaves", "other-certificate")


class LostChunks(NamedTuple):
    """The files that are not here. `num_layers` says how many layers they hold, 0 where nothing tells.

    `may_be_more` says that nothing tells how many chunks come after the last one that is here.
    """

    one: Explanation
    names: tuple[str, ...]
    is_first: bool
    is_last: bool
    num_layers: int
    may_be_more: bool = False

    @property
    def finding(self) -> Finding:
        """The chunks that are not here, and what is not here with them."""
        held = [counted(self.num_layers, "layer")] if self.num_layers else []
        held += ["all that comes before the layers"] if self.is_first else []
        held += ["all that comes after them"] if self.is_last else []
        are = "is" if len(self.names) == 1 else "are"
        more = " (perhaps others after it)" if self.may_be_more else ""
        what = " and ".join(held) or "the layers between"
        return Finding(
            code="nodes",
            severity="error",
            message=f"{listed(self.names, 4)} {are} not here{more}: {what}",
            hint="fetch all chunks from the run that made them",
        )

    def explains(self, finding: Finding) -> bool:
        """Whether a finding says no more than that these chunks are not here."""
        spine = self.one.family.pipeline.spine
        if finding.code.endswith("-conflict"):
            return any(f"{role}.layers is " in finding.message for role in spine)
        if finding.code == "missing-part":
            return self._explains_leaf(f"{finding.part}.")
        if finding.code == "missing" and finding.part is not None:
            lacks = self.one.roles[finding.part].lacks
            return all(self._explains_row(finding.part, lack.row) for lack in lacks)
        if finding.code == "incomplete":
            rows = [(role, lack.row) for role, match in self.one.roles.items() for lack in match.lacks]
            return all(self._explains_row(*row) for row in rows) and all(
                self._explains_leaf(f"{role}.") for role in self.one.absent
            )
        return finding.code in _FOLLOWS

    def _explains_row(self, role: str, row: RowMatch) -> bool:
        is_layer = role in self.one.family.pipeline.spine and bool(row.row.stored.fields)
        return not is_layer and self._explains_leaf(f"{role}.{row.row.leaves[0]}")

    def _explains_leaf(self, leaf: str) -> bool:
        last = self.one.family.pipeline.last
        is_last = any(leaf.startswith(f"{one}.") for one in last)
        return self.is_last if is_last else self.is_first


def lost_chunks(store: Store, documents: Documents, one: Explanation) -> LostChunks | None:
    """The chunks that are not here; None if all are, or if the files are no chunks or a node by itself."""
    files = [os.path.basename(file) for file in store.files]
    if not all(file.startswith("model_s") for file in files):
        return None
    found = [re.fullmatch(_CHUNK, file) for file in files]
    names = [match for match in found if match]
    if not names or len(names) < len(found) or documents.node is not None:
        return None
    suffix = names[0][3]
    has_starter = any(match[1] for match in names)
    numbers = {int(match[2]) for match in names if match[2]}
    counts = {node.fact.get("of") for node in documents.nodes}
    count = counts.pop() if len(counts) == 1 else None
    num_lost = _num_lost_layers(documents, one)
    gone = [] if has_starter else [f"model_starter.{suffix}"]
    known = count - 1 if isinstance(count, int) and 0 < count < 10_000 else max(numbers, default=-1) + 1
    lost = sorted(set(range(known)) - numbers)
    is_last = any(one.family.pipeline.is_last(leaf) for leaf in _lacking(one))
    may_be_more = not lost and (is_last or (num_lost > 0 and not gone))
    if may_be_more:
        lost = [known]
    gone += [f"model_secondary{number}.{suffix}" for number in lost]
    if not gone:
        return None
    return LostChunks(one, tuple(gone), not has_starter, is_last, num_lost, may_be_more)


def _lacking(one: Explanation) -> list[str]:
    rows = [(role, lack.row) for role, match in one.roles.items() for lack in match.lacks]
    return [f"{role}.{row.row.leaves[0]}" for role, row in rows if not row.row.stored.fields]


def _num_lost_layers(documents: Documents, one: Explanation) -> int:
    """How many layers a certificate or a config says that are not here."""
    number = 0
    for role in one.family.pipeline.spine:
        match = one.roles.get(role)
        here = (
            max((len(row.tensors) for row in match.rows if row.row.stored.fields), default=0) if match else 0
        )
        part = match.part if match else one.family.parts[role][0]
        roots = one.family.config.roots.get(role, ("",))
        found = documents.stamped(f"{role}.layers") or documents.find(
            part.facts.spellings.get("layers", ()), roots
        )
        if found is not None and isinstance(found.value, int) and 0 < found.value - here < 10_000:
            number += found.value - here
    return number
