"""A chain of stages computes what the whole model does, bit for bit, wherever it is cut and stored."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import dovetail
from dovetail.errors import CheckpointError, UsageError
from dovetail.loading.stage import load_stage
from dovetail.models.stage import Stage
from dovetail.models.stream import Stream, packed
from dovetail.run.engine import Draw, Piece, answers, greedy, step
from hubserver import hub_server
from inputs.golden_images import noise
from parity import assert_near
from run.tiny import GIVEN, SIZES

LAYERS, NEW = 6, 2
CUTS: list[list[int]] = [[6], [2, 4], [1, 4, 1], [2, 1, 2, 1], [1, 1, 2, 1, 1], [1, 1, 1, 1, 1, 1]]
# cases whose middle is that of another: they are cut once
SIBLINGS = ("llama-tied", "qwen2_vl-head", "qwen2_5_vl-head", "qwen3_vl-head", "prismatic-1", "prismatic-2")
VARIANTS = ("base", "alternating", "alternating_cross")
CASES = {
    **{name: (name, SIZES[name][0], {}) for name in ("qwen2", "qwen3", "gemma", "llama", "paligemma")},
    "llama-tied": ("llama", SIZES["llama"][1], {}),
    "qwen2_vl": ("qwen2_vl", SIZES["qwen2_vl"][0], {}),
    "qwen2_vl-head": ("qwen2_vl", SIZES["qwen2_vl"][1], {}),
    "qwen2_5_vl": ("qwen2_5_vl", SIZES["qwen2_5_vl"][0], {}),
    "qwen2_5_vl-head": ("qwen2_5_vl", SIZES["qwen2_5_vl"][1], {}),
    "qwen3_vl": ("qwen3_vl", SIZES["qwen3_vl"][0], {}),
    "qwen3_vl-head": ("qwen3_vl", SIZES["qwen3_vl"][1], {}),
    **{
        f"llava-{name}": ("llava_onevision", SIZES["llava_onevision"][0], {"variant": name})
        for name in VARIANTS
    },
    **{f"prismatic-{i}": ("prismatic", size, {}) for i, size in enumerate(SIZES["prismatic"])},
}


def resized(name: str, size: Any) -> Any:
    """A size of a tiny model, for six layers whose tensors begin at multiples of 16 bytes: MKL's product of
    one row depends in its last bit on where the weight begins."""
    if name in ("text.layers", "llm.layers"):
        return LAYERS
    is_width = name.endswith((".d_model", ".d_ff", ".head_dim", ".vocab", ".hidden_dim", ".out_dim"))
    return -(-size // 4) * 4 if is_width else size


class Case:
    """A tiny checkpoint of six layers, its model, and prompts for it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.family, sizes, more = CASES[name]
        deep = {key: resized(key, size) for key, size in sizes.items()}
        dovetail.make(self.family, folder / "m", set=deep, dtype="float32", seed=3)
        self.folder = folder / "m"
        self.settings = {**GIVEN.get(self.family, {}), **more}
        self.model: Any = dovetail.load(self.folder, settings=self.settings)
        image = getattr(getattr(self.model, "config", None), "image_token", None)
        pictures = [[noise(23, 31)], [], [noise(20, 20, seed=1), noise(31, 9, seed=2)]]
        rows = (
            [[5, image, 7, 11, 3], [8, 9], [image, 4, image, 6, 2]]
            if image
            else [[5, 9, 200, 3], [8], [1, 2]]
        )
        self.inputs = self.model.prepare(rows, pictures if image else ())

    @torch.no_grad()
    def prompts(self, first: Any) -> list[Stream]:
        return list(first.embed(**self.inputs).rows())

    def logits(self, stages: Sequence[Stage], *, chunk: int | None) -> list[list[torch.Tensor]]:
        """All rows of logits of the prompts and of the tokens that follow."""
        seen: list[list[torch.Tensor]] = [[], [], []]

        def choose(logits: torch.Tensor, draws: Sequence[Draw]) -> torch.Tensor:
            for draw, row in zip(draws, logits, strict=True):
                seen[draw.row].append(row)
            return greedy(logits, draws)

        list(answers(stages, self.prompts(stages[0]), max_new_tokens=NEW, choose=choose, chunk=chunk))
        assert all(not len(stage.cache) and not stage.cache.bytes for stage in stages)
        return seen


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow) if name in SIBLINGS else name for name in CASES],
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(request.param, tmp_path_factory.mktemp(request.param))


def ranges(counts: Sequence[int]) -> list[range]:
    return [range(sum(counts[:i]), sum(counts[: i + 1])) for i in range(len(counts))]


