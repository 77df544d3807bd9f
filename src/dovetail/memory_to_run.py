"""What a model takes in memory, by its header: weights by dtype, and what it keeps of sequences, per node.

The keys and values are those of `models/cache.py`: for each layer and token the width of all key heads twice,
in the dtype of the weights that make them; on a CPU dovetail keeps 16 bits as 32.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from dovetail.checkpoint import Checkpoint
from dovetail.dtypes import BITS
from dovetail.edit.split import Stage, staged
from dovetail.errors import UsageError
from dovetail.report import Memory, NodeMemory
from dovetail.weights.leaf import Leaf

CONTEXT = 4096


def memory_of(checkpoint: Checkpoint, *, context: int = CONTEXT, batch: int = 1, nodes: int = 1) -> Memory:
    """The memory of a model that runs `batch` sequences of `context` tokens on so many nodes.

    Raises:
        CheckpointError: a shape is not what its family declares, or there are no shapes.
        UsageError: the numbers do not fit the model, or it is of no known family.
    """
    for name, number in {"context": context, "batch": batch, "nodes": nodes}.items():
        if number < 1:
            raise UsageError(f"--{name} {number} is none", hint="give a number above 0")
    packing = checkpoint.report.quantisation
    if not checkpoint.is_known:
        raise UsageError(
            "the memory of a model of no known family cannot be told",
            checkpoint=checkpoint.report.path,
            hint="`dovetail inspect` without --memory says what it holds",
        )
    per_layer, dtype, why_not = _cache_of_a_layer(checkpoint)
    if packing is not None:
        if nodes > 1:
            raise UsageError(
                f"a model {packing.text} is not dealt out to nodes",
                hint="leave out --nodes, or unpack it first",
            )
        whole = [(range(_layers(checkpoint)), _packed(checkpoint))]
    else:
        leaves = [leaf for leaf in checkpoint.leaves.values() if not leaf.spec.is_dead]
        whole = [(one.layers, _by_dtype(one.leaves)) for one in _stages(checkpoint, leaves, nodes)]
    tokens = context * batch
    return Memory(
        context,
        batch,
        None if per_layer is None else per_layer * _layers(checkpoint),
        dtype,
        why_not,
        tuple(
            NodeMemory(layers, weights, None if per_layer is None else per_layer * len(layers) * tokens)
            for layers, weights in whole
        ),
    )


def _stages(checkpoint: Checkpoint, leaves: list[Leaf], nodes: int) -> list[Stage]:
    """The nodes; all of a model on one, also where it has no layers that could be dealt out."""
    if nodes > 1:
        return staged(checkpoint, leaves, nodes=nodes)
    spine = checkpoint.family.pipeline.spine
    here = [leaf.indices["layer"] for leaf in leaves if leaf.role in spine and "layer" in leaf.indices]
    return [Stage(0, 1, range(min(here), max(here) + 1) if here else range(0), leaves, {})]


def _cache_of_a_layer(checkpoint: Checkpoint) -> tuple[int | None, str | None, str | None]:
    """The bytes that one layer keeps of a token, their dtype, and else why they are not known."""
    spine = checkpoint.family.pipeline.spine
    if len(spine) > 1:
        return (
            None,
            None,
            "a policy keeps keys for one chunk of actions only; they are not counted",
        )
    names = [f"{spine[0]}.{size}" for size in ("kv_heads", "head_dim")]
    config = checkpoint.report.config
    if names[0] not in config:
        return None, None, "none, it answers with no tokens"
    sizes = [config[name].value for name in names]
    if unknown := [name for name, size in zip(names, sizes, strict=True) if not isinstance(size, int)]:
        return None, None, f"nothing says {unknown[0]}: give --set {unknown[0]}=NUMBER"
    dtype = _dtype_of_keys(checkpoint, spine[0])
    if dtype is None:
        return None, None, "no tensor of the layers says their dtype"
    return 2 * sizes[0] * sizes[1] * BITS[dtype] // 8, dtype, None


def _dtype_of_keys(checkpoint: Checkpoint, role: str) -> str | None:
    """The dtype that keys come in: that of the weights which stand in no quantised form, by bytes."""
    part = checkpoint.report.parts.get(role)
    if part is None:
        return None
    floats = {name: count for name, count in part.dtypes.items() if name in ("BF16", "F16", "F32", "F64")}
    return max(floats, key=lambda name: floats[name], default=None)


def _layers(checkpoint: Checkpoint) -> int:
    layers = checkpoint.report.config.get(f"{checkpoint.family.pipeline.spine[0]}.layers")
    return layers.value if layers is not None and isinstance(layers.value, int) else 0


def _by_dtype(leaves: Iterable[Leaf]) -> Mapping[str, int]:
    sizes: Counter[str] = Counter()
    for leaf in leaves:
        sizes[leaf.dtype] += leaf.size
    return dict(sizes.most_common())


def _packed(checkpoint: Checkpoint) -> Mapping[str, int]:
    """The bytes of a quantised model as its files have them."""
    sizes: Counter[str] = Counter()
    for entry in checkpoint.store.entries.values():
        sizes[entry.dtype] += entry.bytes
    return dict(sizes.most_common())
