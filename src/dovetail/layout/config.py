"""The config of a model: each value with its source and evidence.

Shapes come first. A stamp or a config file settles only what shapes leave open, before a published size
and a labelled convention; where they contradict a shape, both are named. What nothing settles is listed
as undetermined.
"""

from collections.abc import Iterator
from typing import Any

from dovetail.dims import Size, Solver
from dovetail.errors import listed
from dovetail.layout.detect import Explanation
from dovetail.layout.documents import Documents, Found
from dovetail.layout.infer import Inference
from dovetail.layout.match import PartMatch
from dovetail.layout.part import Part
from dovetail.report import Finding, Value


def fill_config(
    one: Explanation, inference: Inference, documents: Documents, findings: list[Finding]
) -> dict[str, Value]:
    """Every dim and setting of every part, by `role.name`."""
    solver = inference.solver
    config: dict[str, Value] = {}
    for role, match in one.roles.items():
        _settle(one, role, match, solver, documents, findings)
    for role, match in one.roles.items():
        part = match.part
        for dim in part.dims:
            name = f"{role}.{dim}"
            size = solver.get(name)
            if size is not None:
                config[name] = Value(
                    value=size.value, source=size.source, evidence=inference.evidence(role, size)
                )
                _check_documents(one, role, part, dim, size, documents, findings)
            else:
                config[name] = _undetermined(solver, name)
        _check_equations(role, part, solver, findings)
        config |= _extras(one, role, match, solver, documents)
    return config


def _settle(
    one: Explanation,
    role: str,
    match: PartMatch,
    solver: Solver,
    documents: Documents,
    findings: list[Finding],
) -> None:
    """Gives every open dim of a part a value from the first source that has one that fits."""
    part = match.part
    for dim in part.dims:
        name = f"{role}.{dim}"
        if solver.get(name) is not None:
            continue
        for found, source in _outside(one, role, part, dim, documents):
            if _assign(solver, role, part, dim, found.value, source, found.place):
                break
            if source in ("stamp", "config"):
                findings.append(_impossible(role, dim, found, solver))
        else:
            _default(solver, role, part, dim)


def _outside(
    one: Explanation, role: str, part: Part, dim: str, documents: Documents
) -> Iterator[tuple[Found, Any]]:
    if stamped := documents.stamped(f"{role}.{dim}"):
        yield stamped, "stamp"
    if found := find_dim(one, role, part, dim, documents):
        yield found, "config"


def find_dim(one: Explanation, role: str, part: Part, dim: str, documents: Documents) -> Found | None:
    """What the config files say about a dim of a part."""
    roots = one.family.config.roots.get(role, ("",))
    if found := documents.find(part.facts.spellings.get(dim, ()), roots):
        return found
    preset = one.family.config.presets.get(role)
    named = documents.find((preset,), ("",)) if preset else None
    size = part.facts.sizes.get(str(named.value)) if named else None
    return (
        Found(size[dim], named.document, f"{preset} = {named.value}")
        if named and size and dim in size
        else None
    )


def _assign(solver: Solver, role: str, part: Part, dim: str, value: Any, source: Any, evidence: str) -> bool:
    if type(value) is not int or value < 1:
        return False
    divides = part.facts.open_dims.get(dim)
    whole = solver.get(f"{role}.{divides}") if divides else None
    if whole is not None and whole.value % value:
        return False
    return solver.assign(f"{role}.{dim}", value, source, evidence)


def _default(solver: Solver, role: str, part: Part, dim: str) -> None:
    for size_name, size in part.facts.sizes.items():
        known = {d: solver.get(f"{role}.{d}") for d in size if d not in ("vocab", "layers", "positions")}
        agree = [d for d, found in known.items() if found is not None and found.source == "weights"]
        fits = agree and all(known[d].value == size[d] for d in agree)  # type: ignore[union-attr]
        if (
            fits
            and dim in size
            and _assign(solver, role, part, dim, size[dim], "default", f"as in {size_name}")
        ):
            return
    for name, value, why in part.facts.conventions:
        if name == dim and _assign(solver, role, part, dim, value, "default", why):
            return


