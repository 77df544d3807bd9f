"""A training as a page: what it begins with, what of it is trained, and what that takes."""

from dovetail.errors import listed
from dovetail.render.page import Line, Page, Table, quantity
from dovetail.report import counted
from dovetail.train.plan import STORED, PartPlan, TrainPlan


def train_page(plan: TrainPlan) -> Page:
    """The page of a plan."""
    leaves = sum(part.leaves for part in plan.parts)
    kind = f", model type {plan.model_type}" if plan.model_type else ""
    page: Page = [
        Line(f"train {plan.family}: {plan.called}{kind}", "title"),
        Line(f"begins with {plan.begins}" + ("" if plan.has_weights else " (no weights here)"), "dim"),
    ]
    if plan.variant is not None and plan.variant.value is not None:
        page.append(Line(f"variant {plan.variant.value}: {plan.variant.evidence}"))
    page += [
        Line(""),
        Table(
            ("part", "kind", ">leaves", ">parameters", "what becomes of it", ">learning rate"),
            tuple(map(_row, plan.parts)),
            total=("total", "", str(leaves), quantity(plan.parameters), "", ""),
        ),
        Line(f"{quantity(plan.trained)} of {quantity(plan.parameters)} parameters are trained"),
    ]
    for part in plan.parts:
        if part.unreachable and part.is_trained:
            names = f"{quantity(part.unreachable)} numbers of {part.role}"
            page.append(
                Line(f"not trained, no loss reaches them: {names} ({listed(part.reasons, 2)})", "dim")
            )
    if plan.fresh:
        page.append(
            Line(
                f"begins random: {counted(len(plan.fresh), 'parameter')}: {listed(plan.fresh, 6)}; "
                "each keeps its tag in dovetail.json",
                "warning",
            )
        )
    return [*page, Line(""), *_memory(plan)]


def _row(part: PartPlan) -> tuple[str, ...]:
    fate = "trained" if part.is_trained else "frozen"
    if part.unreachable:
        share = "all" if part.unreachable == part.parameters else quantity(part.unreachable)
        fate += f", {share} not reached by the loss"
    rate = "" if part.rate is None else f"{part.rate:g}"
    return part.role, part.kind, str(part.leaves), quantity(part.parameters), fate, rate


def _memory(plan: TrainPlan) -> Page:
    memory = plan.memory
    row = tuple(
        quantity(size, "B") for size in (memory.weights, memory.gradients, memory.optimizer, memory.bytes)
    )
    said = f"weights in {'their own dtypes' if plan.dtype == STORED else plan.dtype}"
    if plan.stored:
        said += f" (stored as {' + '.join(f'{quantity(of)}B {name}' for name, of in plan.stored.items())})"
    return [
        Table((">weights", ">gradients", f">{plan.optimizer}", ">together"), (row,)),
        Line(f"{said}, saves too; on one process, and what a batch keeps on its way comes on top", "dim"),
    ]
