"""The sizes of a model out of its shapes, with the tensors that prove each and those that disagree."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from dovetail.declare.ops import Shape
from dovetail.declare.part import Part
from dovetail.dims import Contradiction, Expression, Fact, Size, Solver
from dovetail.explain.detect import Explanation
from dovetail.explain.match import PartMatch, RowMatch
from dovetail.report import Finding, counted, more
from dovetail.store.store import Entry, Kinds, kinds_of

_ZERO3 = "saved from a ZeRO-3 run without gathering; save again from its full state dict (zero_to_fp32.py)"


class Inference(NamedTuple):
    """The solved sizes, what was wrong, and the tensors that were wrong.

    `kinds` says of each row, by its full name, which dtypes and shapes its tensors have.
    """

    solver: Solver
    findings: list[Finding]
    bad: frozenset[str]
    owners: Mapping[str, str]
    kinds: Mapping[str, Kinds]

    def evidence(self, role: str, size: Size) -> str:
        """The tensors that prove a size, those of the asking part first."""
        if size.source != "weights":
            return size.evidence[0]
        names = sorted(size.evidence, key=lambda name: self.owners.get(name) != role)
        return f"`{names[0]}`{more(len(names) - 1)}"


class ShapeVote(NamedTuple):
    """The shape that most tensors of a row have, and the tensors that have another."""

    shape: tuple[int, ...]
    outliers: dict[str, tuple[int, ...]]


def infer(one: Explanation, entries: Mapping[str, Entry]) -> Inference:
    """Solves the sizes of every part at once."""
    joined = {
        a: b
        for a, b in one.family.joined.items()
        if a.split(".")[0] in one.roles and b.split(".")[0] in one.roles
    }
    solver = Solver(joined)
    findings: list[Finding] = []
    owners: dict[str, tuple[str, RowMatch]] = {}
    kinds: dict[str, Kinds] = {}
    for role, match in one.roles.items():
        for row in match.rows:
            owners[next(iter(row.tensors.values()))] = role, row
            kinds[row.text] = kinds_of(map(entries.__getitem__, row.tensors.values()))
            vote = vote_shape(row, kinds[row.text], entries)
            if vote is not None:
                findings += _outliers(role, row, vote)
                findings += _add_facts(
                    solver, role, row, symbolic=stored_shape(match.part, row), shape=vote.shape
                )
        _add_counts(solver, role, match)
    _add_sums(solver, one)
    solver.run()
    findings += _contradictions(solver, owners, one)
    bad = frozenset(name for finding in findings for name in finding.tensors)
    return Inference(solver, findings, bad, {name: role for name, (role, _) in owners.items()}, kinds)


def vote_shape(row: RowMatch, kinds: Kinds, entries: Mapping[str, Entry]) -> ShapeVote | None:
    """The shape of a row by majority of its kinds, None when the file does not tell shapes."""
    votes: Counter[tuple[int, ...]] = Counter()
    for (_, shape), count in kinds.items():
        if shape is None:
            return None
        votes[shape] += count
    most = votes.most_common(1)[0][0]
    if len(votes) == 1:
        return ShapeVote(most, {})
    outliers = {name: entries[name].shape or () for name in row.tensors.values()}
    return ShapeVote(most, {name: shape for name, shape in outliers.items() if shape != most})


def stored_shape(part: Part, row: RowMatch) -> Shape:
    """The symbolic shape of a stored tensor, in the part's own dims."""
    return row.row.op.stored_shape([part.leaves[leaf].shape for leaf in row.row.leaves])


def num_misfits(match: PartMatch, entries: Mapping[str, Entry]) -> int:
    """How many rows of a part have another number of axes in the file than declared."""
    rows = [(row, kinds_of(map(entries.__getitem__, row.tensors.values()))) for row in match.rows]
    votes = [(row, vote) for row, kinds in rows if (vote := vote_shape(row, kinds, entries))]
    return sum(len(vote.shape) != len(stored_shape(match.part, row)) for row, vote in votes)


def _add_facts(
    solver: Solver, role: str, row: RowMatch, *, symbolic: Shape, shape: tuple[int, ...]
) -> Iterator[Finding]:
    """One equation for each axis, or what is wrong with the number of axes."""
    if len(symbolic) != len(shape) or 0 in shape:
        yield _wrong_rank(role, row, symbolic, shape)
        return
    name = next(iter(row.tensors.values()))
    for axis, (expression, size) in enumerate(zip(symbolic, shape, strict=True)):
        solver.add(Fact(expression.rename(lambda dim: f"{role}.{dim}"), size, name, axis, len(row.tensors)))


def _add_counts(solver: Solver, role: str, match: PartMatch) -> None:
    for stack, indices in match.stacks.items():
        row = next(one for one in match.rows if one.stack == stack)
        name = next(iter(row.tensors.values()))
        for position, index in enumerate(stack):
            if ":" in index:
                continue
            count = match.part.count_name(index)
            sizes: dict[tuple[int, ...], int] = {}
            for values in indices:
                sizes[values[:position]] = max(sizes.get(values[:position], 0), values[position] + 1)
            if len(set(sizes.values())) == 1:
                expression = Expression(((1, (f"{role}.{count}",)),))
                solver.add(Fact(expression, next(iter(sizes.values())), name, -1, len(indices)))


