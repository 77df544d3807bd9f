"""What travels beside the weights: config, tokenizer, processor; adapted where the weights changed.

Hugging Face readers want a `config.json`, LitGPT's a `model_config.yaml`: whichever the target's tools
need and the source does not have is written from what is known of the model.
"""

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from dovetail.dtypes import DTYPES
from dovetail.edit.config_json import config_json
from dovetail.edit.litgpt_config import litgpt_config
from dovetail.edit.material import Material
from dovetail.edit.subject import Subject
from dovetail.edit.vocab import Vocab, with_vocab
from dovetail.layout.blueprint import Blueprint
from dovetail.layout.family import Layout
from dovetail.report import Value
from dovetail.store.store import Store

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
_LIMIT = 256 << 20


def side_files(
    subject: Subject, layout: Layout, materials: Sequence[Material], vocab: Vocab | None = None
) -> dict[str, bytes]:
    """The texts that go beside the weights of a subject in a layout."""
    texts = travelling(subject.store)
    config = with_vocab(subject.report.config, vocab)
    plan = _blueprint(subject, config)
    changes = _changes(subject, materials, vocab)
    if CONFIG in texts:
        texts[CONFIG] = _adapted(texts[CONFIG], changes)
    elif plan is not None:
        written = config_json(plan, dtype=changes["torch_dtype"], is_tied=changes.get("tie_word_embeddings"))
        if written:
            texts[CONFIG] = (json.dumps(_with_settings(written, subject, plan), indent=2) + "\n").encode()
    if layout.container.has_litgpt_config and plan is not None:
        texts[LITGPT_CONFIG] = litgpt_config(plan, config, _name(subject)).encode()
    return texts


def travelling(store: Store) -> dict[str, bytes]:
    """Files beside the weights that belong to the model, by name."""
    if not store.beside:
        return {}
    texts = {}
    for folder in reversed(store.beside):
        for name, size in folder.files().items():
            is_known = "/" not in name and any(fnmatchcase(name, pattern) for pattern in _TRAVELLING)
            if is_known and name not in store.files and size <= _LIMIT:
                texts[name] = folder.read(name, _LIMIT)
    return texts


def _changes(subject: Subject, materials: Sequence[Material], vocab: Vocab | None) -> dict[str, Any]:
    """What a config must say of these tensors, by the keys that Hugging Face configs have."""
    dtypes = [material.dtype for material in materials]
    most = max(set(dtypes), key=dtypes.count)
    changes: dict[str, Any] = {"torch_dtype": DTYPES[most].torch}
    if vocab:
        changes["vocab_size"] = vocab.rows
    heads = [role for role in subject.family.ties if any(material.role == role for material in materials)]
    if subject.family.ties:
        changes["tie_word_embeddings"] = _is_tied(subject, heads)
    return changes


def _is_tied(subject: Subject, heads: Sequence[str]) -> bool:
    """Whether the model uses one matrix for tokens and logits: what the source says or shows."""
    flags = [tie.flag for tie in subject.report.ties if tie.flag is not None]
    return flags[0] if flags else not heads


def _adapted(text: bytes, changes: Mapping[str, Any]) -> bytes:
    """A config with those of its values changed that it has and that are no longer so."""
    config = json.loads(text)
    is_changed = False
    sections = [
        config,
        *(config[key] for key in ("text_config", "llm_config") if isinstance(config.get(key), dict)),
    ]
    for section in sections:
        for key, value in (*changes.items(), ("dtype", changes["torch_dtype"])):
            if key in section and section[key] != value:
                section[key] = value
                is_changed = True
    return (json.dumps(config, indent=2) + "\n").encode() if is_changed else text


def _blueprint(subject: Subject, config: Mapping[str, Value]) -> Blueprint | None:
    """The model as numbers, None where a size is not known."""
    sizes, kinds, features, subsets = {}, {}, {}, {}
    for role, match in subject.one.roles.items():
        kinds[role], features[role] = match.part, match.features
        for dim in match.part.dims:
            value = config.get(f"{role}.{dim}")
            if value is None or not isinstance(value.value, int):
                return None
            sizes[f"{role}.{dim}"] = value.value
        for name in match.part.subsets:
            subsets[f"{role}.{name}"] = tuple(subject.report.config[f"{role}.{name}"].value)
    return Blueprint(subject.family, kinds, sizes, features, subsets)


def _with_settings(config: dict[str, Any], subject: Subject, plan: Blueprint) -> dict[str, Any]:
    """The config with the settings that the source says, where the family's defaults stood."""
    keys = subject.family.config
    for role, part in plan.kinds.items():
        section = keys.write_roots.get(role, keys.roots.get(role, ("",))[0])
        for setting in part.facts.settings:
            value = subject.report.config.get(f"{role}.{setting.name}")
            if setting.spellings and value and value.source in ("stamp", "config") and value.value:
                place = config
                *sections, key = f"{section}.{setting.spellings[0]}".lstrip(".").split(".")
                for one in sections:
                    place = place.setdefault(one, {})
                place[key] = value.value
    return config


def _name(subject: Subject) -> str:
    """What LitGPT calls the model: a published size of the same sizes, else the family."""
    config = subject.report.config
    for size, dims in subject.family.sizes.items():
        numbers = {name: value for name, value in dims.items() if isinstance(value, int)}
        if all(name in config and config[name].value == value for name, value in numbers.items()):
            return f"{subject.family.id}-{size}" if subject.family.id not in size else size
    return subject.family.id
