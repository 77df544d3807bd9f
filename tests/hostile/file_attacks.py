"""Hostile indexes, listings, folders and config files: each is written into a folder, and says what to open.

What safetensors files may be is in `tests/store/safetensors/test_safetensors.py`, torch files are in `torch_attacks.py`.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from files import MODELS, header_of, plan_of, safetensors_bytes

Attack = Callable[[Path], Path]
INDEX = "model.safetensors.index.json"
SHARD = safetensors_bytes({"a": ["F32", [2]]})
SENTINEL = "code-ran"
SMALL = header_of(plan_of("qwen2", MODELS["qwen2"][0]), "hf")


def index(weight_map: object, **files: bytes) -> Attack:
    """A folder with an index, and files beside it."""
    return index_file(json.dumps({"weight_map": weight_map}).encode(), **files)


def index_file(content: bytes, **files: bytes) -> Attack:
    """A folder with an index of these bytes."""

    def write(folder: Path) -> Path:
        for name, data in {INDEX: content, **files}.items():
            (folder / name).write_bytes(data)
        return folder

    return write


def named(name: str, make: Callable[[Path], object]) -> Attack:
    """A folder whose index names one file, which is what `make` puts there."""

    def write(folder: Path) -> Path:
        (folder / INDEX).write_text(json.dumps({"weight_map": {"a": name}}))
        make(folder / name)
        return folder

    return write


def listing(content: object) -> Attack:
    """A header listing; bytes are written as they are."""

    def write(folder: Path) -> Path:
        path = folder / "listing.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


def alone(make: Callable[[Path], object], name: str = "model.safetensors") -> Attack:
    """The path of something that is no file, or leads elsewhere."""

    def write(folder: Path) -> Path:
        make(folder / name)
        return folder / name

    return write


def beside(make: Callable[[Path], object], name: str = "model.safetensors") -> Attack:
    """The same, with the folder given rather than the file."""

    def write(folder: Path) -> Path:
        make(folder / name)
        return folder

    return write


def outside(path: Path) -> None:
    """A link to a good file beside the folder."""
    target = path.parent.parent / "outside.safetensors"
    target.write_bytes(SHARD)
    path.symlink_to(target)


def folder_outside(path: Path) -> None:
    """A link to a folder beside the folder, with a good file in it."""
    target = path.parent.parent / "elsewhere"
    target.mkdir()
    (target / "latest-checkpoint.pt").write_bytes(SHARD)
    path.symlink_to(target)


def loop(path: Path) -> None:
    """A link to itself."""
    path.symlink_to(path.name)


def device(path: Path) -> None:
    """A link to a file that never ends."""
    path.symlink_to("/dev/zero")


def long(size: int) -> Callable[[Path], object]:
    """A file of this many bytes that takes no room."""

    def write(path: Path) -> None:
        path.write_bytes(b"{")
        os.truncate(path, size)

    return write


def nested(depth: int, begin: bytes = b"[", end: bytes = b"]") -> bytes:
    """JSON so many levels deep."""
    return begin * depth + (b"1" if begin != b"[" else b"") + end * depth


INDEXES: dict[str, Attack] = {
    "weight_map is a list": index(["a", "b"]),
    "weight_map is null": index(None),
    "weight_map maps to a number": index({"a": 1}),
    "weight_map maps to a list": index({"a": ["x.safetensors"]}),
    "weight_map maps to a map": index({"a": {"b": {"c": {}}}}),
    "weight_map maps to nothing": index({"a": ""}),
    "weight_map is nested deeply": index_file(b'{"weight_map":' + nested(100_000) + b"}"),
    "weight_map nests as deep as Python reads": index_file(b'{"weight_map":{"a":' + nested(900) + b"}}"),
    "a tensor twice": index_file(b'{"weight_map":{"a":"x.safetensors","a":"y.safetensors"}}'),
    "weight_map twice": index_file(b'{"weight_map":{"a":"x"},"weight_map":{"b":"y"}}'),
    "a number of 5000 digits": index_file(b'{"weight_map":{"a":' + b"9" * 5000 + b"}}"),
    "not UTF-8": index_file(b'{"weight_map":{"\xff":"x"}}'),
    "cut off": index_file(b'{"weight_map":{"a":"x'),
    "empty": index_file(b""),
    "zeros": index_file(bytes(100)),
    "200 MB": beside(long(200_000_000), INDEX),
    "a file name with NUL": index({"a": "x\0.safetensors"}),
    "a file name too long for a file": index({"a": "x" * 300}),
    "a file name with a lone surrogate": index({"a": "\ud800.safetensors"}),
    "a file name that clears the screen": index({"a": "\x1b[2J"}),
    "a home folder": index({"a": "~/weights.safetensors"}),
    "an address": index({"a": "https://example.com/x.safetensors"}),
    "it names itself": named(INDEX, lambda _: None),
    "it names a folder": named("shards", Path.mkdir),
    "it names a pipe": named("x.safetensors", os.mkfifo),
    "it names a device": named("x.safetensors", device),
    "it names a link to itself": named("x.safetensors", loop),
    "it names a link into nothing": named("x.safetensors", lambda path: path.symlink_to("nothing")),
    "it names a pointer": named(
        "x.safetensors", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\nsize x\n")
    ),
    "it names a web page": named("x.safetensors", lambda path: path.write_text("<html>\x1b[2J sign in")),
    "it names an empty file": named("x.safetensors", Path.touch),
    "it is a link out": beside(outside, INDEX),
    "it is weights": beside(lambda path: path.write_bytes(SHARD), INDEX),
    "it is a web page": beside(lambda path: path.write_text("<!doctype html><title>Sign in"), INDEX),
    "it is a pointer": beside(
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\nsize 1234\n"), INDEX
    ),
}

LISTINGS: dict[str, Attack] = {
    "a tensor twice": listing(b'{"a":["F32",[2]],"a":["F32",[3]]}'),
    "a key of a tensor twice": listing(b'{"a":{"dtype":"F32","shape":[2],"shape":[3]}}'),
    "no sizes": listing({"a": ["F32", None]}),
    "sizes that are true": listing({"a": ["F32", [True, 2]]}),
    "sizes that are fractions": listing({"a": ["F32", [2.5]]}),
    "sizes that are not numbers": listing(b'{"a":["F32",[NaN]]}'),
    "sizes that are endless": listing(b'{"a":["F32",[Infinity]]}'),
    "a size of 4000 digits": listing(b'{"a":["F32",[' + b"9" * 4000 + b"]]}"),
    "100,000 axes": listing({"a": ["F32", [2] * 100_000]}),
    "a dtype that is a list": listing({"a": {"dtype": ["F32"], "shape": [2]}}),
    "a dtype of a million letters": listing({"a": ["F" * 1_000_000, [2]]}),
    "nested deeply": listing(b'{"a":' + nested(100_000) + b"}"),
    "nested as deep as Python reads": listing(b'{"a":["F32",' + nested(900) + b"]}"),
    "maps as deep as Python reads": listing(nested(900, b'{"a":', b"}")),
    "files in files": listing({"x": {"y": {"z": {"w": ["F32", [2]]}}}}),
    "only numbers": listing([1] * 1000),
    "a tensor of 2**90 elements": listing({"a": ["F32", [1 << 45, 1 << 45]]}),
    "thousands of empty files": listing({f"{i}.pth": {} for i in range(30_000)}),
}

FOLDERS: dict[str, Attack] = {
    "a pipe": alone(os.mkfifo),
    "a device": alone(device),
    "a link into nothing": alone(lambda path: path.symlink_to("nothing")),
    "a link to itself": alone(loop),
    "a link out": alone(outside),
    "a folder with a pipe": beside(os.mkfifo),
    "a folder with a link into nothing": beside(lambda path: path.symlink_to("nothing")),
    "a folder with a link to itself": beside(loop),
    "a folder with a link out": beside(outside),
    "a folder with a link to a device": beside(device),
    "a folder with a folder that leads out": beside(folder_outside, "checkpoints"),
    "a folder with a folder called as weights are": beside(Path.mkdir),
}


def config(content: bytes, name: str = "config.json") -> Attack:
    """A good checkpoint and a config file beside it."""
    return with_config(lambda path: path.write_bytes(content), name)


def with_config(make: Callable[[Path], object], name: str = "config.json") -> Attack:
    def write(folder: Path) -> Path:
        (folder / "listing.json").write_text(json.dumps(SMALL))
        make(folder / name)
        return folder / "listing.json"

    return write


def said(**values: Any) -> Attack:
    """A config that says this."""
    return config(json.dumps({"model_type": "qwen2", **values}).encode())


def yaml(text: str) -> Attack:
    """The same as LitGPT's config."""
    return config(text.encode(), "model_config.yaml")


