"""What stands beside the weights: config files, metadata, our own stamp.

Each is a document with a name for messages. Values are looked up by the spellings that a part
declares, under the sections that a family declares; nothing is guessed from a file's name.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from dovetail.declare.family import Family
from dovetail.declare.part import Part
from dovetail.declare.spelling import MAX_NUMBER, place, read
from dovetail.errors import CheckpointError
from dovetail.explain.named import Named
from dovetail.explain.nodes import Node, joined_certificate, node_findings, read_nodes
from dovetail.report import Finding
from dovetail.store.folder import Folder
from dovetail.store.safetensors.read import twice
from dovetail.store.store import Store

STAMP = "dovetail.json"
STAMP_SCHEMA = 1
_ADAPTER = "adapter_config.json"
GIVEN = "--set"
SET_ASIDE = "set_aside"  # where a certificate has the statements of configs that do not count
Side = Literal["weights", "config", "stamp", "set"]
_JSON_FILES = ("config.json", "checkpoint_metadata.json")
# transformers 5 keeps the settings of images in the first, older versions in the second; both: the first
PROCESSOR, IMAGE_PROCESSOR = "processor_config.json", "preprocessor_config.json"
_NESTED = "image_processor"
_YAML_FILES = ("model_config.yaml", "config.yaml")
_MAX_TEXT, _MAX_DEPTH, _MAX_NUMBER = 200, 50, 4096
_MAX_MEMBERS = 256  # some settings have one for each layer


class Document(NamedTuple):
    """One parsed side file (or the plain values inside a torch file), or the `section` of it that counts."""

    name: str
    values: Mapping[str, Any]
    section: str = ""


class Found(NamedTuple):
    """A value, where it stands and under which key."""

    value: Any
    document: str
    key: str

    @property
    def place(self) -> str:
        """`config.json: text_config.hidden_size`."""
        return f"{self.document}: {self.key}"

    @property
    def side(self) -> Side:
        """Who says it: the caller, the certificate or a config."""
        if self.document.startswith("--"):
            return "set"
        return "stamp" if self.document.endswith(STAMP) else "config"

    @property
    def source(self) -> Literal["stamp", "config"]:
        """The source of a value that is taken from here; what the caller says counts as stamped."""
        return "config" if self.side == "config" else "stamp"


class Documents(NamedTuple):
    """All documents of a checkpoint: configs in order of trust, and the stamp if there is one.

    `given` are values by `role.name`, and kinds of parts by role, that the caller says; they come before any
    document. `trust` is the
    side that the caller trusts where weights, configs and stamp contradict each other (`explain/trust.py`).
    `nodes` are the certificates of a model that is cut over several, `adapter` is the config of an adapter.
    """

    configs: tuple[Document, ...] = ()
    stamp: Document | None = None
    findings: tuple[Finding, ...] = ()
    given: Mapping[str, Any] = MappingProxyType({})
    trust: Side | None = None
    nodes: tuple[Node, ...] = ()
    adapter: Document | None = None

    @property
    def base_model(self) -> str | None:
        """The model that adapter_config.json names as the base of the adapter beside it."""
        base = self.adapter.values.get("base_model_name_or_path") if self.adapter else None
        return str(_brief(base)) if base and isinstance(base, str) else None

    @property
    def node(self) -> Node | None:
        """The one node that the stamp says this is."""
        if self.stamp is None or self.nodes or not isinstance(self.stamp.values.get("node"), dict):
            return None
        return Node(self.stamp.name, self.stamp.values)

    @property
    def model_type(self) -> str | None:
        """The `model_type` that a config names (lerobot calls it `type`)."""
        return self.type_named.value if self.type_named else None

    @property
    def type_named(self) -> Found | None:
        """The `model_type`, and where it stands."""
        for document in self.configs:
            for key in ("model_type", "type"):
                if isinstance(value := document.values.get(key), str) and value.strip():
                    return Found(str(_brief(value)), document.name, key)
        return None

    @property
    def named(self) -> Named:
        """How the model is called: by the stamp, and by the first config that says it."""
        stamped = self.stamp.values.get("family") if self.stamp else None
        stamped = stamped if isinstance(stamped, str) else None
        if (said := self.type_named) is not None:
            return Named(said.value, said.document, stamped=stamped)
        for document in self.configs:
            classes = document.values.get("architectures")
            if isinstance(classes, list) and classes and isinstance(classes[0], str):
                return Named(str(_brief(classes[0])), document.name, is_class=True, stamped=stamped)
        return Named(stamped=stamped)

    def names(self, family: Family) -> bool:
        """Whether the stamp is of this family or, without a stamp, a config has a value that names it."""
        if self.stamp and isinstance(id := self.stamp.values.get("family"), str):
            return id == family.id
        if family.config.named_by is None:
            return False
        key, value = family.config.named_by
        said = self.find((key,), ("",))
        return said is not None and said.value == value

    def find(self, spellings: Iterable[str], roots: Iterable[str]) -> Found | None:
        """The first value that one of the spellings has under one of the sections."""
        return next(self.find_all(spellings, roots), None)

    def find_all(self, spellings: Iterable[str], roots: Iterable[str]) -> Iterator[Found]:
        """Every value that a spelling has, in order of trust."""
        spellings, roots = tuple(spellings), tuple(roots)
        for document in self.configs:
            for root in roots:
                section = _section(document.values, root)
                if section is None:
                    continue
                for spelling in spellings:
                    value = read(section, spelling)
                    if value is not None:
                        where = ".".join(filter(None, (document.section, root)))
                        yield Found(_brief(value), document.name, place(where, spelling))

    def null_at(self, keys: Iterable[str], roots: Iterable[str]) -> str | None:
        """Where the first of some keys stands under one of the sections with null as its value."""
        keys, roots = tuple(keys), tuple(roots)
        for document in self.configs:
            for root in roots:
                section = _section(document.values, root)
                for key in keys if section is not None else ():
                    if section is not None and key in section and section[key] is None:
                        return f"{document.name}: {place(root, key)}"
        return None

    def said(self, name: str, spellings: Iterable[str], roots: Iterable[str]) -> list[Found]:
        """All that is said of `role.name`, what counts first."""
        said = [*filter(None, [self._told(name), self._certified(name)])]
        said += self.find_all(spellings, roots)
        return self.ranked(said)

    def has_set_aside(self, found: Found) -> bool:
        """Whether the certificate says that this statement of a config does not count."""
        aside = self.stamp.values.get(SET_ASIDE) if self.stamp else None
        return isinstance(aside, dict) and found.place in aside and aside[found.place] == found.value

    def ranked(self, said: Iterable[Found]) -> list[Found]:
        """What the caller says first, then the trusted side, else in order."""
        return sorted(said, key=lambda one: (one.side != "set", one.side != self.trust))

    def kind(self, role: str) -> Found | None:
        """The kind of part that the caller or the stamp says is in a role."""
        if (told := self._told(role)) is not None:
            return told
        parts = self.stamp.values.get("parts") if self.stamp else None
        kind = parts.get(role) if isinstance(parts, dict) else None
        return Found(kind, self.stamp.name, f"parts.{role}") if self.stamp and isinstance(kind, str) else None

    def stamped(self, name: str) -> Found | None:
        """What the caller or the stamp says of `role.dim`."""
        return self._told(name) or self._certified(name)

    def _told(self, name: str) -> Found | None:
        """What the caller says: with --set, or with another option that says where it is from."""
        value = self.given.get(name)
        return value if value is None or isinstance(value, Found) else Found(value, GIVEN, name)

    def _certified(self, name: str) -> Found | None:
        """What the stamp says of `role.dim`."""
        config = self.stamp.values.get("config") if self.stamp else None
        if not isinstance(config, dict) or config.get(name) is None:
            return None
        value = config[name]
        value = value.get("value") if isinstance(value, dict) else value
        where = self.stamp.name if self.stamp else STAMP
        return None if value is None else Found(_brief(value), where, f"config.{name}")

    def first_named(self, parts: Iterable[Part], roots: tuple[str, ...]) -> tuple[Part, ...]:
        """Of several kinds of a part those that the first statement about it names."""
        return next((named for _, named in self.named_kinds(parts, roots)), ())

    def named_kinds(
        self, parts: Iterable[Part], roots: tuple[str, ...]
    ) -> Iterator[tuple[Found, tuple[Part, ...]]]:
        """Each statement of a config that names kinds of a part, and which of several it names."""
        named = [part for part in parts if part.facts.named_by]
        keys = dict.fromkeys(key for part in named for key in part.facts.named_by[:-1])
        for said in self.find_all(keys, roots):
            fits = [part for part in named if str(said.value).endswith(part.facts.named_by[-1])]
            longest = max((len(part.facts.named_by[-1]) for part in fits), default=0)
            if fits:  # `fused-gelu-mlp` is no `gelu-mlp`
                yield said, tuple(part for part in fits if len(part.facts.named_by[-1]) == longest)


def read_documents(store: Store) -> Documents:
    """Every document beside the weights. One that cannot be parsed is a finding, not an error."""
    configs: list[Document] = []
    findings: list[Finding] = []
    stamp = adapter = None
    for name in (*_JSON_FILES, PROCESSOR, IMAGE_PROCESSOR, *_YAML_FILES, _ADAPTER, *stamp_names(store)):
        if name.endswith(STAMP) and stamp is not None:
            continue
        try:
            raw = store.side_file(name, _limit(name))
            if raw is None:
                continue
            values = _parse(name, raw.decode())
            if not isinstance(values, dict):
                raise ValueError(f"it holds a {type(values).__name__}, not an object")
        except CheckpointError as error:
            findings.append(_unreadable(name, error.message))
            continue
        except (ValueError, RecursionError) as error:
            findings.append(_unreadable(name, str(error)))
            continue
        if name.endswith(STAMP) and values.get("schema", STAMP_SCHEMA) != STAMP_SCHEMA:
            findings.append(_unknown_schema(name, values["schema"]))
        elif name.endswith(STAMP):
            stamp = Document(name, values)
        elif name == _ADAPTER:
            adapter = Document(name, values)
        else:
            configs.append(Document(name, values))
    configs = [*_with_images(configs), *_inside(store)]
    nodes = read_nodes(store)
    if nodes:
        stamp = Document(STAMP, joined_certificate(nodes))
    findings += node_findings(store, nodes)
    return Documents(tuple(configs), stamp, tuple(findings), nodes=tuple(nodes), adapter=adapter)


def _with_images(configs: Sequence[Document]) -> list[Document]:
    """The configs, with of the files that describe image processors the one that counts."""
    nested = [
        Document(one.name, images, _NESTED)
        for one in configs
        if one.name == PROCESSOR and isinstance(images := one.values.get(_NESTED), dict)
    ]
    left_out = (PROCESSOR, IMAGE_PROCESSOR) if nested else (PROCESSOR,)
    return [*(one for one in configs if one.name not in left_out), *nested]


def stamp_names(store: Store) -> tuple[str, ...]:
    """The names that a stamp of this checkpoint may have, the nearest first: of its one file, of its folder.

    >>> stamp_names(Store("a", "torch", files=["last.ckpt"], entries={}))
    ('last.dovetail.json', 'dovetail.json')
    """
    if len(store.files) != 1:
        return (STAMP,)
    return f"{os.path.splitext(store.files[0])[0]}.{STAMP}", STAMP


def _unknown_schema(name: str, schema: object) -> Finding:
    return Finding(
        code="certificate-schema",
        severity="error",
        message=f"{name} has schema {_brief(schema)!r}, this dovetail reads schema {STAMP_SCHEMA}: "
        "what it says is not known here",
        hint=f"update dovetail; without {name} nobody can tell which parameters were never trained",
    )


def _inside(store: Store) -> Iterator[Document]:
    """The plain values that a torch file carries beside its tensors."""
    inside = store.metadata.get("torch")
    if not isinstance(inside, dict):
        return
    for key in ("hyper_parameters", "model_config", "config", "args"):
        if isinstance(values := inside.get(key), dict):
            yield Document(f"{key} in the checkpoint", _parse_json(json.dumps(values)))


def _limit(name: str) -> int:
    """How long a file may be. The stamp has a line for each tensor; yaml is slow."""
    return 64 << 20 if name.endswith(STAMP) else 256 << 10 if name.endswith(".yaml") else 4 << 20


def _parse(name: str, text: str) -> Any:
    return _parse_json(text if name.endswith(".json") else yaml_as_json(text))


def _parse_json(text: str) -> Any:
    """The values; numbers that JSON does not have, although Python writes them, as words."""
    return json.loads(text, object_pairs_hook=_unique, parse_constant=str, parse_float=_finite)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError(f"it names `{twice(pairs)}` twice")
    return values


def _finite(digits: str) -> float | str:
    value = float(digits)
    return value if math.isfinite(value) else "-Infinity" if value < 0 else "Infinity"


def yaml_as_json(text: str) -> str:
    """The document with nothing in it that JSON does not have.

    Raises:
        ValueError: it is no YAML, or something in it could take the reader's time or memory.
    """
    import yaml

    depth = 0
    try:
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("it uses aliases")  # which can make a line stand for a billion
            if isinstance(event, yaml.ScalarEvent) and _is_long_number(event.value):
                # `1:1:1` is a number of base 60 to YAML, and the time to read one grows with its square
                raise ValueError(f"it has a number of more than {_MAX_NUMBER:,} characters")
            if depth > _MAX_DEPTH:
                raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")
        return json.dumps(yaml.safe_load(text), default=_as_text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except (TypeError, LookupError, AttributeError, OverflowError) as error:  # of tags such as `!!int ""`
        raise ValueError(f"a value is not of the type that it says: {error}") from error


def _is_long_number(text: str) -> bool:
    return len(text) > _MAX_NUMBER and not text.strip("0123456789abcdefABCDEFoxX:_.+- \n")


def _as_text(value: Any) -> str | list[str]:
    """A date or bytes in words, a set as a list."""
    return sorted(map(str, value)) if isinstance(value, set) else str(value)


def _unreadable(name: str, why: str) -> Finding:
    if name.endswith(STAMP):
        return Finding(
            code="certificate-unreadable",
            severity="error",
            message=f"{name} cannot be read: {why}",
            hint="fetch it again; without it nobody can tell which parameters were never trained. "
            "`dovetail stamp --overwrite` writes it anew",
        )
    return Finding(
        code="config-unreadable",
        severity="warning",
        message=f"{name} cannot be read: {why}",
        hint=f"repair or remove {name}; until then the values that only it knows are missing",
    )


def _section(values: Mapping[str, Any], root: str) -> Mapping[str, Any] | None:
    for key in root.split(".") if root else ():
        inner = values.get(key)
        if not isinstance(inner, dict):
            return None
        values = inner
    return values


def _is_small(value: list[Any] | dict[str, Any], depth: int = 1) -> bool:
    """Whether a list or map is one that settings have: rotary sections, tile sizes."""
    inner = list(value.values()) if isinstance(value, dict) else value
    return len(inner) <= _MAX_MEMBERS and all(
        depth > 0 and _is_small(one, depth - 1) if isinstance(one, list | dict) else _brief(one) == one
        for one in inner
    )


def _brief(value: Any) -> Any:
    """A value as it is said; in words where it is absurdly long or deep."""
    if isinstance(value, list | dict) and _is_small(value):
        return value
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'map'} of {len(value):,}"
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        return f"{value[:_MAX_TEXT]}..."
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        return "a number of more than 64 bits"
    return value


def config_documents(folder: Folder, name: str = "") -> Documents:
    """The documents of a model that has no weights yet: one config file, or those of the folder.

    Raises:
        CheckpointError: there is no config, or it cannot be read.
        RemoteError: a server did not give it.
    """
    there = () if name else folder.files()
    known = (*_JSON_FILES, PROCESSOR, IMAGE_PROCESSOR, *_YAML_FILES)
    names = [name] if name else [one for one in known if one in there]
    configs = []
    for one in names:
        try:
            values = _parse(one, folder.read(one, _limit(one)).decode())
        except (ValueError, RecursionError) as error:
            raise CheckpointError(
                f"the config cannot be read: {error}",
                file=os.path.join(folder.name, one),
                hint="repair it, or give another config.json",
            ) from None
        if not isinstance(values, dict):
            raise CheckpointError(
                "the config is no JSON object",
                file=os.path.join(folder.name, one),
                hint="repair it, or give another config.json",
            )
        configs.append(Document(one, values))
    configs = _with_images(configs)
    if not configs:
        raise CheckpointError(
            "there is no config in the folder", folder=folder.name, hint="looked for config.json"
        )
    return Documents(tuple(configs))
