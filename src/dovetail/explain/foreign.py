"""What lies inside a part and is not of it: the sign that a model is another one.

A decoder whose layers have one norm more than Qwen3 is not a Qwen3 with something beside it. Adapters and the
scales of quantised weights are no such sign: they are set aside before (`adapters`, `quantised`).
"""

from collections.abc import Iterable, Iterator

from dovetail.explain.match import RowMatch
from dovetail.names import star


def inside(rows: Iterable[RowMatch], stars: Iterable[str]) -> Iterator[str]:
    """Those of some stars, which no row has, that lie in a layer or a module that the rows are in."""
    layers: set[str] = set()
    modules: set[str] = set()
    for row in rows:
        head, has_index, _ = row.text.partition("{")
        if has_index:
            layers.add(star(f"{head}0."))
        else:
            modules.add(star(row.text).rpartition(".")[0])
    modules.discard("")
    starts = tuple(layers)
    for one in stars:
        is_inside = one.startswith(starts) or one.rpartition(".")[0] in modules
        if is_inside:
            yield one
