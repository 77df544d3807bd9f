"""One hostile torch file per attack: what each is refused with, word for word, and that no code ran.

The messages stand in `torch_messages.txt`; `PYTHONPATH=tests python tests/hostile/test_torch_hostile.py` prints them anew.
"""

import pickle
import re
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from torch_attacks import (
    CALLS,
    FILES,
    MALFORMED,
    SENTINEL,
    SHAPES,
    TENSORS,
    name,
    numbers,
    pickled,
    plain_zip,
    storage,
    tensor,
)  # fmt: skip

from dovetail.errors import CheckpointError
from dovetail.store.source import LocalSource
from dovetail.store.torchfile.pickle.flatten import flatten
from dovetail.store.torchfile.pickle.unpickle import unpickle
from dovetail.store.torchfile.read import read_torch
from measured import peak_of

SNAPSHOT = Path(__file__).with_name("torch_messages.txt")


def refusal(work: Callable[[], object]) -> str:
    """The message that it is refused with, with the type of the error."""
    with pytest.raises(CheckpointError) as caught:
        work()
    return f"{type(caught.value).__name__}: {caught.value}"


def refuse_pickle(data: bytes) -> str:
    return refusal(lambda: unpickle(data, file="model.pth"))


def refuse_shape(data: bytes) -> str:
    value = unpickle(data, file="model.pth").value
    return refusal(lambda: flatten(value, file="model.pth", size=len(data)))


def refuse_file(data: bytes, folder: Path) -> str:
    path = folder / "model.pth"
    path.write_bytes(data)
    return refusal(lambda: read_torch(LocalSource(str(path), name="model.pth")))


def refusals(folder: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    for group in (CALLS, MALFORMED, TENSORS):
        for attack, data in group.items():
            yield attack, lambda data=data: refuse_pickle(data)
    for attack, data in SHAPES.items():
        yield attack, lambda data=data: refuse_shape(data)
    for attack, data in FILES.items():
        yield attack, lambda data=data: refuse_file(data, folder)


def snapshot() -> dict[str, str]:
    sections = re.split(r"^## ", SNAPSHOT.read_text(), flags=re.MULTILINE)[1:]
    return {title: body.strip("\n") for title, _, body in (section.partition("\n") for section in sections)}


ATTACKS = [attack for group in (CALLS, MALFORMED, TENSORS, SHAPES, FILES) for attack in group]
LIVE = [
    attack
    for attack in CALLS
    if attack.startswith(("os.system", "posix", "builtins.e")) and "NEWOBJ" not in attack
]


@pytest.fixture(autouse=True)
def _no_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test runs in a folder of its own, in which the sentinel may not have appeared."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not Path(SENTINEL).exists()


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_is_refused_with_these_words(attack: str, tmp_path: Path) -> None:
    assert dict(refusals(tmp_path))[attack]() == snapshot()[attack]


def test_snapshot_has_one_message_for_each_attack() -> None:
    assert list(snapshot()) == ATTACKS
    assert len(ATTACKS) == len(set(ATTACKS))


@pytest.mark.parametrize("attack", LIVE)
def test_sentinel_would_show_code_that_runs(attack: str) -> None:
    pickle.loads(CALLS[attack])
    assert Path(SENTINEL).exists()
    Path(SENTINEL).unlink()


# What is not an attack, though it looks like one


def test_naming_a_function_is_not_calling_it() -> None:
    found = unpickle(pickled(name("os", "system")))
    assert (found.opaque, flatten(found.value).values) == (("os.system",), "os.system")


def test_memo_index_of_four_billion_takes_no_room() -> None:
    data = pickled(b"]", *(b"Nr" + struct.pack("<I", 0xFFFFFFFF - i) + b"a" for i in range(1000)))
    assert peak_of(lambda: unpickle(data)) < 1_000_000
    assert unpickle(data).value == [None] * 1000


@pytest.mark.parametrize("attack", ["a text of 8 EiB", "bytes of 16 EiB", "an integer of 2 GiB"])
def test_claimed_length_takes_no_room(attack: str) -> None:
    assert peak_of(lambda: refuse_pickle(MALFORMED[attack])) < 100_000


@pytest.mark.slow
def test_shared_lists_take_no_room() -> None:
    assert peak_of(lambda: refuse_shape(SHAPES["2**60 lists"])) < 50_000_000


def test_zip_bomb_takes_no_room(tmp_path: Path) -> None:
    assert peak_of(lambda: refuse_file(FILES["a zip bomb"], tmp_path)) < 1_000_000


def test_repeated_view_takes_no_room(tmp_path: Path) -> None:
    """A million elements out of one are allowed; a header costs the same as that of one."""
    path = tmp_path / "model.pth"
    one = storage(elements=b"K\1")
    wide = tensor(store=one, shape=numbers(1000, 1000), strides=numbers(0, 0))
    path.write_bytes(plain_zip({"a/data.pkl": wide, "a/data/0": bytes(4)}))
    shards = []
    assert peak_of(lambda: shards.append(read_torch(LocalSource(str(path))))) < 1_000_000
    entry = shards[0].entries["a.weight"]
    assert (entry.shape, entry.strides, entry.end - entry.start) == ((1000, 1000), (0, 0), 4)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as work:
        sys.stdout.write(
            "\n\n".join(f"## {attack}\n\n{refuse()}" for attack, refuse in refusals(Path(work))) + "\n"
        )
