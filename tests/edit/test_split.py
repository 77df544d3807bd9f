"""Split and merge: the identity for every family, every number of nodes, and chunks that others wrote."""

import itertools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from test_layout_pairs import contents

import dovetail
from dovetail.edit.split import balanced
from dovetail.errors import CheckpointError, UsageError
from dovetail.families import built_in, family
from dovetail.store.open import open_checkpoint
from files import MODELS

LAYERS = 7


def make(id: str, out: Path, number: int = 0, layout: str | None = None) -> None:
    """A tiny model with seven layers."""
    sizes = dict(MODELS[id][number])
    for role in family(id).pipeline.spine:
        if f"{role}.layers" in sizes:
            sizes[f"{role}.layers"] = LAYERS
    dovetail.make(id, out, layout=layout, set=sizes, dtype="float32", seed=5)


@pytest.mark.parametrize(
    ("id", "counts"),
    [
        *((one.id, range(1, 7) if one.id == "qwen2_vl" else (1, 2, 3, 6)) for one in built_in()),
        *(pytest.param(one.id, (4, 5), marks=pytest.mark.slow) for one in built_in() if one.id != "qwen2_vl"),
    ],
)
def test_merging_what_was_split_is_the_identity(id: str, counts: Sequence[int], tmp_path: Path) -> None:
    """Every family over every number of nodes up to six."""
    make(id, tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    for nodes in counts:
        place = tmp_path / f"{nodes}"
        parted = dovetail.split(tmp_path / "whole", place / "nodes", nodes=nodes)
        merged = dovetail.merge(place / "nodes", place / "back")
        assert contents(place / "back") == expected, nodes
        assert parted.fingerprint == merged.fingerprint, nodes
        assert dovetail.inspect(place / "nodes").is_whole, nodes
        for node in range(nodes):
            report = dovetail.inspect(place / "nodes" / f"node{node}")
            assert report.is_whole, (nodes, node, report.findings)


@pytest.mark.parametrize("layout", ["hf", "litgpt", "litgpt-legacy", "litgpt-fork"])
def test_uneven_layers(layout: str, tmp_path: Path) -> None:
    make("qwen2_vl", tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    for i, layers in enumerate([[1, 6], [6, 1], [2, 1, 4], [1] * 7]):
        place = tmp_path / f"{i}"
        dovetail.split(tmp_path / "whole", place / "nodes", layers=layers, to=layout)
        dovetail.merge(place / "nodes", place / "back")
        assert contents(place / "back") == expected, layers


def test_chunks_have_the_names_of_system_2(tmp_path: Path) -> None:
    make("qwen2_vl", tmp_path / "whole")
    dovetail.split(tmp_path / "whole", tmp_path / "out", layers=[3, 2, 2], to="litgpt-fork")
    folder = tmp_path / "out" / "chunks" / "3nodes_finisher"
    starter = contents(folder / "model_starter.pth")
    second = contents(folder / "model_secondary0.pth")
    finisher = contents(folder / "model_secondary1.pth")
    assert "transformer.wte.weight" in starter
    assert "visual.patch_embed.proj.weight" in starter
    assert {name.split(".")[2] for name in second} == {"0", "1"}
    assert {"transformer.ln_f.weight", "lm_head.weight", "transformer.h.0.ln_1.weight"} <= finisher.keys()
    assert finisher["lm_head.weight"] == starter["transformer.wte.weight"]
    certificate = json.loads((folder / "model_secondary1.dovetail.json").read_text())
    assert certificate["node"] == {
        "index": 2,
        "of": 3,
        "layers": [5, 6],
        "numbered_from": 0,
        "parts": ["text", "head"],
    }


@pytest.mark.parametrize(
    ("layers", "received"),
    [
        ([1, 6], [None, [1, 2]]),
        ([1, 1, 1, 4], [None, [1, 2], [2], None]),
        ([2, 1, 4], [None, [2], None]),
        ([3, 4], [None, None]),
    ],
)
@pytest.mark.parametrize("layout", ["hf", "litgpt"])
def test_a_node_says_which_features_come_with_the_stream(
    layers: list[int], received: list[list[int] | None], layout: str, tmp_path: Path
) -> None:
    """Qwen3-VL adds the features of three depths of its tower after layers 0, 1 and 2."""
    make("qwen3_vl", tmp_path / "whole", number=1)
    dovetail.split(tmp_path / "whole", tmp_path / "nodes", layers=layers, to=layout)
    nodes = [json.loads(path.read_text())["node"] for path in (tmp_path / "nodes").rglob("*dovetail.json")]
    found = [node.get("receives") for node in sorted(nodes, key=lambda node: node["index"])]
    assert found == [None if one is None else {"deepstack": one} for one in received]
    assert "deepstack" in next(node for node in nodes if node["index"] == 0)["parts"]


def test_chunks_without_certificates_merge(tmp_path: Path) -> None:
    make("qwen2_vl", tmp_path / "whole")
    dovetail.split(tmp_path / "whole", tmp_path / "out", layers=[3, 2, 2], to="litgpt-fork")
    for path in (tmp_path / "out" / "chunks" / "3nodes_finisher").glob("*.dovetail.json"):
        path.unlink()
    dovetail.merge(tmp_path / "out", tmp_path / "back", to="hf")
    assert contents(tmp_path / "whole") == contents(tmp_path / "back")


def test_a_missing_chunk_is_named(tmp_path: Path) -> None:
    make("qwen2_vl", tmp_path / "whole")
    dovetail.split(tmp_path / "whole", tmp_path / "out", layers=[3, 2, 2], to="litgpt-fork")
    folder = tmp_path / "out" / "chunks" / "3nodes_finisher"
    for path in [*folder.glob("*.dovetail.json"), folder / "model_secondary0.pth"]:
        path.unlink()
    with pytest.raises(CheckpointError, match=r"model_secondary0\.pth is not here"):
        dovetail.merge(tmp_path / "out", tmp_path / "back")


LAST = "all that comes after them"
FIRST = "all that comes before the layers"


@pytest.mark.parametrize("kind", ["certificates", "configs", "nothing"])
@pytest.mark.parametrize(
    ("lost", "layers", "rest"),
    [
        (["secondary0"], 2, ""),
        (["secondary1"], 2, LAST),
        (["starter"], 3, FIRST),
        (["secondary0", "secondary1"], 4, LAST),
        (["starter", "secondary0"], 5, FIRST),
    ],
)
def test_lost_chunks_are_the_one_cause(
    lost: list[str], layers: int, rest: str, kind: str, tmp_path: Path
) -> None:
    make("qwen2_vl", tmp_path / "whole")
    dovetail.split(tmp_path / "whole", tmp_path / "out", layers=[3, 2, 2], to="litgpt-fork")
    folder = tmp_path / "out" / "chunks" / "3nodes_finisher"
    for path in [path for name in lost for path in folder.glob(f"model_{name}.*")]:
        path.unlink()
    for path in list(folder.glob("*.dovetail.json")) if kind != "certificates" else ():
        path.unlink()
    for name in ("config.json", "model_config.yaml") if kind == "nothing" else ():
        (tmp_path / "out" / name).unlink()
    report = dovetail.validate(tmp_path / "out")
    if kind == "certificates" and len(lost) == 2:
        assert report.is_whole  # the one that is left is a node by itself, with all that it should have
        return
    errors = [one.message for one in report.findings if one.severity == "error"]
    is_open = kind != "certificates" and rest == LAST
    names = [f"model_{lost[0]}.pth"] if is_open else [f"model_{name}.pth" for name in lost]
    held = [f"{layers} layers"] * (kind != "nothing") + [rest] * bool(rest)
    more = " (perhaps others after it)" * is_open
    are = "is" if len(names) == 1 else "are"
    said = f"{', '.join(names)} {are} not here{more}: {' and '.join(held) or 'the layers between'}"
    assert errors[0] == said
    if kind != "nothing":
        assert errors == [said]
        assert report.title == f"Qwen2-VL without {', '.join(names)}"
    with pytest.raises(CheckpointError, match=r"model_\w+\.pth"):
        dovetail.merge(tmp_path / "out", tmp_path / "back")


def test_a_missing_node_is_named(tmp_path: Path) -> None:
    make("qwen3", tmp_path / "whole")
    dovetail.split(tmp_path / "whole", tmp_path / "nodes", nodes=3)
    shutil.rmtree(tmp_path / "nodes" / "node1")
    with pytest.raises(CheckpointError, match="1 node of 3 not here: number 1"):
        dovetail.merge(tmp_path / "nodes", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_node_of_another_model_is_refused(tmp_path: Path) -> None:
    make("qwen3", tmp_path / "a")
    dovetail.make("qwen3", tmp_path / "b", set={**MODELS["qwen3"][0], "text.layers": LAYERS}, seed=9)
    dovetail.split(tmp_path / "a", tmp_path / "nodes", nodes=2)
    dovetail.split(tmp_path / "b", tmp_path / "others", nodes=2)
    shutil.rmtree(tmp_path / "nodes" / "node1")
    shutil.copytree(tmp_path / "others" / "node1", tmp_path / "nodes" / "node1")
    with pytest.raises(CheckpointError, match="node1 is of another model than node0"):
        dovetail.merge(tmp_path / "nodes", tmp_path / "back")


def test_the_same_node_twice_is_refused(tmp_path: Path) -> None:
    make("qwen3", tmp_path / "whole")
    dovetail.split(tmp_path / "whole", tmp_path / "nodes", nodes=2)
    shutil.copytree(tmp_path / "nodes" / "node1", tmp_path / "nodes" / "node2")
    with pytest.raises(CheckpointError, match="two folders are the same node"):
        dovetail.merge(tmp_path / "nodes", tmp_path / "back")


def test_a_byte_that_changed_is_noticed(tmp_path: Path) -> None:
    make("qwen3", tmp_path / "whole")
    dovetail.split(tmp_path / "whole", tmp_path / "nodes", nodes=2)
    path = tmp_path / "nodes" / "node1" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="not the model that the certificates name"):
        dovetail.merge(tmp_path / "nodes", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_one_checkpoint_is_not_merged(tmp_path: Path) -> None:
    make("qwen3", tmp_path / "whole")
    with pytest.raises(UsageError, match="is one checkpoint"):
        dovetail.merge(tmp_path / "whole", tmp_path / "back")


def test_a_tied_head_is_written_where_it_is_needed(tmp_path: Path) -> None:
    make("qwen3", tmp_path / "whole")
    dovetail.split(tmp_path / "whole", tmp_path / "nodes", nodes=2)
    with open_checkpoint(tmp_path / "nodes") as store:
        assert store.read("lm_head.weight") == store.read("model.embed_tokens.weight")
        assert store.files[store.entries["lm_head.weight"].file] == "node1/model.safetensors"
    assert "lm_head.weight" not in contents(tmp_path / "whole")


def test_the_published_size_is_balanced_as_system_2_should_have_been(tmp_path: Path) -> None:
    """SYSTEMS 2.4: 7 and 21 layers, 476 and 254 tensors, 2339 and 2320 MiB."""
    dovetail.make("qwen2_vl", tmp_path / "whole", size="2b", sparse=True)
    dovetail.split(tmp_path / "whole", tmp_path / "nodes", nodes=2)
    nodes = [dovetail.inspect(tmp_path / "nodes" / f"node{i}") for i in range(2)]
    assert [report.tensors for report in nodes] == [476, 254]
    assert [round((report.bytes or 0) / (1 << 20)) for report in nodes] == [2339, 2320]
    assert [chunk["last_layer"] for chunk in dovetail.inspect(tmp_path / "nodes").chunks] == [6, 27]


def test_balance_is_the_best_of_all(tmp_path: Path) -> None:
    sizes, first, last = [3, 1, 4, 1, 5, 9, 2, 6], 7, 5

    def loads(counts: list[int]) -> list[int]:
        cuts = [sum(counts[:i]) for i in range(len(counts) + 1)]
        found = [sum(sizes[a:b]) for a, b in itertools.pairwise(cuts)]
        return [found[0] + first, *found[1:-1], found[-1] + last]

    ways = [[a, b, 8 - a - b] for a in range(1, 7) for b in range(1, 8 - a)]
    best = min(ways, key=lambda counts: (max(loads(counts)), sum(load**2 for load in loads(counts))))
    assert loads(balanced(sizes, first, last, 3)) == loads(best)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"nodes": 0}, "cannot be dealt out to 0 nodes"),
        ({"nodes": 8}, "7 layers cannot be dealt out to 8 nodes"),
        ({"layers": [3, 3]}, "deals out 6 layers, the model has 7"),
        ({"layers": [0, 7]}, "deals out 7 layers"),
        ({"layers": [3, 4], "nodes": 3}, "--nodes 3 and --layers with 2 numbers"),
        ({}, "nothing says how many nodes"),
    ],
)
def test_numbers_that_do_not_fit(options: dict[str, object], message: str, tmp_path: Path) -> None:
    make("qwen3", tmp_path / "whole")
    with pytest.raises(UsageError) as caught:
        dovetail.split(tmp_path / "whole", tmp_path / "nodes", **options)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert not (tmp_path / "nodes").exists()
