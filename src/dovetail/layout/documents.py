"""What stands beside the weights: config files, metadata, our own stamp.

Each is a document with a name for messages. Values are looked up by the spellings that a part
declares, under the sections that a family declares; nothing is guessed from a file's name.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from dovetail.report import Finding
from dovetail.store.store import Store

STAMP = "dovetail.json"
_JSON_FILES = ("config.json", "checkpoint_metadata.json")
_YAML_FILES = ("model_config.yaml", "config.yaml")
_GRID = re.compile(r"\((\w+) // (\w+)\)\^2")


class Document(NamedTuple):
    """One parsed side file (or the plain values inside a torch file)."""

    name: str
    values: Mapping[str, Any]


class Found(NamedTuple):
    """A value, where it stands and under which key."""

    value: Any
    document: str
    key: str

    @property
    def place(self) -> str:
        """`config.json: text_config.hidden_size`."""
        return f"{self.document}: {self.key}"


class Documents(NamedTuple):
    """All documents of a checkpoint: configs in order of trust, and the stamp if there is one."""

    configs: tuple[Document, ...] = ()
    stamp: Document | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def model_type(self) -> str | None:
        """The `model_type` that a config names (lerobot calls it `type`)."""
        for document in self.configs:
            for key in ("model_type", "type"):
                if isinstance(value := document.values.get(key), str):
                    return value
        return None

    def find(self, spellings: Iterable[str], roots: Iterable[str]) -> Found | None:
        """The first value that one of the spellings has under one of the sections."""
        spellings = tuple(spellings)
        for document in self.configs:
            for root in roots:
                section = _section(document.values, root)
                if section is None:
                    continue
                for spelling in spellings:
                    value = _value(section, spelling)
                    if value is not None:
                        return Found(value, document.name, f"{root}.{spelling}".lstrip("."))
        return None

    def stamped(self, name: str) -> Found | None:
        """The stamp's value for `role.dim`."""
        config = self.stamp.values.get("config") if self.stamp else None
        if not isinstance(config, dict) or config.get(name) is None:
            return None
        value = config[name]
        value = value.get("value") if isinstance(value, dict) else value
        return None if value is None else Found(value, STAMP, f"config.{name}")


def read_documents(store: Store) -> Documents:
    """Every document beside the weights. One that cannot be parsed is a finding, not an error."""
    configs: list[Document] = []
    findings: list[Finding] = []
    stamp = None
    for name in (*_JSON_FILES, *_YAML_FILES, STAMP):
        raw = store.side_file(name)
        if raw is None:
            continue
        try:
            values = _parse(name, raw.decode())
            if not isinstance(values, dict):
                raise ValueError(f"it holds a {type(values).__name__}, not an object")
        except (ValueError, RecursionError) as error:
            findings.append(_unreadable(name, error))
            continue
        if name == STAMP:
            stamp = Document(name, values)
        else:
            configs.append(Document(name, values))
    configs += _inside(store)
    return Documents(tuple(configs), stamp, tuple(findings))


def _inside(store: Store) -> Iterator[Document]:
    """The plain values that a torch file carries beside its tensors."""
    inside = store.metadata.get("torch")
    if not isinstance(inside, dict):
        return
    for key in ("hyper_parameters", "model_config", "config", "args"):
        if isinstance(values := inside.get(key), dict):
            yield Document(f"{key} in the checkpoint", values)


def _parse(name: str, text: str) -> Any:
    if name.endswith(".json"):
        return json.loads(text)
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error).replace("\n", " ")) from error


def _unreadable(name: str, error: Exception) -> Finding:
    return Finding(
        code="config-unreadable",
        severity="warning",
        message=f"{name} cannot be read: {error}",
        hint=f"repair or remove {name}; until then the values that only it knows are missing",
    )


def _section(values: Mapping[str, Any], root: str) -> Mapping[str, Any] | None:
    for key in root.split(".") if root else ():
        inner = values.get(key)
        if not isinstance(inner, dict):
            return None
        values = inner
    return values


def _value(section: Mapping[str, Any], spelling: str) -> Any:
    """A key, a dotted key, a product `a * b`, or the square of a division `(a // b)^2`."""
    if " * " in spelling:
        return _product([_value(section, key) for key in spelling.split(" * ")])
    if grid := _GRID.fullmatch(spelling):
        size, patch = section.get(grid[1]), section.get(grid[2])
        return (
            (size // patch) ** 2 if isinstance(size, int) and isinstance(patch, int) and patch > 0 else None
        )
    if "." in spelling:
        head, _, rest = spelling.partition(".")
        inner = section.get(head)
        return _value(inner, rest) if isinstance(inner, dict) else None
    return section.get(spelling)


def _product(values: list[Any]) -> Any:
    total: Any = 1
    for value in values:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return None
        total *= value
    return int(total) if total == int(total) else None
