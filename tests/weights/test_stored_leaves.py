"""The leaves of files against tensors that were put together here, by other means."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import dovetail
from dovetail.declare.family import Family, Mount, layout
from dovetail.declare.part import Naming, Part
from dovetail.errors import CheckpointError, UsageError
from dovetail.explain.examine import examine
from dovetail.families import built_in, family
from dovetail.weights.leaf import Leaf
from dovetail.weights.stored_leaves import stored_leaves
from files import MODELS, header_of, plan_of, write_listing


def opened(
    path: Path, *, as_family: Family | None = None, given: dict[str, int] | None = None
) -> tuple[dict[str, Leaf], dict[str, torch.Tensor]]:
    """The leaves of a file and their values, each in its own shape."""
    with dovetail.open_checkpoint(path) as store:
        examination = examine(store, built_in, as_family=as_family, given=given)
        assert examination.explanation is not None
        assert examination.inference is not None
        leaves = stored_leaves(examination.explanation, examination.inference, store)
        values = {}
        for name, leaf in leaves.items():
            data = leaf.whole()
            assert len(data) == leaf.size
            values[name] = torch.frombuffer(data, dtype=torch.float32).reshape(leaf.shape)
    return leaves, values


def numbered(header: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Tensors of these shapes in which no number comes twice."""
    tensors, first = {}, 0
    for name, (_, shape) in header.items():
        count = int(np.prod(shape))
        tensors[name] = torch.arange(first, first + count, dtype=torch.float32).reshape(shape)
        first += count
    assert first < 1 << 24
    return tensors


HEADS, GROUPS, SIZE = 4, 2, 7
SMALL = {**MODELS["qwen2"][0], "text.vocab": 29, "text.d_ff": 31, "text.layers": 2}
CONFIG = {
    "model_type": "qwen2",
    "num_attention_heads": HEADS,
    "num_key_value_heads": GROUPS,
    "head_dim": SIZE,
}


def with_config(path: Path) -> Path:
    write_listing(path.parent / "config.json", CONFIG)
    return path


def test_interleaved_heads_come_apart(tmp_path: Path) -> None:
    """SYSTEMS T.5, on 4 query heads in 2 groups: q0 q1 k0 v0 q2 q3 k1 v1."""
    stored = numbered(header_of(plan_of("qwen2", SMALL), "litgpt-legacy"))
    save_file(stored, tmp_path / "x.safetensors")
    _, leaves = opened(with_config(tmp_path / "x.safetensors"))
    for layer in range(2):
        for kind in ("weight", "bias"):
            rows = stored[f"transformer.h.{layer}.attn.attn.{kind}"].split(SIZE)
            assert len(rows) == HEADS + 2 * GROUPS
            q, k, v = (leaves[f"text.blocks.{layer}.attn.{one}.{kind}"] for one in "qkv")
            assert torch.equal(q, torch.cat([rows[0], rows[1], rows[4], rows[5]]))
            assert torch.equal(k, torch.cat([rows[2], rows[6]]))
            assert torch.equal(v, torch.cat([rows[3], rows[7]]))


def test_concatenated_heads_come_apart(tmp_path: Path) -> None:
    stored = numbered(header_of(plan_of("qwen2", SMALL), "litgpt"))
    save_file(stored, tmp_path / "x.safetensors")
    _, leaves = opened(with_config(tmp_path / "x.safetensors"))
    for layer in range(2):
        whole = stored[f"transformer.h.{layer}.attn.qkv.weight"]
        q, k, v = (leaves[f"text.blocks.{layer}.attn.{one}.weight"] for one in "qkv")
        assert torch.equal(q, whole[: HEADS * SIZE])
        assert torch.equal(k, whole[HEADS * SIZE : -GROUPS * SIZE])
        assert torch.equal(v, whole[-GROUPS * SIZE :])