def _add_sums(solver: Solver, one: Explanation) -> None:
    """Joints such as `projector.d_in = vision.d_vision + fused.d_vision`; an absent part counts nothing."""
    for left, right in one.family.sums:
        terms = [(k, m) for k, m in right.terms if all(name.split(".")[0] in one.roles for name in m)]
        if left.split(".")[0] in one.roles and terms:
            negated = tuple((-k, m) for k, m in terms)
            solver.add(Fact(Expression(((1, (left,)), *negated)), 0, f"{left} = {right}"))


def _contradictions(
    solver: Solver, owners: Mapping[str, tuple[str, RowMatch]], explanation: Explanation
) -> Iterator[Finding]:
    """One finding per cause: all tensors that give one size the same wrong value are one cause."""
    causes: dict[tuple[str, int | None, int], list[Contradiction]] = {}
    for contradiction in solver.contradictions:
        key = (str(contradiction.fact.expression), contradiction.expected, contradiction.fact.value)
        causes.setdefault(key, []).append(contradiction)
    for same in causes.values():
        fact, expected, because = same[0]
        if fact.evidence not in owners:
            yield _sizes_do_not_meet(fact, solver)
            continue
        names = [name for one in same for name in owners[one.fact.evidence][1].tensors.values()]
        role, where = _place(
            fact, *owners[fact.evidence], part=explanation.roles[owners[fact.evidence][0]].part
        )
        should = f"expected {expected}" if expected is not None else "which no whole size gives"
        proof = f" (from `{because[0]}`{more(len(because) - 1)})" if because else ""
        yield Finding(
            code="shape",
            severity="error",
            part=role,
            message=f"`{names[0]}`{more(len(names) - 1)}: {where} is {fact.value}, {should}{proof}",
            tensors=tuple(names),
            hint="the file may mix two models, or was saved with other sizes than the rest",
        )


def _place(fact: Fact, role: str, row: RowMatch, *, part: Part) -> tuple[str, str]:
    """The part and the axis that a fact speaks of, in the part's own words."""
    if fact.axis < 0:
        return role, f"the number of layers ({fact.expression.names[0].split('.')[1]})"
    return role, f"axis {fact.axis} ({stored_shape(part, row)[fact.axis]})"


def _sizes_do_not_meet(fact: Fact, solver: Solver) -> Finding:
    """A joint of more than two sizes, `projector.d_in = vision.d_vision + fused.d_vision`, that fails.

    What one side says alone is more likely wrong than what many tensors of the other say.
    """
    sizes = {name: solver.sizes[name] for name in fact.expression.names if name in solver.sizes}
    values = [
        f"{name} = {size.value} (`{size.evidence[0]}`{more(len(size.evidence) - 1)})"
        for name, size in sizes.items()
    ]
    left = sizes.get(fact.expression.names[0])
    return Finding(
        code="shape",
        severity="error",
        part=fact.expression.names[0].split(".")[0],
        message=f"sizes do not meet: {fact.evidence}, but {', '.join(values)}",
        tensors=left.evidence if left else (),
        hint="a part may be missing, or belong to another model",
    )


def _wrong_rank(role: str, row: RowMatch, symbolic: Shape, shape: tuple[int, ...]) -> Finding:
    name = next(iter(row.tensors.values()))
    declared = " ".join(f"({axis})" if " " in str(axis) else str(axis) for axis in symbolic)
    names = tuple(row.tensors.values())
    if 0 in shape:
        return Finding(
            code="empty-tensor",
            severity="error",
            part=role,
            message=f"`{name}`{more(len(names) - 1)} is empty: shape {list(shape)}, declared `{declared}`",
            tensors=names,
            hint=_ZERO3,
        )
    return Finding(
        code="shape",
        severity="error",
        part=role,
        message=f"`{name}`{more(len(names) - 1)} has {len(shape)} axes {list(shape)}, declared `{declared}`",
        tensors=names,
    )


def _outliers(role: str, row: RowMatch, vote: ShapeVote) -> Iterator[Finding]:
    """Layers whose tensor has another shape than those of the other layers."""
    if not vote.outliers:
        return
    names = tuple(vote.outliers)
    rest = len(row.tensors) - len(names)
    is_empty = all(0 in shape for shape in vote.outliers.values())
    which = f"`{names[0]}`{more(len(names) - 1)}"
    yield Finding(
        code="empty-tensor" if is_empty else "non-uniform",
        severity="error",
        part=role,
        message=f"{which} is {list(vote.outliers[names[0]])}, "
        f"{counted(rest, 'other')} like it {list(vote.shape)}",
        tensors=names,
        hint=_ZERO3 if is_empty else None,
    )