def test_a_chain_equals_the_whole_model(case: Case, tmp_path: Path) -> None:
    cuts = CUTS[3:4] if case.name in SIBLINGS else CUTS
    whole = {chunk: case.logits([Stage(case.model)], chunk=chunk) for chunk in (None, 3)}
    for row, one in zip(case.prompts(case.model), whole[None], strict=True):
        with torch.no_grad():
            assert_near(one[0], case.model.logits(case.model.hidden(row))[0, -1])
    for counts in cuts:
        is_split = len(counts) % 2 == 0  # the others are taken out of the whole checkpoint
        chunk = 3 if is_split else None
        out = tmp_path / f"{len(counts)}"
        if is_split:
            dovetail.split(case.folder, out, layers=counts, as_=case.family)
        stages = [
            load_stage(out / f"node{i}", settings=case.settings)
            if is_split
            else load_stage(case.folder, run, settings=case.settings)
            for i, run in enumerate(ranges(counts))
        ]
        assert [stage.layers for stage in stages] == ranges(counts)
        found = case.logits(stages, chunk=chunk)
        assert len(found[0]) == NEW
        for mine, theirs in zip(found, whole[chunk], strict=True):
            assert all(map(torch.equal, mine, theirs)), counts


def test_what_the_first_layers_add_travels_until_it_is_spent(tmp_path: Path) -> None:
    """Qwen3-VL with three levels: the stages up to the third layer pass them on, and all need them."""
    deep = Case("qwen3_vl-head", tmp_path)
    stages = [load_stage(deep.folder, run, settings=deep.settings) for run in ranges([1, 1, 2, 2])]
    prompt = deep.prompts(stages[0])[0]
    assert prompt.added is not None
    assert len(prompt.added) == 3
    assert not prompt.added[:, prompt.columns.modality == 0].any()

    @torch.no_grad()
    def run(stream: Stream) -> tuple[torch.Tensor, list[bool]]:
        carried = []
        for stage in stages:
            stage.open(0, stream.x.shape[1])
            stream = stage(stream)
            stage.close(0)
            carried.append(stream.added is not None)
        return stream.x, carried

    stream = packed([prompt])
    whole, carried = run(stream)
    assert carried == [True, True, False, False]
    with torch.no_grad():
        assert_near(whole, deep.model.hidden(prompt))
    for level in range(3):
        added = prompt.added.clone()
        added[level] = 0
        lost, _ = run(stream._replace(added=added))
        assert not torch.allclose(lost, whole, atol=1e-3), level


def test_a_stage_has_nothing_of_the_others(case: Case) -> None:
    names: dict[str, int] = {}
    for run in ranges([2, 3, 1]):
        for name in load_stage(case.folder, run, settings=case.settings).model.state_dict():
            names[name] = names.get(name, 0) + 1
    own = set(case.model.state_dict())
    tied = set() if case.model.head is not None else {"head.weight"}
    assert names == dict.fromkeys(own | tied, 1)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case("qwen2_vl", tmp_path_factory.mktemp("qwen"))


def test_chunks_of_litgpt_number_their_layers_from_0(qwen: Case, tmp_path: Path) -> None:
    dovetail.split(qwen.folder, tmp_path / "out", layers=[2, 3, 1], to="litgpt")
    folder = tmp_path / "out" / "chunks" / "3nodes_finisher"
    names = ("model_starter", "model_secondary0", "model_secondary1")
    stages = [load_stage(folder / f"{name}.pth", settings=qwen.settings) for name in names]
    assert [stage.layers for stage in stages] == ranges([2, 3, 1])
    expected = qwen.logits([Stage(qwen.model)], chunk=None)
    for mine, theirs in zip(qwen.logits(stages, chunk=None), expected, strict=True):
        assert all(map(torch.equal, mine, theirs))
    (folder / "model_secondary0.dovetail.json").unlink()
    with pytest.raises(CheckpointError, match="does not say which layers it has"):
        load_stage(folder / "model_secondary0.pth", settings=qwen.settings)


def test_a_step_takes_rows_of_any_age(qwen: Case) -> None:
    """A prompt in chunks beside answers, joined and left in between, equals each alone."""
    stages = [load_stage(qwen.folder, run, settings=qwen.settings) for run in ranges([2, 4])]
    first, second, third = qwen.prompts(stages[0])
    alone = qwen.logits(stages, chunk=None)
    for number, prompt in enumerate((first, second, third)):
        for stage in stages:
            stage.open(number, prompt.x.shape[1] + NEW)
    cut = third.x.shape[1] // 2
    logits = step(stages, [Piece(0, first), Piece(2, third.part(0, cut), wants_logits=False)])
    assert_near(logits[0], alone[0][0])
    token = stages[0].embed_tokens(alone[0][0].argmax()[None])
    batch = [Piece(2, third.part(cut, third.x.shape[1])), Piece(0, first.end.then(token)), Piece(1, second)]
    logits = step(stages, batch)
    for found, expected in zip(logits, (alone[2][0], alone[0][1], alone[1][0]), strict=True):
        assert_near(found, expected)
    for stage in stages:
        stage.close(0)
        assert sorted(stage.cache) == [1, 2]