def test_a_plain_layout_needs_no_config_and_gives_every_tensor_itself(tmp_path: Path) -> None:
    stored = numbered(header_of(plan_of("qwen2", SMALL), "hf"))
    save_file(stored, tmp_path / "x.safetensors")
    leaves, values = opened(tmp_path / "x.safetensors")
    assert {leaf.spans[0].tensor for leaf in leaves.values()} == set(stored)
    assert all(torch.equal(values[name], stored[leaf.spans[0].tensor]) for name, leaf in leaves.items())
    assert leaves["text.blocks.1.attn.q.weight"].spans[0].tensor == "model.layers.1.self_attn.q_proj.weight"


def test_timm_pools_and_tables_come_apart(tmp_path: Path) -> None:
    """A fused qkv, a fused kv, and a table of positions with a leading 1."""
    stored = numbered(header_of(plan_of("siglip", MODELS["siglip"][0]), "timm"))
    save_file(stored, tmp_path / "x.safetensors")
    _, leaves = opened(tmp_path / "x.safetensors")
    width = 66
    assert torch.equal(leaves["vision.pos_embed.weight"], stored["pos_embed"][0])
    for one, rows in zip("qkv", stored["blocks.1.attn.qkv.weight"].split(width), strict=True):
        assert torch.equal(leaves[f"vision.blocks.1.attn.{one}.weight"], rows)
    for one, rows in zip("kv", stored["attn_pool.kv.bias"].split(width), strict=True):
        assert torch.equal(leaves[f"vision.pool.{one}.bias"], rows)


def test_legacy_files_of_torch_are_read_by_their_strides(tmp_path: Path) -> None:
    """A storage that two names share and a matrix that is stored the other way round."""
    stored = numbered(header_of(plan_of("qwen2", SMALL), "hf"))
    name = "model.layers.0.self_attn.q_proj.weight"
    turned = stored[name].T.contiguous().T
    assert not turned.is_contiguous()
    torch.save(
        {**stored, name: turned, "lm_head.weight": stored["model.embed_tokens.weight"]}, tmp_path / "x.pth"
    )
    leaves, values = opened(tmp_path / "x.pth")
    assert torch.equal(values["text.blocks.0.attn.q.weight"], stored[name])
    assert torch.equal(values["text.embed.weight"], stored["model.embed_tokens.weight"])
    assert torch.equal(values["head.weight"], stored["model.embed_tokens.weight"])
    assert leaves["head.weight"].shape == leaves["text.embed.weight"].shape


def test_second_names_of_a_module_are_left_out(tmp_path: Path) -> None:
    sizes = MODELS["panovlm"][5]
    dovetail.make("panovlm", tmp_path / "out", layout="legacy", set=sizes, dtype="float32")
    leaves, values = opened(tmp_path / "out")
    (file,) = (tmp_path / "out").glob("*.ckpt")
    loaded = torch.load(file, weights_only=True)["state_dict"]
    plan = plan_of("panovlm", sizes)
    assert len(leaves) == len(list(plan.leaves())) < len(loaded)
    assert torch.equal(values["projector.weight"], loaded["model.projector.linear.weight"])
    assert torch.equal(values["projector.weight"], loaded["model.vision_to_language_projection.weight"])


ALL_OPS = Part(
    id="all_ops",
    table="""
    turned.{layer}    rows columns
    one.{layer}       rows columns
    two.{layer}       rows columns
    flat.{layer}      rows columns
    """,
    namings={
        "odd": Naming("""
        turned.{layer}        l.{layer}.t     transpose
        [one two].{layer}     l.{layer}.s     stack
        flat.{layer}          l.{layer}.f     as 1 rows 1 columns
        """),
    },
)
ODD = Family(
    id="odd", title="Odd", parts={"a": (ALL_OPS,)}, layouts=(layout("odd", {"a": Mount("", "odd")}),)
)


