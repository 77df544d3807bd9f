"""config.json and model_config.yaml beside the weights, as the readers of a layout want them.

A config.json that the readers of the target understand is carried on, adapted where the weights changed or
where somebody said otherwise; one of another project, or none, is written anew from what is known of the
model. LitGPT's model_config.yaml is always written anew.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dovetail.checkpoint import Checkpoint
from dovetail.declare.blueprint import Blueprint
from dovetail.declare.family import Layout
from dovetail.declare.part import Part
from dovetail.dtypes import DTYPES
from dovetail.edit.settings import with_settings
from dovetail.edit.side_files.config_json import adapted, config_json, with_tie_flags, written_section
from dovetail.edit.side_files.litgpt_config import decoder_of, litgpt_config
from dovetail.edit.side_files.rope_scaling import from_litgpt
from dovetail.edit.side_files.rope_spelling import scaling_of, with_both_spellings, with_old_spelling
from dovetail.errors import UsageError, listed
from dovetail.report import Value
from dovetail.weights.leaf import Leaf
from dovetail.weights.vocab import Vocab, with_vocab

CONFIG, LITGPT_CONFIG = "config.json", "model_config.yaml"
_TIED = "tie_word_embeddings"
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def config_texts(
    source: Checkpoint,
    layout: Layout,
    there: Mapping[str, bytes],
    leaves: Sequence[Leaf],
    vocab: Vocab | None = None,
    *,
    is_named: bool = False,
) -> dict[str, bytes]:
    """The config files that go beside the weights; `there` are the files beside the source.

    For a reader that `is_named` a config says all that any version of it looks for.

    Raises:
        UsageError: a config has to say a size that nothing shows, or a reader computes something else.
    """
    values = with_vocab(source.report.config, vocab)
    changes = _changes(source, leaves, vocab)
    texts: dict[str, bytes] = {}
    if not _is_made(source, layout, there):
        texts[CONFIG] = _carried(source, layout, there[CONFIG], changes, is_named=is_named)
    elif source.family.config.model_types or layout.dialect is not None:
        plan = planned(source, values, CONFIG, leaves)
        texts[CONFIG] = _dumped(_written(source, layout, plan, changes))
    if layout.container.has_litgpt_config:
        plan = planned(source, values, LITGPT_CONFIG, leaves)
        texts[LITGPT_CONFIG] = litgpt_config(plan, _for_litgpt(source, values), _name(source)).encode()
    return texts


def assumptions(source: Checkpoint, layout: Layout, there: Mapping[str, bytes]) -> tuple[str, ...]:
    """What written configs say that nothing said before: `text.rope_theta = 1000000.0 (qwen2 convention)`."""
    if not _is_made(source, layout, there) and not layout.container.has_litgpt_config:
        return ()
    spelled = {
        f"{role}.{name}"
        for role, match in source.explanation.roles.items()
        for name in (
            *match.part.facts.spellings,
            *(one.name for one in match.part.facts.settings if one.spellings),
        )
    }
    return tuple(
        f"{name} = {value.value} ({value.evidence})"
        for name, value in source.report.config.items()
        if value.source == "default" and name in spelled and value.value not in (None, {}, 0)
    )


def planned(
    source: Checkpoint,
    values: Mapping[str, Value],
    wanted_by: str,
    leaves: Sequence[Leaf] | None = None,
) -> Blueprint:
    """The model as numbers, without the parts that have no leaf where leaves are given.

    Raises:
        UsageError: a size is open; `wanted_by` is the file that has to say it.
    """
    sizes, kinds, features, subsets, still_open = {}, {}, {}, {}, []
    here = source.kinds.keys() if leaves is None else {leaf.role for leaf in leaves}
    for role, match in source.explanation.roles.items():
        if role not in here:
            continue
        kinds[role], features[role] = match.part, match.features
        for dim in needed_dims(match.part, match.features):
            value = values.get(f"{role}.{dim}")
            if value is None or not isinstance(value.value, int):
                still_open.append((f"{role}.{dim}", value.evidence if value else "weights cannot show it"))
            else:
                sizes[f"{role}.{dim}"] = value.value
        for name in match.part.subsets:
            subsets[f"{role}.{name}"] = tuple(source.report.config[f"{role}.{name}"].value)
    if still_open:
        names = [name for name, _ in still_open]
        raise UsageError(
            f"{wanted_by} has to say {listed(names, 10)}, and nothing does ({still_open[0][1]})",
            checkpoint=source.report.path,
            hint="put the config.json beside the weights, or give "
            + " ".join(f"--set {name}=NUMBER" for name in names[:10]),
        )
    return Blueprint(source.family, kinds, sizes, features, subsets)


def needed_dims(part: Part, features: Collection[str]) -> list[str]:
    """The sizes of a part, without those that only leaves have which are not there."""
    leaves = [leaf for leaf in part.leaves.values() if leaf.feature in (None, *part.features, *features)]
    used = {part.count_name(index) for leaf in leaves for index in leaf.template.fields}
    used |= {name for leaf in leaves for axis in leaf.shape for name in axis.names}
    return [dim for dim in part.dims if dim in used or dim in part.facts.open_dims]


def _is_made(source: Checkpoint, layout: Layout, there: Mapping[str, bytes]) -> bool:
    """Whether config.json is written new: there is none, or none that the target's readers speak."""
    if CONFIG not in there:
        return True
    config = _parsed(there[CONFIG])
    if source.family.variants.get(str(config.get("model_type")), "base") != "base":
        return False  # the variant stands nowhere else
    if layout.dialect is not None:
        return not layout.dialect.is_spoken(config)
    others = [one.dialect for one in source.family.layouts if one.dialect is not None]
    return any(dialect.is_spoken(config) for dialect in others)