def test_the_cache_is_bounded(qwen: Case) -> None:
    stage = load_stage(qwen.folder, range(2), settings=qwen.settings, max_tokens=20)
    stage.open(0, 15)
    with pytest.raises(UsageError, match="no room for a sequence of 6 tokens"):
        stage.open(1, 6)
    with pytest.raises(UsageError, match="sequence 0 is open already"):
        stage.open(0, 2)
    stage.close(0)
    stage.open(1, 6)
    with pytest.raises(UsageError, match="sequence 0 is not open"):
        stage.close(0)
    row = qwen.prompts(qwen.model)[0]
    with pytest.raises(UsageError, match="cannot take"), torch.no_grad():
        stage(row._replace(columns=row.columns._replace(sequence=torch.ones_like(row.columns.block))))
    assert stage.cache[1].length == 0


def test_a_part_of_a_node_is_the_nodes_own(qwen: Case, tmp_path: Path) -> None:
    """A head that is elsewhere is not made of the token table."""
    dovetail.split(qwen.folder, tmp_path / "out", layers=[2, 4])
    nodes = [tmp_path / "out" / f"node{i}" for i in range(2)]
    for role in ("vision", "merger"):
        whole = dovetail.load_part(qwen.folder, role, settings=qwen.settings).state_dict()
        found = dovetail.load_part(nodes[0], role, settings=qwen.settings).state_dict()
        assert all(torch.equal(found[name], one) for name, one in whole.items())
    assert list(dovetail.load_part(nodes[1], "text").blocks) == ["2", "3", "4", "5"]
    assert torch.equal(dovetail.load_part(nodes[1], "head").weight, qwen.model.head_weight)
    with pytest.raises(UsageError, match="this node has no part `head`"):
        dovetail.load_part(nodes[0], "head")
    with pytest.raises(UsageError, match="this node has no part `vision`"):
        dovetail.load_part(nodes[1], "vision")


def test_what_a_stage_cannot_do(qwen: Case, tmp_path: Path) -> None:
    dovetail.split(qwen.folder, tmp_path / "out", nodes=2)
    with pytest.raises(UsageError, match="this is node 1 of 2 of a split, not a whole model"):
        dovetail.load(tmp_path / "out" / "node1", settings=qwen.settings)
    with pytest.raises(UsageError, match="are not those of this node"):
        load_stage(tmp_path / "out" / "node1", range(1, 3), settings=qwen.settings)
    last = load_stage(tmp_path / "out" / "node1", settings=qwen.settings)
    with pytest.raises(UsageError, match="takes no tokens"):
        last.embed(**qwen.inputs)
    with pytest.raises(UsageError, match="gives no logits"):
        load_stage(tmp_path / "out" / "node0", settings=qwen.settings).logits(torch.zeros(1, 1, 26))
    with pytest.raises(UsageError, match="are no stage of 6 layers"):
        load_stage(qwen.folder, range(3, 9), settings=qwen.settings)
    dovetail.make("pi0", tmp_path / "pi0", set=SIZES["pi0"][0], dtype="float32")
    with pytest.raises(UsageError, match="it reads no tokens"):
        load_stage(tmp_path / "pi0", range(1))


def test_a_stage_reads_only_its_own_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured at the server: what each of three stages fetches of a repository is its share and a header."""
    with hub_server(tmp_path, monkeypatch) as hub:
        sizes = {**CASES["qwen2_vl-head"][1], "text.layers": LAYERS, "text.vocab": 20_000, "text.d_ff": 9_000}
        made = dovetail.make(
            "qwen2_vl", hub.root / "model", set=sizes, dtype="float32", max_shard_size=4_000_000
        )
        hub.add("owner/model", "model")
        headers = (len(made.files) + 2) * 65_536  # so much of a file is fetched to read its header
        read = 0
        for run in ranges([2, 3, 1]):
            before = sum(hub.served.values())
            stage = load_stage("hf://owner/model", run, settings=GIVEN["qwen2_vl"])
            own = sum(one.nbytes for one in stage.parameters())
            read += own
            assert sum(hub.served.values()) - before <= own + headers, run
        assert read == made.bytes
