"""Small files that would take much memory or time: each is read within a bound of its own size, or refused."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from torch_attacks import pickled

from dovetail.errors import FormatError
from dovetail.explain.documents import yaml_as_json
from dovetail.store.index import parse_json
from dovetail.store.safetensors.read import read_header
from dovetail.store.source import LocalSource
from dovetail.store.store import Entry, _gather
from dovetail.store.torchfile.pickle.unpickle import unpickle
from measured import peak_of

DENSE = {
    "lists": "[" + "[]," * 1_600_000 + "[]]",
    "dicts": "[" + "{}," * 1_600_000 + "{}]",
    "numbers": "[" + "257," * 1_200_000 + "1]",
    "texts": "[" + '"a",' * 1_200_000 + "1]",
}


@pytest.mark.parametrize("kind", DENSE)
def test_json_of_brackets_and_commas_is_refused_unread(kind: str, tmp_path: Path) -> None:
    header = b'{"a":' + DENSE[kind].encode() + b"}"
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    (tmp_path / "x.index.json").write_bytes(header)
    for read, name in ((read_header, "x.safetensors"), (parse_json, "x.index.json")):
        source = LocalSource(str(tmp_path / name))

        def refuse(read=read, source=source) -> None:  # type: ignore[no-untyped-def]
            with pytest.raises(FormatError, match="holds hardly any names"):
                read(source)

        assert peak_of(refuse) < 3 * len(header)


def test_a_long_header_with_names_is_read(tmp_path: Path) -> None:
    names = [f"model.layers.{i}.mlp.experts.{j}.up_proj.weight" for i in range(400) for j in range(128)]
    header = {n: {"dtype": "F32", "shape": [1, 1, 1, 1], "data_offsets": [0, 4]} for n in names}
    raw = json.dumps(header, separators=(",", ":")).encode()
    assert len(raw) > 5 << 20
    (tmp_path / "x").write_bytes(len(raw).to_bytes(8, "little") + raw)
    assert len(read_header(LocalSource(str(tmp_path / "x")))[0]) == len(names)


@pytest.mark.parametrize("body", [b"\x8f" * 1_100_000, b"}K\1K\2s" * 1_100_000, b"(K\1\x91" * 1_100_000])
def test_containers_of_a_pickle_count_by_what_they_take(body: bytes) -> None:
    with pytest.raises(FormatError, match="makes too many objects"):
        unpickle(pickled(b"(" + body + b"l"))


def test_a_thin_view_of_a_sparse_storage_reads_little(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with path.open("wb") as file:
        os.truncate(path, 40 << 30)
        file.seek(10 << 30)
        file.write(np.float32(7).tobytes())
    entry = Entry("F32", (4, 3), 0, 0, (30 << 30) + 12, (10 << 28, 1))
    read: list[bytes] = []
    source = LocalSource(str(path))
    assert peak_of(lambda: read.append(_gather(source, entry, "x"))) < 4 << 20
    expected = np.zeros((4, 3), np.float32)
    expected[1, 0] = 7
    assert read[0] == expected.tobytes()


@pytest.mark.parametrize(
    ("shape", "strides"),
    [
        ((3, 5), (1, 3)),
        ((700, 3, 2), (1, 100_000, 1000)),
        ((3, 900), (1, 2000)),
        ((2, 1, 4), (9, 7, 0)),
        ((0, 3), (1, 5)),
    ],
)
def test_any_strided_view_is_what_numpy_reads(
    shape: tuple[int, ...], strides: tuple[int, ...], tmp_path: Path
) -> None:
    values = np.random.default_rng(0).standard_normal(1_900_000).astype(np.float32)
    (tmp_path / "x").write_bytes(values.tobytes())
    wanted = np.lib.stride_tricks.as_strided(values, shape, [4 * stride for stride in strides])
    entry = Entry("F32", shape, 0, 0, 0, strides)
    assert _gather(LocalSource(str(tmp_path / "x")), entry, "x") == wanted.tobytes()


def test_a_long_plain_value_of_yaml_is_refused_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(ValueError, match="a number of more than 4,096 characters"):
        yaml_as_json("a: " + "1:" * 130_000 + "1")
    assert time.monotonic() - started < 5
    assert len(json.loads(yaml_as_json("a: " + "word " * 5000))["a"]) == 24_999
