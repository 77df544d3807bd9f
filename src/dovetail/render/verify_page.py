"""A verification as a page: every stage with its distances, and the first one that is not good."""

from collections.abc import Mapping, Sequence
from typing import Any

from dovetail.render.page import Line, Page, Table

Values = Mapping[str, Any]


def verify_page(values: Values) -> Page:
    """The page of the JSON values of a verification."""
    tolerance = values["tolerance"]
    page: Page = [
        Line(f"{values['candidate']} on {values['backend']} in {values['dtype']}", "title"),
        Line(f"reference: {values['reference']}, torch eager in float32", "dim"),
        Line(
            f"isolated stages pass at PCC >= {tolerance['pcc']:.6f} and a relative norm <= "
            f"{tolerance['relative_norm']:.0e}",
            "dim",
        ),
    ]
    if values["note"]:
        page.append(Line(f"note: {values['note']}"))
    for name in dict.fromkeys(stage["pass"] for stage in values["stages"]):
        stages = [stage for stage in values["stages"] if stage["pass"] == name]
        page += [Line(""), stage_table(name, stages)]
        page += [Line(""), module_table(name, [one for one in values["modules"] if one["pass"] == name])]
    page += [Line(""), *_verdict(values)]
    return page


def stage_table(name: str, stages: Sequence[Values]) -> Table:
    """The stages of one pass."""
    columns = (name, "shape", ">PCC", ">max abs", ">rel. norm", ">chain PCC", ">chain rel.", "verdict")
    return Table(columns, tuple(row(stage) for stage in stages))


def module_table(name: str, modules: Sequence[Values]) -> Table:
    """The modules of one pass."""
    columns = (
        f"{name} by module",
        ">stages",
        ">least PCC",
        ">max abs",
        ">rel. norm",
        ">chain rel.",
        "verdict",
    )
    return Table(columns, tuple(module_row(module) for module in modules))


def module_row(module: Values) -> tuple[str, ...]:
    """One module in words."""
    bad, count = module["not_good"], module["stages"]
    each = f"{bad} of {count} not good, first {module['first_not_good']}" if count > 1 else "not good"
    return (
        module["module"],
        str(count),
        "" if module["pcc"] is None else f"{module['pcc']:.6f}",
        small(module["max_abs"]),
        small(module["relative_norm"]),
        small(module["chained_relative_norm"]),
        each if bad else "good",
    )


def row(stage: Values) -> tuple[str, ...]:
    """One stage in words."""
    alone, chain = stage["isolated"] or {}, stage["chained"] or {}
    return (
        stage["stage"],
        "x".join(map(str, stage["shape"])),
        correlation(alone),
        small(alone.get("max_abs")),
        small(alone.get("relative_norm")),
        correlation(chain),
        small(chain.get("relative_norm")),
        stage["verdict"] + (f": {stage['problem']}" if stage["problem"] else ""),
    )


def correlation(distance: Values) -> str:
    """A PCC, as many digits as tell it from 1; `constant` where there is none."""
    if not distance:
        return ""
    if distance["not_finite"]:
        return f"{distance['not_finite']} NaN/Inf"
    pcc = distance["pcc"]
    return "constant" if pcc is None else f"{pcc:.6f}"


def small(value: float | None) -> str:
    """A distance: its size matters, not its digits."""
    return "" if value is None else "0" if value == 0 else f"{value:.1e}"


def _verdict(values: Values) -> Page:
    first = values["first_divergent"]
    stages: Sequence[Values] = values["stages"]
    if first is None:
        return [Line(f"good: all {len(stages)} stages are as the reference has them", "good")]
    bad = sum(stage["verdict"] != "good" for stage in stages)
    one = next(s for s in stages if (s["pass"], s["stage"]) == (first["pass"], first["stage"]))
    return [
        Line(f"{bad} of {len(stages)} stages are not good", "error"),
        Line(f"first divergent stage: {first['stage']} ({first['pass']}): {one['verdict']}", "error"),
    ]