BOMB = "a0: &a0 [x, x]\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40))
MERGES = "a0: &a0 {x: 1}\n" + "\n".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], y{i}: 1}}" for i in range(1, 12)
)

# The header is good, so these are findings beside it.
CONFIGS: dict[str, Attack] = {
    "broken": config(b'{"hidden_size": 61'),
    "a list": config(b"[1, 2]"),
    "a text": config(b'"qwen2"'),
    "empty": config(b""),
    "not UTF-8": config(b'{"model_type": "\xff"}'),
    "UTF-16": config('{"model_type": "qwen2"}'.encode("utf-16")),
    "nested deeply": config(b'{"a":' + nested(100_000) + b"}"),
    "a key twice": config(b'{"hidden_size": 61, "hidden_size": 62}'),
    "5 MB": with_config(long(5_000_000)),
    "a link out": with_config(outside),
    "a pipe": with_config(os.mkfifo),
    "a folder": with_config(Path.mkdir),
    "a number of 4000 digits": config(b'{"num_attention_heads": ' + b"9" * 4000 + b"}"),
    "a number without end": config(b'{"num_attention_heads": 1e999, "rms_norm_eps": NaN}'),
    "no number": said(num_attention_heads="four", hidden_size=[61], num_hidden_layers={"a": 3}),
    "a list of many": said(num_attention_heads=[1] * 100_000),
    "a text of many letters": said(hidden_act="x" * 1_000_000, num_attention_heads="y" * 1_000_000),
    "as deep as Python reads": config(b'{"num_attention_heads":' + nested(900) + b"}"),
    "a model_type of many letters": said(model_type="x" * 10_000),
    "a model_type that is a list": said(model_type=["qwen2"]),
    "a negative number": said(num_attention_heads=-4),
    "nothing": said(num_attention_heads=0),
    "true": said(num_attention_heads=True),
    "text that moves the cursor": said(hidden_act="\x1b[2J\u202e"),
    "sections that are none": said(text_config=[], vision_config="x"),
    "a stamp that is none": config(b'{"config": [1, 2]}', "dovetail.json"),
    "a stamp with nothing in it": config(
        b'{"config": {"text.q_heads": {"value": {"value": 4}}}}', "dovetail.json"
    ),
    "YAML that runs code": yaml(f'a: !!python/object/apply:os.system ["touch {SENTINEL}"]'),
    "YAML that names a class": yaml("a: !!python/name:os.system"),
    "YAML that bombs": yaml(BOMB),
    "YAML that bombs by merging": yaml(MERGES),
    "YAML that contains itself": yaml("a: &a [*a]"),
    "YAML with an int that is none": yaml('n_head: !!int ""'),
    "YAML with a flag that is none": yaml("n_head: !!bool x"),
    "YAML with a date that is none": yaml("n_head: !!timestamp x"),
    "YAML with a float that is none": yaml("n_head: !!float x"),
    "YAML with a key that is a list": yaml("[1]: 2"),
    "YAML with a key that is a date": yaml("2020-01-01: 2"),
    "YAML with a date": yaml("n_head: 2020-01-01"),
    "YAML with a set": yaml("n_head: !!set {a, b}"),
    "YAML with bytes": yaml("n_head: !!binary aGVsbG8="),
    "YAML without end": yaml("n_head: .inf\nnorm_eps: .nan"),
    "YAML nested deeply": yaml("[" * 10_000 + "]" * 10_000),
    "YAML of 300 kB": with_config(long(300_000), "model_config.yaml"),
    "YAML with tabs": yaml("a:\n\t- b: @x"),
}