def _carried(
    source: Checkpoint, layout: Layout, text: bytes, changes: Mapping[str, Any], *, is_named: bool
) -> bytes:
    """The config that is there, with what the weights or the user say otherwise."""
    text = adapted(text, changes)
    config = before = _parsed(text)
    if not config:
        return text
    if layout.dialect is None and not layout.container.has_litgpt_config:
        config = with_both_spellings(config) if is_named else with_old_spelling(config)
        if _TIED in changes:
            config = with_tie_flags(config, changes[_TIED])
    if said := _said_by_user(source):
        config = with_settings(config, planned(source, source.report.config, CONFIG), said)
    return text if config == before else _dumped(config)


def _said_by_user(source: Checkpoint) -> dict[str, Any]:
    """What `--set` says that stands in configs and is no size."""
    settings = {one.name: one for one in source.family.settings}
    for role, part in source.kinds.items():
        settings |= {f"{role}.{one.name}": one for one in part.facts.settings}
    return {
        name: value
        for name, value in source.documents.given.items()
        if name in settings and settings[name].spellings
    }


def _written(
    source: Checkpoint, layout: Layout, plan: Blueprint, changes: Mapping[str, Any]
) -> dict[str, Any]:
    """A new config, in the dialect of the layout's readers."""
    _check_window(source)
    settings = _settings(source)
    written = config_json(
        plan,
        dtype=changes["torch_dtype"],
        is_tied=changes.get(_TIED),
        settings=settings,
        extra=_of_decoder(source, plan),
        layout=layout,
    )
    return with_both_spellings(written) if layout.dialect is None else written


def _check_window(source: Checkpoint) -> None:
    """Refuses a window that LitGPT's config has and the family has no word for: it would be lost."""
    role = decoder_of(source.kinds)
    said = source.documents.find(("sliding_window_size",), ("",))
    if role and said and f"{role}.sliding_window" not in source.report.config:
        raise UsageError(
            f"{said.place} = {said.value}, and {source.family.id} has no sliding window",
            checkpoint=source.report.path,
            hint="say what it is: --as mistral",
        )


def _of_decoder(source: Checkpoint, plan: Blueprint) -> dict[str, Any]:
    """The special tokens, which stand in the section of the language model and are nobody's settings."""
    role = decoder_of(plan.kinds)
    if role is None:
        return {}
    section = written_section(plan, role)
    roots = source.family.config.roots.get(role, ("",))
    said = {key: source.documents.find((key,), (*roots, "")) for key in _TOKENS}
    return {f"{section}.{key}".lstrip("."): found.value for key, found in said.items() if found is not None}


def _settings(source: Checkpoint) -> dict[str, Any]:
    """What somebody said of the model, by `role.name` or `name`."""
    said = {
        name: value.value
        for name, value in source.report.config.items()
        if value.source in ("stamp", "config") and value.value is not None
    }
    said |= {
        name: scaling_of(value)
        for name, value in said.items()
        if name.endswith(".rope_scaling") and isinstance(value, dict)
    }
    adjustments = source.documents.find(("rope_adjustments",), ("",))
    if adjustments is not None and isinstance(adjustments.value, dict):
        scaling = from_litgpt(adjustments.value)
        said = {f"{decoder_of(source.kinds)}.rope_scaling": scaling} | said
    return said


def _for_litgpt(source: Checkpoint, config: Mapping[str, Value]) -> dict[str, Value]:
    """The values, with the number of tokens, which only the documents beside the weights have."""
    values = dict(config)
    role = decoder_of(source.kinds)
    said = source.documents.find(("vocab_size",), source.family.config.roots.get(role or "", ("",)))
    if said is not None and isinstance(said.value, int):
        values.setdefault(f"{role}.vocab_used", Value(said.value, "config", said.place))
    return values


def _changes(source: Checkpoint, leaves: Sequence[Leaf], vocab: Vocab | None) -> dict[str, Any]:
    """What a config must say of these tensors, by the keys that Hugging Face configs have."""
    dtypes = [leaf.dtype for leaf in leaves]
    most = max(set(dtypes), key=dtypes.count)
    changes: dict[str, Any] = {"torch_dtype": DTYPES[most].torch}
    if vocab:
        changes["vocab_size"] = vocab.rows
    heads = [role for role in source.family.ties if any(leaf.role == role for leaf in leaves)]
    if source.family.ties:
        changes[_TIED] = _is_tied(source, heads)
    return changes


def _is_tied(source: Checkpoint, heads: Sequence[str]) -> bool:
    """Whether the model uses one matrix for tokens and logits: what the source says or shows."""
    flags = [tie.flag for tie in source.report.ties if tie.flag is not None]
    return flags[0] if flags else not heads


def _name(source: Checkpoint) -> str:
    """What LitGPT calls the model: a published size of the same sizes, else the family."""
    config = source.report.config
    for size, dims in source.family.sizes.items():
        numbers = {name: value for name, value in dims.items() if isinstance(value, int)}
        if all(name in config and config[name].value == value for name, value in numbers.items()):
            return f"{source.family.id}-{size}" if source.family.id not in size else size
    return source.family.id


def _parsed(text: bytes) -> dict[str, Any]:
    """A config, empty if it cannot be read, which examining it has said."""
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}


def _dumped(config: Mapping[str, Any]) -> bytes:
    return (json.dumps(config, indent=2) + "\n").encode()
