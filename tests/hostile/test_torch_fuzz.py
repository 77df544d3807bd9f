"""Random torch files: whatever is in them, they are read or refused with an error of ours."""

import io
import json
import pickletools
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch_attacks import call, name, numbers, pickled, plain_zip, storage, tensor, text

from dovetail.errors import CheckpointError
from dovetail.store.source import LocalSource
from dovetail.store.torchfile.pickle.calls import CALLS
from dovetail.store.torchfile.pickle.flatten import flatten
from dovetail.store.torchfile.pickle.unpickle import unpickle
from dovetail.store.torchfile.read import read_torch
from dovetail.store.torchfile.write import write_torch
from dovetail.store.write.tensor_data import TensorData


@pytest.fixture(scope="module")
def good_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of torch.save's kind that is right, for the fuzzer to break."""
    path = tmp_path_factory.mktemp("good") / "x.pth"
    tensors = [
        TensorData("model/a.weight", "F32", (2, 3), [bytes(24)]),
        TensorData("model/b.weight", "F8_E4M3", (5,), [bytes(5)]),
    ]
    values = {"epoch": 3, "hyper_parameters": {"lr": 0.1, "names": ["a", ("b", None)]}}
    write_torch(str(path), tensors, aliases={"model/c.weight": "model/a.weight"}, values=values)
    return path.read_bytes()


FUZZ = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
EDITS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4)


def read_or_refuse(data: bytes, folder: Path) -> bool:
    """Whether the file is read; what else than our errors comes out fails the test."""
    path = folder / "fuzzed.pth"
    path.write_bytes(data)
    try:
        shard = read_torch(LocalSource(str(path)))
    except CheckpointError:
        return False
    for entry in shard.entries.values():
        assert 0 <= entry.start <= entry.end <= len(data)
    return True


@FUZZ
@given(edits=EDITS)
def test_any_changed_bytes_are_read_or_refused(
    good_file: bytes, tmp_path: Path, edits: list[tuple[float, int]]
) -> None:
    broken = bytearray(good_file)
    for place, value in edits:
        broken[int(place * len(broken))] = value
    read_or_refuse(bytes(broken), tmp_path)


@FUZZ
@given(cut=st.floats(0, 1), start=st.floats(0, 1))
def test_any_part_of_a_file_is_refused(good_file: bytes, tmp_path: Path, cut: float, start: float) -> None:
    first, length = int(start * len(good_file)), int(cut * len(good_file))
    part = good_file[first : first + length]
    assert read_or_refuse(part, tmp_path) == (part == good_file)


@FUZZ
@given(edits=EDITS)
def test_any_changed_pickle_is_read_or_refused(
    good_file: bytes, tmp_path: Path, edits: list[tuple[float, int]]
) -> None:
    """The checksum is made right again, so that the pickle machine is what meets the change."""
    with zipfile.ZipFile(io.BytesIO(good_file)) as file:
        entries = {path: file.read(path) for path in file.namelist()}
    broken = bytearray(entries["archive/data.pkl"])
    for place, value in edits:
        broken[int(place * len(broken))] = value
    read_or_refuse(plain_zip(entries | {"archive/data.pkl": bytes(broken)}), tmp_path)


OPCODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]
PIECES = st.one_of(
    st.sampled_from(OPCODES),
    st.binary(max_size=6),
    st.sampled_from(
        [call("somebody", "Colour", b"K\1"), storage(), tensor()[2:-1], text("key"), numbers(2, 3)]
    ),
    st.sampled_from([name(*path) for path in CALLS]),
    st.builds(struct.pack, st.just("<I"), st.integers(0, 12)),
)


@settings(FUZZ, max_examples=400)
@given(pieces=st.lists(PIECES, max_size=40))
@example(pieces=[b"]", b"q\0", b"h\0", b"a"])
def test_any_opcodes_give_a_value_or_a_refusal(pieces: list[bytes]) -> None:
    try:
        data = pickled(*pieces)
        flat = flatten(unpickle(data).value, size=len(data))
    except CheckpointError:
        return
    assert json.dumps(flat.values)


def test_fuzzer_starts_from_a_file_that_is_read(good_file: bytes, tmp_path: Path) -> None:
    assert read_or_refuse(good_file, tmp_path)