def _check_documents(
    one: Explanation,
    role: str,
    part: Part,
    dim: str,
    size: Size,
    documents: Documents,
    findings: list[Finding],
) -> None:
    if size.source != "weights":
        return
    for found, source in _outside(one, role, part, dim, documents):
        if found.value == size.value or type(found.value) is not int:
            continue
        if dim == "vocab" and found.value < size.value:
            findings.append(_padded(role, found, size))
            continue
        findings.append(
            Finding(
                code=f"{source}-conflict",
                severity="error",
                part=role,
                message=f"{role}.{dim} is {size.value} in the weights (`{size.evidence[0]}`) and {found.value} in {found.place}",
                tensors=(size.evidence[0],),
                hint=f"correct {found.document}, or find the weights that it describes",
            )
        )


def _padded(role: str, found: Found, size: Size) -> Finding:
    rows = size.value - found.value
    return Finding(
        code="padded-vocab",
        severity="note",
        part=role,
        message=f"{rows} rows of the token table are padding: {size.value} rows, {found.value} tokens ({found.place})",
        tensors=(size.evidence[0],),
        hint="padded rows must be masked when sampling",
    )


def _impossible(role: str, dim: str, found: Found, solver: Solver) -> Finding:
    product = solver.open.get(solver.root(f"{role}.{dim}"))
    known = solver.products.get(product.terms[0][1]) if product else None
    why = f"; the weights say {product} = {known.value}" if product and known else ""
    return Finding(
        code="config-conflict",
        severity="error",
        part=role,
        message=f"{role}.{dim} cannot be {found.value!r} as {found.place} says{why}",
        hint=f"correct {found.document}",
    )


def _check_equations(role: str, part: Part, solver: Solver, findings: list[Finding]) -> None:
    for left, right in part.equations():
        size = solver.get(f"{role}.{left}")
        try:
            value = right.rename(lambda dim: solver.root(f"{role}.{dim}")).evaluate(solver.values())
        except KeyError:
            continue
        if size is not None and size.value != value:
            findings.append(
                Finding(
                    code="equation",
                    severity="warning",
                    part=role,
                    message=f"{role}.{left} is {size.value}, by convention {right} = {value}",
                    tensors=size.evidence[:1],
                    hint=f"whoever rebuilds the module must be told {left} = {size.value}",
                )
            )


def _extras(
    one: Explanation, role: str, match: PartMatch, solver: Solver, documents: Documents
) -> dict[str, Value]:
    """What is not a dim: constants of the kind, derived values, settings that no weight shows."""
    part = match.part
    found = {
        f"{role}.{name}": Value(value=value, source="weights", evidence=f"the names of a {part.id}")
        for name, value in part.facts.constants.items()
    }
    sizes = {dim: size for dim in part.dims if (size := solver.get(f"{role}.{dim}"))}
    for derive in part.facts.derived:
        if derived := derive(sizes):
            found[f"{role}.{derived[0]}"] = derived[1]
    roots = one.family.config.roots.get(role, ("",))
    for setting in part.facts.settings:
        name = f"{role}.{setting.name}"
        stamped, configured = documents.stamped(name), documents.find(setting.spellings, roots)
        if stamped:
            found[name] = Value(value=stamped.value, source="stamp", evidence=stamped.place)
        elif configured:
            found[name] = Value(value=configured.value, source="config", evidence=configured.place)
        elif setting.default is not None:
            found[name] = Value(value=setting.default, source="default", evidence=setting.why)
        else:
            found[name] = Value(value=None, source="undetermined", evidence="weights cannot show it")
    for stack, indices in match.stacks.items():
        found |= {
            f"{role}.{subset}_{match.part.count_name(index)}": _subset(indices, position)
            for position, key in enumerate(stack)
            for index, _, subset in [key.partition(":")]
            if subset
        }
    return found


def _subset(indices: frozenset[tuple[int, ...]], position: int) -> Value:
    members = sorted({index[position] for index in indices})
    return Value(value=members, source="weights", evidence=f"{listed(members, 4)} hold these tensors")


def _undetermined(solver: Solver, name: str) -> Value:
    product = solver.open.get(solver.root(name))
    known = solver.products.get(product.terms[0][1]) if product else None
    why = f"the weights only say {product} = {known.value}" if product and known else "weights cannot show it"
    return Value(value=None, source="undetermined", evidence=why)
