"""What travels beside the weights: config, tokenizer, processor; adapted where the weights changed.

Hugging Face readers want a `config.json`, LitGPT's a `model_config.yaml`: whichever the target's tools
need and the source does not have is written from what is known of the model.
"""

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from dovetail.checkpoint import Checkpoint
from dovetail.declare.blueprint import Blueprint
from dovetail.declare.family import Layout
from dovetail.dtypes import DTYPES
from dovetail.edit.beside.config_json import adapted, config_json, corrected, written_section
from dovetail.edit.beside.litgpt_config import decoder_of, litgpt_config
from dovetail.edit.beside.rope_scaling import from_litgpt
from dovetail.report import Value
from dovetail.store.folder import Folder
from dovetail.store.store import Store
from dovetail.weights.leaf import Leaf
from dovetail.weights.vocab import Vocab, with_vocab

CONFIG, LITGPT_CONFIG = "config.json", "model_config.yaml"
_TRAVELLING = (
    "*config.json",
    "*.model",
    "*.jinja",
    "*token*.json",
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "chat_template*",
    "policy_p*processor*",
    "norm_stats.json",
    "dataset_statistics.json",
    "LICENSE*",
    "NOTICE*",
    "README.md",
    "*.py",
)
_TRAVELLING_BELOW = ("additional_chat_templates/*.jinja",)  # the templates beside the default one
_LIMIT = 256 << 20


def side_files(
    source: Checkpoint, layout: Layout, leaves: Sequence[Leaf], vocab: Vocab | None = None
) -> dict[str, bytes]:
    """The texts that go beside the weights of a checkpoint in a layout."""
    texts = travelling(source.store)
    config = with_vocab(source.report.config, vocab)
    changes = _changes(source, leaves, vocab)
    plan = _blueprint(source, config)
    made = _made(source, layout)
    for name in [name for name in texts if name not in made]:
        if wrong := [one for one in source.corrections if one.found.document == name]:
            texts[name] = corrected(texts[name], wrong)
    if CONFIG in texts and CONFIG not in made:
        texts[CONFIG] = adapted(texts[CONFIG], changes)
    elif plan is not None and CONFIG in made:
        is_tied = changes.get("tie_word_embeddings")
        written = config_json(
            plan, dtype=changes["torch_dtype"], is_tied=is_tied, settings=_settings(source), layout=layout
        )
        if written:
            texts[CONFIG] = (json.dumps(_with_reach(written, plan, source), indent=2) + "\n").encode()
    if plan is not None and LITGPT_CONFIG in made:
        texts[LITGPT_CONFIG] = litgpt_config(plan, _for_litgpt(source, config), _name(source)).encode()
    return texts


def assumptions(source: Checkpoint, layout: Layout) -> tuple[str, ...]:
    """What written configs say that nothing said before: `text.rope_theta = 1000000.0 (qwen2 convention)`."""
    if not _made(source, layout):
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


def _made(source: Checkpoint, layout: Layout) -> set[str]:
    """The configs that are written new: the target's tools want them, and the source has none for them."""
    there = _names(source.store)
    made = {LITGPT_CONFIG} if layout.container.has_litgpt_config else set()
    if CONFIG not in there or _is_foreign(source, layout):
        made.add(CONFIG)
    return made


def _is_foreign(source: Checkpoint, layout: Layout) -> bool:
    """Whether the config is of another tool's model class than the one that is to load the result."""
    known, said = source.family.config.model_types, source.documents.model_type
    is_plain = source.family.variants.get(said or "", "base") == "base"
    if layout.config is not None:
        return is_plain and not any(layout.config is one.config for one in source.layouts)
    return (
        layout.id.startswith("hf")
        and said in known[1:]
        and is_plain
        and source.family.config.architecture != ""
    )


def _settings(source: Checkpoint) -> dict[str, Any]:
    """What somebody said of the model, by `role.name` or `name`."""
    said = {
        name: value.value
        for name, value in source.report.config.items()
        if value.source in ("stamp", "config") and value.value is not None
    }
    adjustments = source.documents.find(("rope_adjustments",), ("",))
    if adjustments is not None and isinstance(adjustments.value, dict):
        scaling = from_litgpt(adjustments.value)
        said = {f"{decoder_of(source.kinds)}.rope_scaling": scaling} | said
    return said


