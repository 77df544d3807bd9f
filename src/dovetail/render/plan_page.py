"""A plan as a page, before anything is written, and the end of a run."""

import os
from collections.abc import Mapping

from dovetail.edit.plan import Output, Plan
from dovetail.edit.write.execute import Done
from dovetail.errors import listed
from dovetail.render.page import Line, Page, Table, quantity
from dovetail.report import counted


def plan_page(plan: Plan, out: str) -> Page:
    """What would be written, of what, and what would be left out."""
    page: Page = [_title(plan), Line(f"{plan.source} -> {out}", "dim"), Line("")]
    page.append(_files(plan))
    page += [Line(""), Table(("op", ">tensors"), tuple((op, str(n)) for op, n in plan.ops.items()))]
    page += _said(plan)
    side = sorted({name for output in plan.outputs for name in output.text_names})
    page += [Line(""), Line(f"beside the weights: {listed([*side, plan.outputs[0].certificate], 12)}")]
    page.append(needs(plan))
    return page


def needs(plan: Plan) -> Line:
    """What the run would take."""
    return Line(
        f"memory: at most {plan.memory >> 20} MiB; room on the disk: {quantity(plan.room, 'B')}"
        " (dry run: nothing was written)"
    )


def done_page(plan: Plan, done: Done, *, is_resumed: bool = False) -> Page:
    """What was written; `is_resumed` if a run was to go on with what an earlier one left."""
    page: Page = [_title(plan), Line(f"{plan.source} -> {done.path}", "dim"), Line("")]
    page.append(_files(plan))
    page += _said(plan)
    page += [
        Line(f"lossy: {counted(number, 'number')} of `{name}` became infinite", "warning")
        for name, number in done.overflowed.items()
    ]
    speed = quantity(int(done.bytes / done.seconds), "B/s") if done.seconds else ""
    resumed = ""
    if done.resumed or is_resumed:
        resumed = f", {counted(done.resumed, 'tensor') if done.resumed else 'nothing'} of an earlier run kept"
    page += [
        Line(""),
        Line(
            f"wrote {counted(done.tensors, 'tensor')}, {quantity(done.bytes, 'B')} "
            f"in {done.seconds:.2f} s ({speed}){resumed}",
            "good",
        ),
        Line(f"fingerprint {done.fingerprint}"),
    ]
    if not done.is_synced:
        page.append(
            Line("not all of it is on the disk yet: with --no-sync the system writes it later", "dim")
        )
    return page


def _title(plan: Plan) -> Line:
    to = listed(dict.fromkeys(output.layout for output in plan.outputs), 3)
    layouts = f"{_layout(plan.source_layout)} -> {to}" if plan.source_layout else f"layout {to}"
    return Line(f"{plan.verb} {plan.family.id}: {layouts}", "title")


def _layout(layout: str | Mapping[str, str]) -> str:
    return layout if isinstance(layout, str) else "mixed"


def _files(plan: Plan) -> Table:
    rows: tuple[tuple[str, ...], ...] = tuple(
        (
            os.path.join(output.folder, file.name),
            str(len(file.tensors)),
            quantity(file.size, "B"),
            _held(output),
        )
        for output in plan.outputs
        for file in output.files
    )
    columns: tuple[str, ...] = ("file", ">tensors", ">size", "holds")
    total: tuple[str, ...] = ("total", str(len(plan.tensors)), quantity(plan.size, "B"), "")
    if not any(row[3] for row in rows):
        rows, total, columns = tuple(row[:3] for row in rows), total[:3], columns[:3]
    return Table(columns, rows, total if len(rows) > 1 else None)


def _held(output: Output) -> str:
    """What a node has, in words."""
    node = output.facts.get("node")
    if node is None:
        return ""
    first, last = node["layers"]
    return f"layers {first} to {last}; of {', '.join(node['parts'])}"


def _said(plan: Plan) -> Page:
    page: Page = []
    for dropped in plan.dropped:
        names = listed([f"`{name}`" for name in dropped.names], 2)
        page.append(
            Line(f"left out: {counted(len(dropped.names), 'tensor')} ({dropped.reason}): {names}", "note")
        )
    for lossy in plan.lossy:
        page.append(Line(f"lossy: {counted(lossy.tensors, 'tensor')} {lossy.what}", "warning"))
    if plan.assumed:
        page.append(
            Line(f"assumed in the config, say better with --set: {listed(list(plan.assumed), 12)}", "warning")
        )
    if plan.corrected:
        page.append(Line(f"put right: {listed(list(plan.corrected), 6)}", "warning"))
    for finding in plan.findings:
        page.append(Line(f"let pass: {finding.message}", "warning"))
    tags: dict[str, list[str]] = {}
    for tensor in plan.tensors:
        for one in tensor.leaves:
            if one.init not in ("copied", "tied"):
                tags.setdefault(one.init, []).append(one.name)
    for tag, tagged in tags.items():
        sample = listed([f"`{name}`" for name in tagged], 2)
        page.append(Line(f"{tag}: {counted(len(tagged), 'parameter')}: {sample}", "warning"))
    return [Line(""), *page] if page else []
