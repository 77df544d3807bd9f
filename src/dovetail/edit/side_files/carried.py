"""What travels beside the weights: configs, tokenizer, processor; adapted where the weights changed."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from dovetail.checkpoint import Checkpoint
from dovetail.declare.family import Layout
from dovetail.edit.reading import Reading
from dovetail.edit.side_files.config_files import config_texts
from dovetail.edit.side_files.config_json import corrected
from dovetail.edit.side_files.transformers_4 import for_transformers_4
from dovetail.store.folder import Folder
from dovetail.store.store import Store
from dovetail.weights.leaf import Leaf
from dovetail.weights.vocab import Vocab

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
    source: Checkpoint,
    layout: Layout,
    leaves: Sequence[Leaf],
    vocab: Vocab | None = None,
    chosen: Reading | None = None,
) -> dict[str, bytes]:
    """The texts that go beside the weights of a checkpoint in a layout, for a reader if one is chosen.

    Raises:
        UsageError: a config has to say a size that nothing shows, or a reader computes something else.
    """
    texts = travelling(source.store)
    for name in texts:
        if wrong := [one for one in source.corrections if one.found.document == name]:
            texts[name] = corrected(texts[name], wrong)
    texts |= config_texts(source, layout, texts, leaves, vocab, is_named=chosen is not None)
    if chosen is not None and chosen.reader.name == "transformers" and (chosen.version or ()) < (5,):
        texts = for_transformers_4(texts)
    return texts


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
