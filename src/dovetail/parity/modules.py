"""The stages of a verification by module: patch embedding, 27 blocks, projector, prefix, head …

A stage belongs to the module that its name leads to; the blocks of a part are one.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dovetail.parity.verify import StageResult

_BLOCK = re.compile(r"(.*)\.blocks\.\d+")
_WORDS = {
    "patch_embed": "patch embedding",
    "embed": "token embedding",
    "norm": "last norm",
    "pool": "pooling head",
}
# What people call a part where a policy has several.
_PARTS = {"vlm": "VLM", "expert": "action expert"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleResult:
    """The stages of one module in one pass: how many there are, how many are not good, and the worst of them.

    `pcc` is the least, `max_abs` and `relative` the largest of isolated stages; `chained` is the relative
    norm of the last in the chain. None where no stage has one.
    """

    passed: str
    name: str
    count: int
    num_bad: int
    pcc: float | None
    max_abs: float | None
    relative: float | None
    chained: float | None
    first_bad: str | None

    def as_json(self) -> dict[str, Any]:
        """The module as plain JSON values."""
        return {
            "pass": self.passed,
            "module": self.name,
            "stages": self.count,
            "not_good": self.num_bad,
            "first_not_good": self.first_bad,
            "pcc": self.pcc,
            "max_abs": self.max_abs,
            "relative_norm": self.relative,
            "chained_relative_norm": self.chained,
        }


def modules_of(stages: Sequence["StageResult"]) -> tuple[ModuleResult, ...]:
    """The modules of a verification, in the order of their first stages."""
    grouped: dict[tuple[str, str], list[StageResult]] = {}
    for stage in stages:
        grouped.setdefault((stage.passed, _key(stage.name)), []).append(stage)
    return tuple(_module(passed, key, of) for (passed, key), of in grouped.items())


def _key(stage: str) -> str:
    """What the stages of a module have in common."""
    name = stage.partition("#")[0]
    block = _BLOCK.fullmatch(name)
    return f"{block[1]}.blocks" if block else name


def _module(passed: str, key: str, stages: Sequence["StageResult"]) -> ModuleResult:
    alone = [one.isolated.as_json() for one in stages if one.isolated is not None]
    bad = [one for one in stages if not one.is_good]
    chained = stages[-1].chained
    return ModuleResult(
        passed=passed,
        name=module_name(key, len({one.name.partition("#")[0] for one in stages})),
        count=len(stages),
        num_bad=len(bad),
        pcc=min((one["pcc"] for one in alone if one["pcc"] is not None), default=None),
        max_abs=max((one["max_abs"] for one in alone if one["max_abs"] is not None), default=None),
        relative=max(
            (one["relative_norm"] for one in alone if one["relative_norm"] is not None), default=None
        ),
        chained=chained.as_json()["relative_norm"] if chained is not None else None,
        first_bad=bad[0].name if bad else None,
    )


def module_name(key: str, count: int = 1) -> str:
    """What people call a module.

    >>> module_name("vision.blocks", 27), module_name("vlm.embed"), module_name("projector")
    ('vision: 27 blocks', 'VLM: token embedding', 'projector')
    """
    role, _, rest = key.partition(".")
    part = _PARTS.get(role, role)
    if not rest:
        return part
    word = f"{count} block{'s' * (count > 1)}" if rest == "blocks" else _WORDS.get(rest, rest)
    return f"{part}: {word}"