def _with_reach(written: dict[str, Any], plan: Blueprint, source: Checkpoint) -> dict[str, Any]:
    """The config with the longest sequence, where something says it."""
    said = source.documents.find(("max_position_embeddings", "block_size"), ("", "text_config"))
    role = decoder_of(plan.kinds)
    if said is not None and role is not None:
        section = written
        for key in filter(None, written_section(plan, role).split(".")):
            section = section.get(key, section)  # flat in a layout of its own
        section["max_position_embeddings"] = said.value
    return written


def _for_litgpt(source: Checkpoint, config: Mapping[str, Value]) -> dict[str, Value]:
    """The values, with two that only the documents beside the weights have."""
    values = dict(config)
    role = decoder_of(source.kinds)
    keys = {
        f"{role}.max_positions": ("max_position_embeddings", "block_size"),
        f"{role}.vocab_used": ("vocab_size",),
    }
    for name, spellings in keys.items():
        said = source.documents.find(spellings, source.family.config.roots.get(role or "", ("",)))
        if said is not None and isinstance(said.value, int):
            values.setdefault(name, Value(said.value, "config", said.place))
    return values


def travelling(store: Store) -> dict[str, bytes]:
    """Files beside the weights that belong to the model, by name."""
    return {name: folder.read(name, _LIMIT) for name, folder in _names(store).items()}


def is_travelling(name: str) -> bool:
    """Whether a file of this name beside the weights belongs to the model."""
    patterns = _TRAVELLING_BELOW if "/" in name else _TRAVELLING
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _names(store: Store) -> dict[str, Folder]:
    """The folder that each travelling file is in."""
    found: dict[str, Folder] = {}
    for folder in reversed(store.beside):
        for name, size in folder.files().items():
            if is_travelling(name) and name not in store.files and size <= _LIMIT:
                found[name] = folder
    return found


def _changes(source: Checkpoint, leaves: Sequence[Leaf], vocab: Vocab | None) -> dict[str, Any]:
    """What a config must say of these tensors, by the keys that Hugging Face configs have."""
    dtypes = [leaf.dtype for leaf in leaves]
    most = max(set(dtypes), key=dtypes.count)
    changes: dict[str, Any] = {"torch_dtype": DTYPES[most].torch}
    if vocab:
        changes["vocab_size"] = vocab.rows
    heads = [role for role in source.family.ties if any(leaf.role == role for leaf in leaves)]
    if source.family.ties:
        changes["tie_word_embeddings"] = _is_tied(source, heads)
    return changes


def _is_tied(source: Checkpoint, heads: Sequence[str]) -> bool:
    """Whether the model uses one matrix for tokens and logits: what the source says or shows."""
    flags = [tie.flag for tie in source.report.ties if tie.flag is not None]
    return flags[0] if flags else not heads


def _blueprint(source: Checkpoint, config: Mapping[str, Value]) -> Blueprint | None:
    """The model as numbers, None where a size is not known."""
    sizes, kinds, features, subsets = {}, {}, {}, {}
    for role, match in source.explanation.roles.items():
        kinds[role], features[role] = match.part, match.features
        for dim in match.part.dims:
            value = config.get(f"{role}.{dim}")
            if value is None or not isinstance(value.value, int):
                return None
            sizes[f"{role}.{dim}"] = value.value
        for name in match.part.subsets:
            subsets[f"{role}.{name}"] = tuple(source.report.config[f"{role}.{name}"].value)
    return Blueprint(source.family, kinds, sizes, features, subsets)


def _name(source: Checkpoint) -> str:
    """What LitGPT calls the model: a published size of the same sizes, else the family."""
    config = source.report.config
    for size, dims in source.family.sizes.items():
        numbers = {name: value for name, value in dims.items() if isinstance(value, int)}
        if all(name in config and config[name].value == value for name, value in numbers.items()):
            return f"{source.family.id}-{size}" if source.family.id not in size else size
    return source.family.id
