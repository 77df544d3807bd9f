"""The config of a model: each value with its source and evidence.

Shapes come first. A stamp or a config file settles only what shapes leave open, before a published size
and a labelled convention; where they contradict a shape, or each other, both are named. What nothing
settles is listed as undetermined.
"""

from collections.abc import Iterable, Mapping

from dovetail.declare.family import Family
from dovetail.declare.part import Derived, LayerKinds, Part, Setting
from dovetail.dims import Size, Solver, Source
from dovetail.errors import listed
from dovetail.explain.detect import Explanation
from dovetail.explain.documents import GIVEN, Documents, Found, Side
from dovetail.explain.flags import flag_values
from dovetail.explain.match import PartMatch
from dovetail.explain.sizes import Inference
from dovetail.explain.trust import judged
from dovetail.report import Finding, Value


def fill_config(
    one: Explanation, inference: Inference, *, documents: Documents
) -> tuple[dict[str, Value], list[Finding]]:
    """Every dim and setting of every part, by `role.name`, and what contradicts what."""
    said: set[tuple[str, str]] = set()  # two parts that share a size have one quarrel with a config
    parts = [
        _PartConfig(role, match, one=one, inference=inference, documents=documents, said_before=said)
        for role, match in one.roles.items()
    ]
    for part in parts:
        part.settle()
    for part in parts:
        part.assume()
    values: dict[str, Value] = {}
    findings: list[Finding] = []
    for part in parts:
        values |= (
            part.dims()
            | part.derived()
            | part.subsets()
            | part.flags()
            | part_settings(part.role, part.part, one.family, documents, part.findings)
        )
        part.check_equations()
        part.check_layers()
        part.check_published()
        part.check_kind(one.family.parts[part.role])
        findings += part.findings
    is_cut_out = len(one.roles) == 1 < len(one.family.parts) - len(one.family.optional)
    if is_cut_out:
        return values, findings
    settings = family_settings(one.family, documents, findings)
    implied = {name: value for name, value in _implied(one).items() if settings[name].source in _ASSUMED}
    return values | settings | implied, findings


def _implied(one: Explanation) -> dict[str, Value]:
    """What the names of the file say of the tool that wrote it."""
    if not isinstance(one.layout, str):
        return {}
    implies = one.family.layout(one.layout).implies.items()
    return {name: Value(value, "weights", f"the names of layout {one.layout}") for name, value in implies}


def family_settings(
    family: Family, documents: Documents, findings: list[Finding] | None = None
) -> dict[str, Value]:
    """What no weight shows and no single part owns; `findings` gets what is said in two ways."""
    values = {
        setting.name: _setting(setting, setting.name, documents, ("",), findings)
        for setting in family.settings
    }
    quiet = {setting.name for setting in family.settings if setting.is_quiet}
    return {name: value for name, value in values.items() if name not in quiet or value.source != "default"}


def part_settings(
    role: str, part: Part, family: Family, documents: Documents, findings: list[Finding] | None = None
) -> dict[str, Value]:
    """What the kind of a part says by itself, and what no weight shows of it.

    `findings` gets what is said in two ways.
    """
    evidence = f"the names of a {part.id}"
    values = {
        f"{role}.{name}": Value(value, "weights", evidence) for name, value in part.facts.constants.items()
    }
    named = [(f"{role}.{setting.name}", setting) for setting in part.facts.settings]
    if "vocab" in part.dims and documents.stamped(f"{role}.{USED.name}"):
        named.append((f"{role}.{USED.name}", USED))
    roots = family.config.roots.get(role, ("",))
    for name, setting in named:
        if not setting.when or values[f"{role}.{setting.when}"].value:
            values[name] = _setting(setting, name, documents, roots, findings)
    return values


def _setting(
    setting: Setting, name: str, documents: Documents, roots: tuple[str, ...], findings: list[Finding] | None
) -> Value:
    said = [
        one._replace(value=setting.means(one.value)) if setting.means and one.source == "config" else one
        for one in documents.said(name, setting.spellings, roots)
    ]
    if findings is not None:
        others = {one.side: one for one in reversed(said[1:]) if one.side != said[0].side}
        findings += [
            _two_ways(name, said[0], one, documents)
            for one in others.values()
            if not _is_same(said[0].value, one.value)
        ]
    if said:
        return Value(said[0].value, said[0].source, said[0].place)
    if setting.null is not None and (where := documents.null_at(setting.spellings, roots)):
        return Value(setting.null, "config", f"{where} = null")
    if setting.unsaid is not None and (kind := documents.model_type):
        return Value(setting.unsaid, "default", f"what transformers takes where a config ({kind}) is silent")
    if setting.default is not None:
        return Value(setting.default, "default", setting.why)
    return Value(None, "undetermined", "weights cannot show it")


