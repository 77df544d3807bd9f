"""The sizes of a model out of its shapes, with the tensors that prove each and those that disagree."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from dovetail.dims import Expression, Fact, Size, Solver
from dovetail.layout.detect import Explanation
from dovetail.layout.match import PartMatch, RowMatch
from dovetail.layout.ops import Shape
from dovetail.layout.part import Part
from dovetail.report import Finding, more
from dovetail.store.store import Entry


class Inference(NamedTuple):
    """The solved sizes, what was wrong, and the tensors that were wrong."""

    solver: Solver
    findings: list[Finding]
    bad: frozenset[str]
    owners: Mapping[str, str]

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
    solver = Solver(_present(one.family.joined, one))
    findings: list[Finding] = []
    bad: set[str] = set()
    owners: dict[str, tuple[str, RowMatch]] = {}
    for role, match in one.roles.items():
        for row in match.rows:
            name = next(iter(row.found.values()))
            owners[name] = (role, row)
            vote = vote_shape(row, entries)
            if vote is None:
                continue
            if vote.outliers:
                findings.append(_non_uniform(role, row, vote))
                bad |= set(vote.outliers)
            _add_facts(solver, role, match.part, row, name, vote.shape, findings, bad)
        _add_counts(solver, role, match)
    _add_sums(solver, one)
    solver.run()
    findings += _contradictions(solver, owners, bad)
    return Inference(solver, findings, frozenset(bad), {name: role for name, (role, _) in owners.items()})


def vote_shape(row: RowMatch, entries: Mapping[str, Entry]) -> ShapeVote | None:
    """The shape of a row by majority, None when the file does not tell shapes."""
    shapes = [entries[name].shape for name in row.found.values()]
    if shapes[0] is None:
        return None
    if len(set(shapes)) == 1:
        return ShapeVote(shapes[0], {})
    most = Counter(shapes).most_common(1)[0][0]
    outliers = {name: shape for name in row.found.values() if (shape := entries[name].shape) != most}
    return ShapeVote(most or (), {name: shape or () for name, shape in outliers.items()})


def stored_shape(part: Part, row: RowMatch) -> Shape:
    """The symbolic shape of a stored tensor, in the part's own dims."""
    return row.row.op.stored_shape([part.leaves[leaf].shape for leaf in row.row.leaves])


def _present(joined: Mapping[str, str], one: Explanation) -> dict[str, str]:
    return {a: b for a, b in joined.items() if a.split(".")[0] in one.roles and b.split(".")[0] in one.roles}


def _add_facts(
    solver: Solver,
    role: str,
    part: Part,
    row: RowMatch,
    name: str,
    shape: tuple[int, ...],
    findings: list[Finding],
    bad: set[str],
) -> None:
    symbolic = stored_shape(part, row)
    if len(symbolic) != len(shape) or 0 in shape:
        findings.append(_wrong_rank(role, row, symbolic, shape))
        bad |= set(row.found.values())
        return
    for axis, (expression, size) in enumerate(zip(symbolic, shape, strict=True)):
        solver.add(Fact(expression.rename(lambda dim: f"{role}.{dim}"), size, name, axis, len(row.found)))


def _add_counts(solver: Solver, role: str, match: PartMatch) -> None:
    for stack, indices in match.stacks.items():
        row = next(one for one in match.rows if one.stack == stack)
        name = next(iter(row.found.values()))
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
            solver.add(Fact(Expression(((1, (left,)), *negated)), 0, f"joint {left} = {right}"))


def _contradictions(
    solver: Solver, owners: Mapping[str, tuple[str, RowMatch]], bad: set[str]
) -> Iterator[Finding]:
    """One finding per cause: all tensors that give one dim the same wrong value are one cause."""
    causes: dict[tuple[str, int | None, int], list[tuple[Fact, tuple[str, ...]]]] = {}
    for contradiction in solver.contradictions:
        fact = contradiction.fact
        key = (str(fact.expression), contradiction.expected, fact.value)
        causes.setdefault(key, []).append((fact, contradiction.because))
    for (expression, expected, value), facts in causes.items():
        names = [name for fact, _ in facts for name in _tensors(fact, owners)]
        bad |= set(names)
        first, because = facts[0]
        role = owners[first.evidence][0] if first.evidence in owners else expression.split(".")[0]
        where = "number of layers" if first.axis < 0 else f"axis {first.axis}"
        short = expression.replace(f"{role}.", "")
        should = f"expected {expected}" if expected is not None else "which no size fits"
        proof = f" (from `{because[0]}`{more(len(because) - 1)})" if because else ""
        yield Finding(
            code="shape",
            severity="error",
            part=role,
            message=f"`{names[0]}`{more(len(names) - 1)}: {where} ({short}) is {value}, {should}{proof}",
            tensors=tuple(names),
            hint="the file may mix two models; look at its shards one by one with `dovetail inspect SHARD`",
        )


def _tensors(fact: Fact, owners: Mapping[str, tuple[str, RowMatch]]) -> list[str]:
    if fact.evidence in owners:
        return list(owners[fact.evidence][1].found.values())
    return [fact.evidence]


def _wrong_rank(role: str, row: RowMatch, symbolic: Shape, shape: tuple[int, ...]) -> Finding:
    name = next(iter(row.found.values()))
    declared = " ".join(
        f"({axis})" if len(axis.terms) > 1 or len(axis.names) > 1 else str(axis) for axis in symbolic
    )
    names = tuple(row.found.values())
    if 0 in shape:
        return Finding(
            code="empty-tensor",
            severity="error",
            part=role,
            message=f"`{name}`{more(len(names) - 1)} is empty: shape {list(shape)}, declared `{declared}`",
            tensors=names,
            hint="saved from a ZeRO-3 run without gathering; save again with zero_to_fp32.py or stage3_gather_16bit_weights_on_model_save",
        )
    return Finding(
        code="shape",
        severity="error",
        part=role,
        message=f"`{name}`{more(len(names) - 1)} has {len(shape)} axes {list(shape)}, declared `{declared}`",
        tensors=names,
    )


def _non_uniform(role: str, row: RowMatch, vote: ShapeVote) -> Finding:
    names = tuple(vote.outliers)
    shape = list(vote.outliers[names[0]])
    rest = len(row.found) - len(names)
    is_empty = all(0 in other for other in vote.outliers.values())
    return Finding(
        code="empty-tensor" if is_empty else "non-uniform",
        severity="error",
        part=role,
        message=f"`{names[0]}`{more(len(names) - 1)} is {shape}, the {rest} others like it are {list(vote.shape)}",
        tensors=names,
        hint="saved from a ZeRO-3 run without gathering; save again with its full state dict"
        if is_empty
        else None,
    )