def test_turned_and_stacked_tensors_come_apart(tmp_path: Path) -> None:
    """Ops that no built-in family needs, and other people's may."""
    stored = numbered({"l.0.t": ["F32", [5, 3]], "l.0.s": ["F32", [2, 3, 5]], "l.0.f": ["F32", [1, 3, 1, 5]]})
    save_file(stored, tmp_path / "x.safetensors")
    leaves, values = opened(tmp_path / "x.safetensors", as_family=ODD)
    assert torch.equal(values["a.turned.0"], stored["l.0.t"].T)
    assert torch.equal(values["a.one.0"], stored["l.0.s"][0])
    assert torch.equal(values["a.two.0"], stored["l.0.s"][1])
    assert torch.equal(values["a.flat.0"], stored["l.0.f"][0, :, 0])
    assert {name: leaf.spans == () for name, leaf in leaves.items()} == {
        "a.turned.0": True,
        "a.one.0": False,
        "a.two.0": False,
        "a.flat.0": False,
    }


@pytest.mark.parametrize("id", [one.id for one in built_in()])
def test_leaves_are_exactly_those_that_are_declared(id: str, tmp_path: Path) -> None:
    """By name and shape, in every layout that has all parts."""
    plan = plan_of(id, MODELS[id][0])
    declared = {(leaf.role, leaf.leaf.template.format(**leaf.indices)): leaf.shape for leaf in plan.leaves()}
    given = {name: size for name, size in plan.sizes.items() if "heads" in name or "head_dim" in name}
    for one in family(id).layouts:
        header = header_of(plan, one.id)
        if not header or not plan.kinds.keys() <= one.mounts.keys():
            continue
        with dovetail.open_checkpoint(write_listing(tmp_path / "x.json", header)) as store:
            examination = examine(store, built_in, as_family=plan.family, as_layout=one.id, given=given)
            assert examination.explanation is not None
            assert examination.inference is not None
            found = stored_leaves(examination.explanation, examination.inference, store)
        tied = {name for name in found if name.split(".")[0] not in plan.kinds}
        assert {name: leaf.shape for name, leaf in found.items() if name not in tied} == {
            f"{role}.{name}": shape for (role, name), shape in declared.items()
        }, one.id
        for leaf in found.values():
            assert sum(span.length for span in leaf.spans) == leaf.size
        places = [(s.tensor, s.start, s.start + s.length) for leaf in found.values() for s in leaf.spans]
        assert len(set(places)) == len(places)
        assert sum(end - start for _, start, end in places) == sum(
            entry.bytes for name, entry in store.entries.items() if name not in store.aliases
        )


def test_without_head_counts_an_interleaved_file_is_not_taken_apart(tmp_path: Path) -> None:
    header = header_of(plan_of("qwen2", SMALL), "litgpt-legacy")
    path = write_listing(tmp_path / "x.json", header)
    with dovetail.open_checkpoint(path) as store:
        examination = examine(store, built_in)
        assert examination.explanation is not None
        assert examination.inference is not None
        with pytest.raises(UsageError) as error:
            stored_leaves(examination.explanation, examination.inference, store)
    assert str(error.value) == (
        "`transformer.h.0.attn.attn.weight` can only be taken apart when kv_heads is known, and nothing says it\n\n"
        "hint: put the model's config.json beside the weights, or give --set text.kv_heads=NUMBER"
    )


def test_names_alone_have_no_leaves(tmp_path: Path) -> None:
    names = dict.fromkeys(header_of(plan_of("qwen2", SMALL), "hf"), "model.safetensors")
    path = write_listing(tmp_path / "model.safetensors.index.json", {"weight_map": names})
    with dovetail.open_checkpoint(path) as store:
        examination = examine(store, built_in)
        assert examination.explanation is not None
        assert examination.inference is not None
        with pytest.raises(CheckpointError, match="this input has names only, no shapes"):
            stored_leaves(examination.explanation, examination.inference, store)