def _is_same(a: object, b: object) -> bool:
    """Whether two values mean the same: a list is a tuple, and what is empty is not there.

    Of two maps the keys that both have count, but for those that are settings of their own.
    """
    if isinstance(a, dict) and isinstance(b, dict):
        return all(a[key] == b[key] for key in (a.keys() & b.keys()) - _APART)
    return a == b or (not a and not b and not isinstance(a, bool) and not isinstance(b, bool))


def _two_ways(name: str, kept: Found, found: Found, documents: Documents) -> Finding:
    """Certificate, config and caller say different things of what no weight shows."""
    finding = Finding(
        code=f"{found.side}-conflict",
        severity="error",
        part=name.rpartition(".")[0] or None,
        message=f"{name} is {kept.value} in {kept.place} and {found.value} in {found.place}",
    )
    return judged(finding, kept=kept.side, found=found, documents=documents)


_ASSUMED = ("default", "undetermined")

# `rope_parameters` of transformers 5 have what `rope_theta` was before.
_APART = frozenset({"rope_theta"})

# How many token rows are tokens, where a table has rows of padding.
USED = Setting("vocab_used", ())


class _PartConfig:
    """The config of one part, being filled."""

    def __init__(
        self,
        role: str,
        match: PartMatch,
        *,
        one: Explanation,
        inference: Inference,
        documents: Documents,
        said_before: set[tuple[str, str]],
    ) -> None:
        self.role = role
        self.match = match
        self.part: Part = match.part
        self.keys = one.family.config
        self.roots = one.family.config.roots.get(role, ("",))
        self.inference = inference
        self.solver: Solver = inference.solver
        self.documents = documents
        self.findings: list[Finding] = []
        self.said_before = said_before

    def size(self, dim: str) -> Size | None:
        """What is known of a dim."""
        return self.solver.get(f"{self.role}.{dim}")

    def settle(self) -> None:
        """Gives every open dim a value from the first source that has one that fits."""
        for dim in self.part.dims:
            for found in self.said(dim) if self.size(dim) is None else ():
                if self._assign(dim, found.value, found.source, found.place):
                    break
                self.said_before.add((self.solver.root(f"{self.role}.{dim}"), found.place))
                self.findings.append(self._impossible(dim, found))

    def assume(self) -> None:
        """Gives every dim that is open still what a published size or a convention has."""
        for dim in self.part.dims:
            if self.size(dim) is None:
                self._default(dim)

    def said(self, dim: str) -> list[Found]:
        """What the caller, the stamp and the config files say about a dim, what counts first."""
        said = self.documents.said(f"{self.role}.{dim}", self.part.facts.spellings.get(dim, ()), self.roots)
        if not any(one.side == "config" for one in said) and (preset := self._preset(dim)):
            return self.documents.ranked([*said, preset])
        return said

    def _preset(self, dim: str) -> Found | None:
        """A dim of a size that the config names: openpi's `paligemma_variant: gemma_2b`."""
        key = self.keys.presets.get(self.role)
        named = self.documents.find((key,), ("",)) if key else None
        size = self.part.facts.sizes.get(str(named.value)) if named else None
        if named is None or size is None or dim not in size:
            return None
        return Found(size[dim], named.document, f"{key} = {named.value}")

    def _assign(self, dim: str, value: object, source: Source, evidence: str) -> bool:
        if type(value) is not int or value < 1:
            return False
        divides = self.part.facts.open_dims.get(dim)
        whole = self.size(divides) if divides else None
        if whole is not None and whole.value % value:
            return False
        return self.solver.assign(f"{self.role}.{dim}", value, source=source, evidence=evidence)

    def _default(self, dim: str) -> None:
        facts = self.part.facts
        for name, size in facts.sizes.items():
            if (
                dim in size
                and self._is_like(size)
                and self._assign(dim, size[dim], "default", f"as in {name}")
            ):
                return
        for name, value, why in facts.conventions:
            if name == dim and self._assign(dim, value, "default", why):
                return

    def _is_like(self, size: Mapping[str, int]) -> bool:
        """Whether all that the weights decide agrees with a published size, but for how long and how wide
        its tables are."""
        known = {dim: self.size(dim) for dim in size if dim not in ("vocab", "layers", "positions")}
        decided = {
            dim: found for dim, found in known.items() if found is not None and found.source == "weights"
        }
        return bool(decided) and all(found.value == size[dim] for dim, found in decided.items())

    def dims(self) -> dict[str, Value]:
        """Every dim, compared with what is said about it."""
        values = {}
        for dim in self.part.dims:
            size = self.size(dim)
            name = f"{self.role}.{dim}"
            if size is None:
                values[name] = self._undetermined(dim)
                continue
            values[name] = Value(size.value, size.source, self.inference.evidence(self.role, size))
            said = self.said(dim)
            for found in said[:1] if dim == "vocab" else said:
                cause = (self.solver.root(name), found.place)
                if dim == "vocab" and type(found.value) is int and 0 < found.value < size.value:
                    values[f"{self.role}.vocab_used"] = Value(found.value, found.source, found.place)
                if type(found.value) is int and found.value != size.value and cause not in self.said_before:
                    self.said_before.add(cause)
                    self.findings.append(self._contradiction(dim, size, found))
        return values

    def derived(self) -> dict[str, Value]:
        """Values that follow from sizes, such as Mamba's `expand`."""
        sizes = {dim: size.value for dim in self.part.dims if (size := self.size(dim))}
        values = {}
        for rule in self.part.facts.derived:
            if any(dim not in sizes for dim in rule.needs):
                continue
            value, evidence = rule.compute(sizes)
            values[f"{self.role}.{rule.name}"] = Value(value, "weights", evidence)
            for found in self.documents.said(f"{self.role}.{rule.name}", rule.spellings, self.roots):
                if not rule.agrees(found.value, sizes):
                    self.findings.append(self._derived_conflict(rule, value, found))
        return values

    def subsets(self) -> dict[str, Value]:
        """Which layers have the leaves that only some layers have."""
        values = {}
        for stack, indices in self.match.stacks.items():
            for position, key in enumerate(stack):
                index, _, subset = key.partition(":")
                if subset:
                    members = sorted({values[position] for values in indices})
                    name = f"{self.role}.{subset}_{self.part.count_name(index)}"
                    values[name] = Value(members, "weights", f"{listed(members, 4)} have these tensors")
        return values

    def flags(self) -> dict[str, Value]:
        """Optional tensors that a config grants."""
        values, findings = flag_values(self.role, self.match, self.roots, self.documents)
        self.findings += findings
        return values

    def check_equations(self) -> None:
        """What a convention says of two sizes; a model that departs from it must say so."""
        for left, right in self.part.equations():
            size = self.size(left)
            scoped = right.rename(lambda dim: self.solver.root(f"{self.role}.{dim}"))
            try:
                value = scoped.evaluate(self.solver.values())
            except KeyError:
                continue
            if size is not None and size.value != value:
                self.findings.append(
                    Finding(
                        code="equation",
                        severity="warning",
                        part=self.role,
                        message=f"{self.role}.{left} is {size.value}, by convention {right} = {value}",
                        tensors=size.evidence[:1],
                        hint=f"whoever rebuilds the module must be told {left} = {size.value}",
                    )
                )

    def check_published(self) -> None:
        """What a config says of heads, where all sizes are those of a published model that has others."""
        alike = {name: size for name, size in self.part.facts.sizes.items() if self._is_like(size)}
        for dim in self.part.dims:
            size = self.size(dim)
            usual = {one[dim]: name for name, one in alike.items() if dim in one}
            if size and size.source in ("config", "stamp") and usual and size.value not in usual:
                value, name = next(iter(usual.items()))
                finding = Finding(
                    code="other-heads",
                    severity="warning",
                    part=self.role,
                    message=f"{self.role}.{dim} is {size.value} in {size.evidence[0]}, and {value} in "
                    f"{name}, whose sizes these are",
                    hint="no weight shows it, and with another number a model computes something else",
                )
                self.findings.append(finding)

    def check_layers(self) -> None:
        """Every layer is of one kind, the one that a config says."""
        members = {name: value.value for name, value in self.subsets().items()}
        for rule in self.part.facts.layer_kinds:
            count = self.size(self.part.count_name(rule.over))
            words = self.part.kinds_of(rule)
            found: dict[int, list[str]] = {}
            for name, word in words.items():
                for member in members.get(f"{self.role}.{name}", ()):
                    found.setdefault(member, []).append(word)
            said = self.documents.find((rule.spelling,), self.roots)
            for member in range(count.value if count else 0):
                of = found.get(member, [])
                if len(of) != 1:
                    what = "of no kind" if not of else f"{' and '.join(of)} at once"
                    known = f"one of {', '.join(words.values())}"
                    self.findings.append(self._kind_finding(rule, member, what, known))
                elif said and isinstance(said.value, list) and said.value[member : member + 1] != of:
                    there = said.value[member] if member < len(said.value) else "not there"
                    found_here = self._kind_finding(
                        rule, member, f"{of[0]} by its tensors", f"{there} in {said.place}"
                    )
                    self.findings.append(self._judged(found_here, said))

    def check_kind(self, kinds: Iterable[Part]) -> None:
        """Of several kinds of a part, the tensors are of the one that certificate and config name."""
        mine, kinds = self.part, tuple(kinds)
        told = self.documents.kind(self.role)
        is_told = told is not None and told.side == "set" and told.value == mine.id
        said = [
            found
            for found, named in self.documents.named_kinds(kinds, self.roots)
            if not any(part.id == mine.id for part in named)
        ]
        if told and told.value != mine.id and any(part.id == told.value for part in kinds):
            said.append(told)
        for found in said:
            finding = Finding(
                code=f"{found.side}-conflict",
                severity="error",
                part=self.role,
                message=f"{self.role} is a {mine.id} by its tensors (`{self.match.mount.prefix}*`) and a "
                f"{found.value} in {found.place}",
            )
            kept: Side = "set" if is_told else "weights"
            self.findings.append(judged(finding, kept=kept, found=found, documents=self.documents))

    def _judged(self, finding: Finding, found: Found) -> Finding:
        """A contradiction between the weights and what is said, with the way on."""
        return judged(finding, kept="weights", found=found, documents=self.documents)

    def _kind_finding(self, rule: LayerKinds, member: int, found: str, expected: str) -> Finding:
        """What is said of a layer; its tensors, and those of any kind that it might have."""
        mine = [
            (dict(zip(row.row.stored.fields, index, strict=True)).get(rule.over), name)
            for row in self.match.rows
            for index, name in row.tensors.items()
        ]
        possible = [
            name
            for row in self.match.rows
            if row.stack in {(f"{rule.over}:{kind}",) for kind in rule.words}
            for name in row.names([(member,)])
        ]
        return Finding(
            code="layer-kind",
            severity="error",
            part=self.role,
            message=f"{rule.over} {member} of {self.role} is {found}, expected {expected}",
            tensors=tuple(dict.fromkeys([*(name for at, name in mine if at == member), *possible])),
            hint="tensors of the layer may be lost or of another model",
        )

    def _contradiction(self, dim: str, size: Size, found: Found) -> Finding:
        name = f"{self.role}.{dim}"
        if dim == "vocab" and size.source == "weights" and found.value < size.value:
            rows = size.value - found.value
            return Finding(
                code="padded-vocab",
                severity="note",
                part=self.role,
                message=f"{rows} of {size.value} token rows are padding: {found.place} says {found.value}",
                tensors=size.evidence[:1],
                hint="padded rows must be masked when sampling",
            )
        proof = {
            "weights": f"in the weights (`{size.evidence[0]}`)",
            "default": f"by default ({size.evidence[0]})",
        }.get(size.source, f"in {size.evidence[0]}")
        finding = Finding(
            code=f"{found.side}-conflict",
            severity="error",
            part=self.role,
            message=f"{name} is {size.value} {proof} and {found.value} in {found.place}",
            tensors=size.evidence[:1] if size.source == "weights" else (),
        )
        return judged(finding, kept=self._side(size), found=found, documents=self.documents)

    def _side(self, size: Size) -> Side:
        """Who says a size; what follows from what the caller says is the caller's."""
        if size.source == "config":
            return "config"
        if size.source == "stamp":
            is_given = self.documents.stamp is None or size.evidence[0].startswith(GIVEN)
            return "set" if is_given else "stamp"
        return "weights"

    def _derived_conflict(self, rule: Derived, value: object, found: Found) -> Finding:
        finding = Finding(
            code=f"{found.side}-conflict",
            severity="error",
            part=self.role,
            message=f"{self.role}.{rule.name} is {value} by the weights and {found.value} in {found.place}",
        )
        return self._judged(finding, found)

    def _impossible(self, dim: str, found: Found) -> Finding:
        whole = self.size(self.part.facts.open_dims.get(dim, ""))
        divides = f"{self.role}.{self.part.facts.open_dims[dim]} = {whole.value}" if whole else ""
        known = self._known_product(dim) or divides
        but = f"; the weights say {known}" if known else ""
        finding = Finding(
            code=f"{found.side}-conflict",
            severity="error",
            part=self.role,
            message=f"{self.role}.{dim} cannot be {found.value!r} as {found.place} says{but}",
        )
        return self._judged(finding, found)

    def _undetermined(self, dim: str) -> Value:
        known = self._known_product(dim)
        return Value(
            None, "undetermined", f"the weights only say {known}" if known else "weights cannot show it"
        )

    def _known_product(self, dim: str) -> str:
        """`q_heads head_dim = 1536`, or nothing."""
        product = self.solver.open.get(self.solver.root(f"{self.role}.{dim}"))
        size = self.solver.products.get(product.terms[0][1]) if product else None
        return f"{product} = {size.value}" if size else ""
