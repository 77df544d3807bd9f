"""`split`: one model over several machines, each with a contiguous run of its layers.

The first node has everything before the layers (vision, projector, token table), the last one what comes
after them (norm, head). A tied head is written out on the last node, which has no token table. Layers
keep their numbers, but in LitGPT's chunks, whose tools count from 0 in every file. Each node has a
certificate that says which part of which model it is: `merge` demands that they fit.

Source of the chunk names: MDI-LLM@d647b97 `prepare_model.py` and system 2's fork (`finisher`).
"""

import os
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from dovetail.checkpoint import Checkpoint, Path, opened
from dovetail.declare.family import Layout, Pipeline
from dovetail.edit.conversion import (
    Conversion,
    Words,
    cast_leaves,
    format_of,
    kept_leaves,
    target,
    target_layout,
    words_of,
)
from dovetail.edit.convert import plan_of
from dovetail.edit.plan import Output, Plan
from dovetail.edit.side_files.carried import side_files
from dovetail.edit.write.certificate import certificate_name
from dovetail.edit.write.execute import Done, Progress, Writing, execute
from dovetail.edit.write.files import DEFAULT_SHARD, OutputFile, output_files
from dovetail.errors import UsageError
from dovetail.weights.lay_out import lay_out
from dovetail.weights.leaf import Leaf
from dovetail.weights.ties import tied_copies

_NO_CHANGES = Conversion()


class Stage(NamedTuple):
    """What one node has: its leaves, and its layers as numbered in the whole model.

    `receives` are, of each role that the pipeline carries, the outputs that come with the stream, because
    a layer here or further on adds them.
    """

    number: int
    of: int
    layers: range
    leaves: list[Leaf]
    receives: Mapping[str, list[int]]

    @property
    def is_first(self) -> bool:
        """Whether it takes the input."""
        return self.number == 0

    @property
    def is_last(self) -> bool:
        """Whether it gives the output."""
        return self.number == self.of - 1

    @property
    def roles(self) -> list[str]:
        """The parts that it has something of."""
        return list(dict.fromkeys(leaf.role for leaf in self.leaves))


def split(
    checkpoint: Path,
    out: Path,
    *,
    nodes: int | None = None,
    layers: Sequence[int] | None = None,
    to: str | None = None,
    format: str | None = None,
    max_shard_size: int = DEFAULT_SHARD,
    dtype: Words = (),
    as_: str | None = None,
    trust: str | None = None,
    set: Mapping[str, Any] | None = None,
    allow: Words = (),
    overwrite: bool = False,
    resume: bool = False,
    sync: bool = True,
    progress: Progress | None = None,
) -> Done:
    """Writes a model as one folder for each node, or as LitGPT chunks.

    `nodes` are balanced by bytes; `layers` says instead how many layers each node has. All other words
    are those of `convert`.

    Raises:
        CheckpointError: the source is of no known family, damaged, or changes meanwhile.
        UsageError: the numbers do not fit the model, or `out` exists.
        WriteError: there is no room or no permission; what was written is kept for `resume`.
    """
    asked = Conversion(to, format, max_shard_size, words_of(dtype), allow=words_of(allow))
    with opened(checkpoint, as_=as_, given=set, trust=trust, allow=asked.allow, to_be="changed") as source:
        plan = split_plan(source, asked, nodes=nodes, layers=layers)
        return execute(plan, os.fspath(out), Writing(overwrite, resume, sync), progress)


def plan_split(
    checkpoint: Path,
    *,
    nodes: int | None = None,
    layers: Sequence[int] | None = None,
    to: str | None = None,
    format: str | None = None,
    max_shard_size: int = DEFAULT_SHARD,
    dtype: Words = (),
    as_: str | None = None,
    trust: str | None = None,
    set: Mapping[str, Any] | None = None,
    allow: Words = (),
) -> Plan:
    """What `split` would write, from headers alone.

    Raises:
        CheckpointError: the source is of no known family, or damaged.
        UsageError: the numbers do not fit the model.
    """
    asked = Conversion(to, format, max_shard_size, words_of(dtype), allow=words_of(allow))
    with opened(checkpoint, as_=as_, given=set, trust=trust, allow=asked.allow, to_be="changed") as source:
        return split_plan(source, asked, nodes=nodes, layers=layers)


