"""Zip files by other writers and over a network: every tensor at its right place, in few reads."""

import struct
import sys
import zipfile
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from dovetail.errors import FormatError
from dovetail.store.source import ByteSource, LocalSource
from dovetail.store.torchfile.read import read_torch
from dovetail.store.torchfile.zip import read_archive
from torchfiles import check_values, octets, random, saved


class Remote(ByteSource):
    """A file that counts how often it is asked."""

    def __init__(self, data: bytes) -> None:
        self.name, self.size, self.data = "remote.pth", len(data), data
        self.reads: list[tuple[int, int]] = []

    def read_at(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return self.data[offset : offset + length]

    def close(self) -> None:
        pass


def big_state() -> dict[str, torch.Tensor]:
    return {f"layers.{index}.weight": torch.empty(17 + index, 999) for index in range(40)}


def test_remote_file_costs_five_reads(tmp_path: Path) -> None:
    """Its first bytes, its directory, its pickle, the first and the last header."""
    path = tmp_path / "x.pth"
    local = saved(big_state(), path)
    source = Remote(path.read_bytes())
    assert read_torch(source) == local
    assert len(source.reads) == 5
    assert sum(length for _, length in source.reads) < 100_000


def test_directory_longer_than_one_read(tmp_path: Path) -> None:
    path, state = tmp_path / "x.pth", {f"w{index}": torch.full((2,), index) for index in range(1500)}
    local = saved(state, path)
    assert read_torch(Remote(path.read_bytes())) == local
    check_values(path, state)


def test_directory_of_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "x.pth").open("wb") as file:
        file.write(b"PK\3\4")
        file.seek(100_000_005)
        file.write(struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, 100_000_001, 4, 0))
    with pytest.raises(FormatError) as caught:
        read_torch(LocalSource(str(tmp_path / "x.pth"), name="x.pth"))
    assert str(caught.value) == (
        "not a valid torch file: its directory is 100,000,001 bytes long\n"
        "  file      x.pth\n"
        "  expected  at most 100,000,000\n\n"
        f"hint: {FormatError.next_step}"
    )


def test_wide_sizes_stand_behind_other_extra_fields(tmp_path: Path) -> None:
    """Another program may write the 64-bit sizes after a time stamp, and though they would fit 32."""
    tensor = random(3)
    torch.save({"w": tensor}, tmp_path / "x.pth")
    data = rezipped(tmp_path / "x.pth")
    at = data.index(b"PK\1\2", data.index(b"x/byteorder", data.index(b"PK\1\2")))
    name, start = b"x/data/0", int.from_bytes(data[at + 42 : at + 46], "little")
    assert data[at + 46 : at + 54] == name
    extra = b"UT\5\0\1aaaa" + struct.pack("<2H3Q", 1, 24, 12, 12, start)
    entry = bytearray(data[at : at + 54] + extra)
    entry[20:28] = b"\xff" * 8
    entry[30:32], entry[42:46] = struct.pack("<H", len(extra)), b"\xff" * 4
    end = bytearray(data[-22:])
    end[12:16] = (int.from_bytes(end[12:16], "little") + len(extra)).to_bytes(4, "little")
    wide = tmp_path / "wide.pth"
    wide.write_bytes(data[:at] + entry + data[at + 54 : -22] + end)
    check_values(wide, {"w": tensor})


def rezipped(path: Path, extra: bytes = b"") -> bytes:
    """The file as another program packs it again: no alignment, other extra fields."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(path.with_suffix(".zip"), "w") as new:
        for entry in old.infolist():
            fresh = zipfile.ZipInfo(entry.filename)
            fresh.extra = extra
            new.writestr(fresh, old.read(entry))
    return path.with_suffix(".zip").read_bytes()


@pytest.mark.parametrize("extra", [b"", b"UT\x05\0\x01aaaa", b"UT\x19\0" + b"a" * 25])
def test_remote_file_of_another_writer_is_read_at_the_right_places(tmp_path: Path, extra: bytes) -> None:
    state = {name: random(*tensor.shape) for name, tensor in big_state().items()}
    torch.save(state, tmp_path / "x.pth")
    data = rezipped(tmp_path / "x.pth", extra)
    shard = read_torch(Remote(data))
    for name, tensor in state.items():
        entry = shard.entries[name]
        assert data[entry.start : entry.end] == octets(tensor)


def without_padding(path: Path) -> bytes:
    """The file with each entry's padding behind its data: both ways to compute its place agree, wrongly."""
    out, directory = b"", b""
    with zipfile.ZipFile(path) as old:
        for entry in old.infolist():
            name, data, start = entry.filename.encode(), old.read(entry), len(out)
            rest = struct.pack("<5H3I2H", 0, 0, 0, 0, 0, entry.CRC, len(data), len(data), len(name), 0)
            out += b"PK\3\4" + rest + name
            padding = -(len(out) + 4) % 64 + 4
            out += data + b"Z" * padding
            directory += b"PK\1\2\0\0" + rest + struct.pack("<3H2I", 0, 0, 0, 0, start) + name
        count = len(old.infolist())
    return (
        out + directory + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count, count, len(directory), len(out), 0)
    )


def test_place_that_is_computed_wrongly_is_found_out(tmp_path: Path) -> None:
    state = {f"w{index}": random(50, 1000) for index in range(6)}
    torch.save(state, tmp_path / "x.pth")
    data = without_padding(tmp_path / "x.pth")
    source = Remote(data)
    members = [member for name, member in read_archive(source).members.items() if name.startswith("data/")]
    shard = read_torch(source)
    starts = [entry.start for entry in shard.entries.values()]
    assert all(member.start(64) not in (None, start) for member, start in zip(members, starts, strict=True))
    for name, tensor in state.items():
        assert data[shard.entries[name].start : shard.entries[name].end] == octets(tensor)
