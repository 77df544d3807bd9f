"""Adapters: tensors that are added to the weights of another model, alone in a file or beside those weights.

Names as peft 0.21 writes them, in its files (`lora_A.weight`) and in a `state_dict()`
(`lora_A.default.weight`). A module that peft trains whole is there twice in memory: as `original_module` and
as `modules_to_save.NAME`.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from dovetail.explain.documents import Documents
from dovetail.explain.name_groups import Inventory
from dovetail.report import Adapter, Finding, counted

# kind -> its leaves; of two kinds that share leaves, the one that has more stands first
KINDS = {
    "AdaLoRA": ("lora_E", "ranknum"),
    "LoRA": (
        "lora_A",
        "lora_B",
        "lora_embedding_A",
        "lora_embedding_B",
        "lora_magnitude_vector",
        "lora_down",
        "lora_up",
    ),
    "LoHa": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    "LoKr": ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    "IA3": ("ia3_l",),
    "OFT": ("oft_r", "oft_R"),
    "BOFT": ("boft_R", "boft_s"),
    "VeRA": ("vera_lambda_b", "vera_lambda_d", "vera_A", "vera_B"),
    "FourierFT": ("fourierft_spectrum",),
    "HRA": ("hra_u",),
    "VB-LoRA": ("vblora_logits_A", "vblora_logits_B", "vblora_vector_bank"),
    "prompt": ("prompt_embeddings",),
}
_PROMPTS = "prompt"
_WORDS = tuple(word for words in KINDS.values() for word in words)
_LEAF = rf"(?:^|.*[./])(?P<word>{'|'.join(_WORDS)})(\.[\w-]+)?(\.weight)?"
_WHOLE = r"(?:^|.*\.)(?P<word>modules_to_save)\.[\w-]+\..+"
_ASIDE = "adapter, not merged into the weights"
_BY_PEFT = "(peft: merge_and_unload())"


class Found(NamedTuple):
    """An adapter, its tensors, and those of modules that were trained whole and replace others."""

    adapter: Adapter
    names: tuple[str, ...]
    whole: tuple[str, ...]

    @property
    def finding(self) -> Finding:
        """An error if there is nothing but the adapter, else a warning: without it, this is the base."""
        one, names = self.adapter, (*self.names, *self.whole)
        if not one.is_alone:
            return Finding(
                code="adapter",
                severity="warning",
                message=f"{counted(len(names), f'{one.kind} tensor')} not merged into the weights, "
                f"first `{names[0]}`",
                tensors=names,
                hint=f"without them this is the base model; merge them {_BY_PEFT} and save again",
            )
        whole = ""
        if self.whole:
            whole = f"; {counted(len(self.whole), 'tensor')} trained whole, first `{self.whole[0]}`"
        base = f"`{one.base}`" if one.base else "its base"
        return Finding(
            code="adapter",
            severity="error",
            message=f"this is {one.text}, not a model: {counted(len(self.names), 'tensor')} to be added to "
            f"the weights of one, first `{self.names[0]}`{whole}",
            tensors=names,
            hint=f"it only runs with peft, in front of {base}; give dovetail the weights of that model"
            if one.kind == _PROMPTS
            else f"merge it into {base}, which adapter_config.json names {_BY_PEFT}, and give the result",
        )


def without_adapter(inventory: Inventory, documents: Documents) -> tuple[Inventory, Found | None]:
    """The inventory without the tensors of an adapter, and the adapter.

    It is alone if nothing of the modules that it adapts is there; all else is then what was trained whole.
    """
    if not any(word in key for key in inventory.groups for word in _WORDS):
        return inventory, None  # as nearly always, and without the patterns
    matches = {key: re.fullmatch(_LEAF, key) or re.fullmatch(_WHOLE, key) for key in inventory.groups}
    leaves = {key: match["word"] for key, match in matches.items() if match}
    if not leaves.keys() - {key for key, word in leaves.items() if word == "modules_to_save"}:
        return inventory, None
    rest = [key for key in inventory.groups if key not in leaves]
    modules = tuple({key[: key.rindex(word)] for key, word in leaves.items() if word != "modules_to_save"})
    is_alone = not any(key.startswith(modules) for key in rest)
    names = tuple(_names(inventory, [key for key, word in leaves.items() if word != "modules_to_save"]))
    replacing = [key for key, word in leaves.items() if word == "modules_to_save"]
    whole = tuple(_names(inventory, [*replacing, *(rest if is_alone else ())]))
    kind = next(kind for kind, words in KINDS.items() if not set(words).isdisjoint(leaves.values()))
    base = documents.base_model
    adapter = Adapter(kind, _rank(inventory, leaves), base, is_alone, len(names) + len(whole))
    aside = {**inventory.set_aside, _ASIDE: [*names, *whole]}
    groups = {key: inventory.groups[key] for key in (() if is_alone else rest)}
    return inventory._replace(groups=groups, set_aside=aside), Found(adapter, names, whole)


def _names(inventory: Inventory, keys: list[str]) -> Iterator[str]:
    for key in keys:
        yield from inventory.groups[key].names


def _rank(inventory: Inventory, leaves: dict[str, str]) -> int | None:
    """The rank of a LoRA: the rows of its first matrix."""
    for key, word in leaves.items():
        if word in ("lora_A", "lora_embedding_A", "lora_down"):
            entry = inventory.entries.get(inventory.groups[key].names[0])
            return entry.shape[0] if entry is not None and entry.shape else None
    return None