def split_plan(
    source: Checkpoint,
    asked: Conversion = _NO_CHANGES,
    *,
    nodes: int | None = None,
    layers: Sequence[int] | None = None,
) -> Plan:
    """What a split of an opened checkpoint writes.

    Raises:
        UsageError: the numbers do not fit the model.
    """
    layout = target_layout(source, asked.to)
    leaves, dropped = kept_leaves(source, layout, asked.without)
    leaves, lossy = cast_leaves(leaves, asked.dtypes, allow=asked.allow)
    stages = staged(source, leaves, nodes=nodes, layers=layers)
    is_chunked = layout.container.has_litgpt_config
    outputs = [_chunk(source, layout, stage) for stage in stages] if is_chunked else []
    if is_chunked:
        outputs.append(Output((), layout.id, side_files(source, layout, leaves), certificate=""))
    else:
        texts = side_files(source, layout, leaves)
        outputs = [_node(source, layout, stage, asked)._replace(side_files=texts) for stage in stages]
    return plan_of("split", source, tuple(outputs), config=source.report.config, dropped=dropped, lossy=lossy)


def staged(
    source: Checkpoint,
    leaves: list[Leaf],
    *,
    nodes: int | None = None,
    layers: Sequence[int] | None = None,
) -> list[Stage]:
    """The leaves of a model dealt out to nodes, with the copies that the last one needs.

    Raises:
        UsageError: the numbers do not fit the model.
    """
    pipeline = source.family.pipeline
    per_layer: dict[int, list[Leaf]] = {}
    first: list[Leaf] = []
    last: list[Leaf] = []
    for leaf in leaves:
        if leaf.role in pipeline.spine and "layer" in leaf.indices:
            per_layer.setdefault(leaf.indices["layer"], []).append(leaf)
        else:
            (last if pipeline.is_last(leaf.name) else first).append(leaf)
    if not per_layer:
        raise UsageError(
            f"{source.family.id} has no layers here that could be dealt out",
            hint="only models with a decoder are split; `dovetail convert` moves the others",
        )
    if len(layers or (1,) * (nodes or 0)) > 1:
        last += tied_copies(source.family, leaves)
    sizes = [sum(one.size for one in per_layer[layer]) for layer in sorted(per_layer)]
    ends = sum(one.size for one in first), sum(one.size for one in last)
    if not layers and nodes is None:
        raise UsageError("nothing says how many nodes", hint="give --nodes N, or --layers A,B,…")
    counts = _given(layers, nodes, len(sizes)) if layers else balanced(sizes, *ends, nodes or 0)
    stages = []
    for i, stop in enumerate(accumulate(counts)):
        run = range(stop - counts[i], stop)
        mine = [one for layer in run for one in per_layer[layer]]
        head, tail = first if i == 0 else [], last if i == len(counts) - 1 else []
        stages.append(Stage(i, len(counts), run, [*head, *mine, *tail], _received(pipeline, first, run)))
    return stages


def _received(pipeline: Pipeline, first: list[Leaf], layers: range) -> dict[str, list[int]]:
    """The carried outputs that a node with these layers gets from the one before it."""
    received: dict[str, list[int]] = {}
    for role in pipeline.carried if layers.start else ():
        outputs = {number for one in first if one.role == role for number in one.indices.values()}
        if left := sorted(number for number in outputs if number >= layers.start):
            received[role] = left
    return received


