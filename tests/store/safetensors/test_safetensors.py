"""Every MUST of the safetensors format, each with a file that breaks it and the whole message."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file, save_model

from dovetail.errors import DovetailError, FormatError
from dovetail.store.open import open_checkpoint
from dovetail.store.safetensors.read import read_safetensors
from dovetail.store.safetensors.write import header_bytes, in_shards, write_safetensors
from dovetail.store.source import LocalSource
from dovetail.store.write.tensor_data import TensorData
from files import raw_safetensors, safetensors_bytes

X = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
Y = {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}


def file_with(entries: Any, data: int = 16) -> bytes:
    return raw_safetensors(json.dumps(entries).encode(), bytes(data))


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty\n  file  FILE\n\nhint: the download failed; fetch it again"),
    "shorter than its length field": (
        b"\x08\x00\x00",
        "the file ends inside its 8-byte header length\n  file      FILE\n  expected  8 bytes from offset 0\n"
        "  found     a file of 3 bytes\n\nhint: the download or copy was cut off; fetch the file again",
    ),
    "header cut off": (
        raw_safetensors(b'{"x":{"dtype":"F32"')[:20],
        "the file ends inside its header\n  file      FILE\n  expected  19 bytes from offset 8\n"
        "  found     a file of 20 bytes\n\nhint: the download or copy was cut off; fetch the file again",
    ),
    "header over 100 MB": (
        (100_000_001).to_bytes(8, "little") + b"{}",
        "not a valid safetensors file: the header says it is 100,000,001 bytes long\n  file      FILE\n"
        "  expected  at most 100,000,000",
    ),
    "absurd header length": (
        b"\xff" * 8 + b"{}",
        "not a valid safetensors file: the header says it is 18,446,744,073,709,551,615 bytes long\n"
        "  file      FILE\n  expected  at most 100,000,000",
    ),
    "header of no bytes": (
        bytes(8) + b"{",
        "not a valid safetensors file: the header says it is 0 bytes long\n  file      FILE\n"
        "  expected  at least 2 (`{}`)",
    ),
    "header that does not begin with a brace": (
        raw_safetensors(b" {}"),
        "not a valid safetensors file: the header begins with b' '\n  file      FILE\n  expected  `{`",
    ),
    "header that is not UTF-8": (
        raw_safetensors(b'{"\xff":1}'),
        "not a valid safetensors file: the header is not UTF-8 (byte 2)\n  file  FILE",
    ),
    "header that is not JSON": (
        raw_safetensors(b'{"x":'),
        "not a valid safetensors file: the header is not JSON: Expecting value: line 1 column 6 (char 5)\n  file  FILE",
    ),
    "numbers too long to read": (
        raw_safetensors(b'{"x":' + b"9" * 5000 + b"}"),
        "not a valid safetensors file: the header is not JSON: Exceeds the limit (4300 digits) for integer string "
        "conversion: value has 5000 digits; use sys.set_int_max_str_digits() to increase the limit\n  file  FILE",
    ),
    "nesting too deep": (
        raw_safetensors(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "not a valid safetensors file: the header is not JSON: maximum recursion depth exceeded while decoding a "
        "JSON array from a unicode string\n  file  FILE",
    ),
    "a name twice": (
        raw_safetensors(b'{"x":%s,"x":%s}' % (json.dumps(X).encode(), json.dumps(Y).encode()), bytes(16)),
        "not a valid safetensors file: the header names `x` twice\n  file  FILE",
    ),
    "a name twice, one of its words spelled with an escape": (
        raw_safetensors(
            b'{"x":%s,"x":%s,"y":{"dtype":"F32","shape":[2],"data\\u005foffsets":[8,16]}}'
            % (json.dumps(X).encode(), json.dumps(X).encode()),
            bytes(16),
        ),
        "not a valid safetensors file: the header names `x` twice\n  file  FILE",
    ),
    "a key of a tensor twice": (
        raw_safetensors(b'{"x":{"dtype":"F64","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
        "not a valid safetensors file: the header names `dtype` twice\n  file  FILE",
    ),
    "a shape of a hundred thousand axes": (
        file_with({"x": {**X, "shape": [2] * 100_000}}, 8),
        "not a valid safetensors file: tensor `x` has the shape a list of 100,000\n  file      FILE\n"
        "  expected  at most 64 sizes",
    ),
    "an offset that is a fraction": (
        raw_safetensors(b'{"x":{"dtype":"F32","shape":[2],"data_offsets":[0.0,8]}}', bytes(8)),
        "not a valid safetensors file: the header is not JSON: the number 0.0 is not a whole one\n  file  FILE",
    ),
    "a negative offset": (
        file_with({"x": {**X, "data_offsets": [-8, 0]}}, 8),
        "not a valid safetensors file: tensor `x` has the data_offsets [-8, 0]\n  file      FILE\n"
        "  expected  [start, end]",
    ),
    "metadata that are not strings": (
        file_with({"__metadata__": {"step": 3}}, 0),
        "not a valid safetensors file: `__metadata__` is not a map of strings to strings\n  file  FILE",
    ),
    "a tensor that is no object": (
        file_with({"x": 3}, 0),
        "not a valid safetensors file: tensor `x` is described by 3\n  file      FILE\n  expected  an object",
    ),
    "no dtype": (
        file_with({"x": {"shape": [2], "data_offsets": [0, 8]}}),
        "not a valid safetensors file: tensor `x` has no `dtype`\n  file  FILE",
    ),
    "unknown dtype": (
        file_with({"x": {**X, "dtype": "F12"}}, 8),
        'not a valid safetensors file: tensor `x` has the dtype "F12"\n  file      FILE\n  expected  one of BOOL, F4, '
        "F6_E2M3, F6_E3M2, U8, I8, F8_E5M2, F8_E4M3, F8_E8M0, F8_E4M3FNUZ, F8_E5M2FNUZ, I16, U16, F16, BF16, I32, "
        "U32, F32, C64, F64, I64, U64, C128",
    ),
    "negative sizes that multiply to something": (
        file_with({"x": {**X, "shape": [-1, -2]}}, 8),
        "not a valid safetensors file: tensor `x` has the shape [-1, -2]\n  file      FILE\n"
        "  expected  a list of sizes between 0 and 281,474,976,710,655",
    ),
    "a size that is true": (
        file_with({"x": {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]}}, 8),
        "not a valid safetensors file: tensor `x` has the shape [true, 2]\n  file      FILE\n"
        "  expected  a list of sizes between 0 and 281,474,976,710,655",
    ),
    "sizes that overflow": (
        file_with({"x": {**X, "shape": [1 << 40, 1 << 40]}}, 8),
        "not a valid safetensors file: tensor `x` has 8 bytes\n  file      FILE\n  expected  a size that fits 64 bits",
    ),
    "a dtype of another size": (
        file_with({"x": {**X, "dtype": "F64"}}, 8),
        "not a valid safetensors file: tensor `x` has 8 bytes\n  file      FILE\n  expected  16 for F64 [2]",
    ),
    "offsets backwards": (
        file_with({"x": {**X, "data_offsets": [8, 0]}}, 8),
        "not a valid safetensors file: tensor `x` has the data_offsets [8, 0]\n  file      FILE\n"
        "  expected  [start, end]",
    ),
    "one offset": (
        file_with({"x": {**X, "data_offsets": [0]}}, 8),
        "not a valid safetensors file: tensor `x` has the data_offsets [0]\n  file      FILE\n  expected  [start, end]",
    ),
    "overlap": (
        file_with({"x": X, "y": {**Y, "data_offsets": [4, 12]}}, 12),
        "not a valid safetensors file: tensor `y` overlaps `x`\n  file      FILE\n  expected  a start at 8\n"
        "  found     4",
    ),
    "hole": (
        file_with({"x": X, "y": {**Y, "data_offsets": [12, 20]}}, 20),
        "not a valid safetensors file: there is a hole of 4 bytes before tensor `y`\n  file  FILE",
    ),
    "body cut off": (
        file_with({"x": X, "y": Y}, 15),
        "not a valid safetensors file: the file ends inside tensor `y`\n  file      FILE\n  expected  BODY+16 bytes\n"
        "  found     BODY+15, 1 too few\n\nhint: the download or copy was cut off; fetch the file again",
    ),
    "bytes after the last tensor": (
        file_with({"x": X}, 16),
        "not a valid safetensors file: 8 bytes follow the last tensor\n  file  FILE",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_breaks_a_rule_is_refused_with_its_own_message(case: str, tmp_path: Path) -> None:
    content, message = BAD[case]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    if "BODY" in message:
        body = 8 + int.from_bytes(content[:8], "little")
        message = message.replace("BODY+16", f"{body + 16:,}").replace("BODY+15", f"{body + 15:,}")
    with pytest.raises(FormatError) as error:
        open_checkpoint(path)
    if "hint: " not in message:
        message += f"\n\nhint: {FormatError.next_step}"
    assert str(error.value) == message.replace("FILE", str(path))


def test_every_bad_file_is_bad_for_safetensors_too(tmp_path: Path) -> None:
    """The sibling of the test above: the library that owns the format refuses these files as well."""
    accepted = []
    for case, (content, _) in BAD.items():
        path = tmp_path / "model.safetensors"
        path.write_bytes(content)
        try:
            with safe_open(path, "np"):
                accepted.append(case)
        except Exception:  # noqa: BLE001 - whatever it raises, it refused
            continue
    # The format says "MUST begin with a {" and "Duplicate keys are disallowed"; safetensors 0.8 lets a
    # space pass, and of two equal names the last.
    assert accepted == [
        "header that does not begin with a brace",
        "a name twice, one of its words spelled with an escape",
    ]


def test_what_the_library_writes_is_read_back(tmp_path: Path) -> None:
    tensors = {
        "a.weight": torch.randn(3, 5, dtype=torch.bfloat16),
        "empty": torch.empty(0, 4),
        "scalar": torch.tensor(2.5),
        "flags": torch.tensor([True, False]),
        "f8": torch.ones(4).to(torch.float8_e4m3fn),
    }
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={"format": "pt", "note": "data_offsets"})
    with open_checkpoint(path) as store:
        assert {name: list(entry.shape or ()) for name, entry in store.entries.items()} == {
            name: list(tensor.shape) for name, tensor in tensors.items()
        }
        assert store.metadata == {"safetensors": {"format": "pt", "note": "data_offsets"}}
        for name, tensor in tensors.items():
            expected = (
                tensor.contiguous().view(torch.uint8) if tensor.ndim else tensor.reshape(1).view(torch.uint8)
            )
            assert store.read(name) == bytes(expected.flatten().tolist())
            assert b"".join(store.blocks(name, 4)) == store.read(name)


def test_shared_tensors_of_save_model_are_aliases(tmp_path: Path) -> None:
    module = torch.nn.Module()
    module.embed = torch.nn.Embedding(7, 3)
    module.head = torch.nn.Linear(3, 7, bias=False)
    module.head.weight = module.embed.weight
    path = tmp_path / "model.safetensors"
    save_model(module, str(path))
    with open_checkpoint(path) as store:
        assert list(store.entries) == ["embed.weight"]
        assert store.aliases == {"head.weight": "embed.weight"}


def test_a_header_out_of_order_and_padded_is_fine(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw_safetensors(json.dumps({"y": Y, "x": X}).encode() + b"   ", bytes(range(16))))
    with open_checkpoint(path) as store:
        assert store.read("x") == bytes(range(8))


def test_what_we_write_the_library_reads(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    tensors = [
        TensorData("a", "F32", (2, 3), [bytes(8), bytes(range(16))]),
        TensorData("hole", "BF16", (5,), None),
        TensorData("last hole", "F16", (3, 1), None),
    ]
    write_safetensors(str(path), tensors)
    assert len(header_bytes(tensors)) % 64 == 0
    with safe_open(path, "pt") as file:
        assert file.get_tensor("a").flatten().view(torch.uint8).tolist() == [0] * 8 + list(range(16))
        assert file.get_tensor("hole").tolist() == [0.0] * 5
        assert file.get_tensor("last hole").shape == (3, 1)


def test_a_tensor_that_gives_too_few_bytes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    with pytest.raises(DovetailError, match=r"^`a` gave 4 bytes\n  expected  8\n"):
        write_safetensors(str(path), [TensorData("a", "F32", (2,), [bytes(4)])])


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 400))
def test_shards_hold_everything_once_in_order(sizes: list[int], limit: int) -> None:
    shards = in_shards(sizes, limit)
    assert [i for shard in shards for i in shard] == list(range(len(sizes)))
    assert all(len(shard) == 1 or sum(sizes[i] for i in shard) <= limit for shard in shards)
    assert all(shards)


@given(st.data())
def test_no_mutation_gives_anything_but_our_errors(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(safetensors_bytes({"a.0.w": ["F32", [2, 3]], "b": ["BF16", [4]]}))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        action = data.draw(st.sampled_from(["set", "cut", "insert", "delete"]))
        if action == "set":
            content[position] = data.draw(st.integers(0, 255))
        elif action == "cut":
            del content[position:]
        elif action == "insert":
            content[position:position] = data.draw(st.binary(max_size=8))
        else:
            del content[position : position + data.draw(st.integers(1, 8))]
        if not content:
            break
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(content))
    source = LocalSource(str(path))
    try:
        shard = read_safetensors(source)
    except DovetailError:
        return
    finally:
        source.close()
    assert all(entry.bytes == entry.end - entry.start for entry in shard.entries.values())
