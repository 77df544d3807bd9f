"""Which layouts can hold which of the tiny models."""

from contextlib import suppress

from dovetail.errors import UsageError
from files import MODELS, plan_of


def homes(id: str, number: int) -> list[str]:
    """The layouts that can be written and have a place for a whole model of MODELS."""
    plan = plan_of(id, MODELS[id][number])
    usual = {
        name for name in next(iter(plan.family.sizes.values()), {}) if "." not in name
    }  # as `make` fills in
    found = []
    for layout in plan.family.layouts:
        with suppress(UsageError):
            if layout.is_writable and plan.kinds.keys() | usual <= layout.mounts.keys():
                list(plan.stored(layout))
                found.append(layout.id)
    return found