def _given(layers: Sequence[int], nodes: int | None, total: int) -> list[int]:
    if nodes is not None and nodes != len(layers):
        raise UsageError(
            f"--nodes {nodes} and --layers with {len(layers)} numbers", hint="give one of the two"
        )
    if sum(layers) != total or min(layers) < 1:
        said = ",".join(map(str, layers))
        raise UsageError(
            f"--layers {said} deals out {sum(layers)} layers, the model has {total}",
            hint="give one number above 0 for each node; together they are all layers",
        )
    return list(layers)


def balanced(sizes: Sequence[int], first: int, last: int, nodes: int) -> list[int]:
    """How many layers each node has so that the largest node is as small as can be.

    `sizes` are the bytes of the layers, `first` and `last` what the outer nodes have besides. Of several
    such ways it is the most even one.

    >>> balanced([10] * 28, 100, 0, 2)
    [9, 19]

    Raises:
        UsageError: there are more nodes than layers.
    """
    total = len(sizes)
    if not 1 <= nodes <= total:
        raise UsageError(
            f"{total} layers cannot be dealt out to {nodes} nodes", hint=f"each has one or more: 1 to {total}"
        )
    sums = [0, *accumulate(sizes)]

    def load(node: int, start: int, stop: int) -> int:
        return sums[stop] - sums[start] + (first if node == 0 else 0) + (last if node == nodes - 1 else 0)

    def cheapest(cost: Callable[[int, int], int], limit: int | None = None) -> tuple[int, list[int]]:
        """The cut with the least cost, `cost` joining that of the nodes so far with the load of the next."""
        best = {0: (0, [0])}
        for node in range(nodes):
            ways = [
                (cost(so_far, load(node, start, stop)), [*cuts, stop])
                for start, (so_far, cuts) in best.items()
                for stop in range(start + 1, total + 1)
                if limit is None or load(node, start, stop) <= limit
            ]
            best = {}
            for way in ways:
                stop = way[1][-1]
                if stop not in best or way[0] < best[stop][0]:
                    best[stop] = way
        return best[total]

    largest, _ = cheapest(max)
    _, cuts = cheapest(lambda so_far, next_load: so_far + next_load * next_load, largest)
    return [stop - start for start, stop in pairwise(cuts)]


def _node(source: Checkpoint, layout: Layout, stage: Stage, asked: Conversion) -> Output:
    """A folder with the names of the layout."""
    files = output_files(
        lay_out(stage.leaves, target(source, layout)),
        layout.container,
        format=format_of(asked.format),
        max_shard_size=asked.max_shard_size,
    )
    flat = tuple(file._replace(name=os.path.basename(file.name)) for file in files)
    return Output(flat, layout.id, folder=f"node{stage.number}", facts=_facts(stage))


def _chunk(source: Checkpoint, layout: Layout, stage: Stage) -> Output:
    """A LitGPT chunk: the layers of every file are counted from 0."""
    counted = [
        one._replace(indices={**one.indices, "layer": one.indices["layer"] - stage.layers.start})
        if one.role in source.family.pipeline.spine and "layer" in one.indices
        else one
        for one in stage.leaves
    ]
    name = "model_starter.pth" if stage.is_first else f"model_secondary{stage.number - 1}.pth"
    tensors = lay_out(counted, target(source, layout))
    return Output(
        (OutputFile(name, "torch", tuple(tensors)),),
        layout.id,
        folder=f"chunks/{stage.of}nodes_finisher",
        certificate=certificate_name(name),
        facts=_facts(stage, numbered_from=0),
    )


def _facts(stage: Stage, numbered_from: int | None = None) -> dict[str, Any]:
    """The place of a node among the others, for its certificate."""
    return {
        "node": {
            "index": stage.number,
            "of": stage.of,
            "layers": [stage.layers.start, stage.layers.stop - 1],
            "numbered_from": stage.layers.start if numbered_from is None else numbered_from,
            "parts": stage.roles,
            **({"receives": stage.receives} if stage.receives else {}),
        }
    }
