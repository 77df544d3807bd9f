"""verify: planted faults are found where they are, and a sound model passes in another dtype."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dovetail
from commands import dovetail as command
from dovetail.models.layers import quick_gelu, tanh_gelu
from dovetail.parity.backends import backend
from dovetail.parity.example import example_inputs
from dovetail.parity.measures import Tolerance, distance
from dovetail.parity.stages import Call, Recorder
from dovetail.parity.verify import Verification, passes, verify
from files import MODELS
from run.tiny import SETTINGS, SIZES

FAULTS = Callable[[nn.Module], None]
EAGER = backend("eager")


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """A tiny Qwen2-VL whose weights are large enough to matter."""
    return model(tmp_path_factory.mktemp("qwen"), "qwen2_vl")


@pytest.fixture(scope="module")
def pi0(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """A tiny pi0."""
    return model(tmp_path_factory.mktemp("pi0"), "pi0")


def model(folder: Path, family: str) -> nn.Module:
    """A model of a family; matrices are scaled up, so that every block changes what goes through it."""
    sizes = {**MODELS[family][0]}
    if family == "qwen2_vl":
        sizes |= {"text.d_model": 64, "text.head_dim": 16, "vision.d_vision": 64, "vision.heads": 4}
    else:
        sizes |= {"vlm.d_model": 64, "vlm.head_dim": 16, "expert.d_model": 48}
    dovetail.make(family, folder / "m", set=sizes, dtype="float32", seed=1)
    built = dovetail.load(folder / "m", dtype="float32", settings=settings(family))
    with torch.no_grad():
        for weight in built.parameters():
            if weight.ndim > 1:
                weight.copy_(weight * 6)
    return built


def settings(family: str) -> dict[str, object]:
    """Values that tiny sizes need."""
    return {"mrope_section": [2, 3, 3]} if family == "qwen2_vl" else {}


def copied(sound: nn.Module) -> nn.Module:
    """A copy with weights of its own; its report, which is frozen, is shared."""
    report = sound.__dict__.pop("report")
    try:
        twin = deepcopy(sound, {id(sound.text.config): sound.text.config} if hasattr(sound, "text") else {})
    finally:
        sound.report = report
    return twin


def faulty(sound: nn.Module, plant: FAULTS) -> Verification:
    """A verification of a copy with a fault."""
    candidate = copied(sound)
    with torch.no_grad():
        plant(candidate)
    return verify(sound, EAGER, against=candidate)


def scale_one(one: nn.Module) -> None:
    one.get_parameter("text.blocks.1.mlp.down.weight").mul_(1.01)


def transpose_projector(one: nn.Module) -> None:
    weight = one.get_parameter("merger.fc1.weight")
    weight.copy_(weight.T.clone())


def wrong_gelu(one: nn.Module) -> None:
    mlp = one.get_submodule("vision.blocks.1.mlp")
    assert mlp.act is quick_gelu
    mlp.act = tanh_gelu


def one_nan(one: nn.Module) -> None:
    one.get_parameter("text.blocks.2.attn.o.weight")[3, 4] = torch.nan


@pytest.mark.parametrize(
    ("plant", "stage", "verdict"),
    [
        (scale_one, "text.blocks.1", "differs"),
        (transpose_projector, "merger", "differs"),
        (wrong_gelu, "vision.blocks.1", "differs"),
        (one_nan, "text.blocks.2", "not finite"),
    ],
)
def test_a_planted_fault_is_found_at_its_stage(
    plant: FAULTS, stage: str, verdict: str, qwen: nn.Module
) -> None:
    found = faulty(qwen, plant)
    assert found.first_divergent is not None
    assert (found.first_divergent.name, found.first_divergent.verdict) == (stage, verdict)
    bad = [one.name for one in found.stages if one.passed == "prefill" and one.verdict == verdict]
    assert bad == [stage]


def test_the_chain_shows_what_a_fault_does_to_the_rest(qwen: nn.Module) -> None:
    found = faulty(qwen, scale_one)
    chain = {one.name: one.chained for one in found.stages if one.passed == "prefill"}
    assert chain["text.blocks.0"] is not None
    assert chain["text.blocks.0"].relative == 0
    assert chain["head"] is not None
    assert chain["head"].relative > 1e-4


def test_positions_that_start_again_are_named(pi0: nn.Module) -> None:
    """SYSTEMS 1.8: the suffix turned as if nothing came before it."""

    def restart(one: nn.Module) -> None:
        rotation = one.vlm.rotation

        def restarted(positions: Tensor, dtype: torch.dtype) -> object:
            is_suffix = bool((positions[:, :1] > 0).all())
            return rotation(positions - positions[:, :1] if is_suffix else positions, dtype)

        one.vlm.rotation = restarted

    found = faulty(pi0, restart)
    assert found.first_divergent is not None
    assert found.first_divergent.name == "expert.blocks.0"
    assert found.first_divergent.verdict == "is fed another by.cos, by.sin"


def test_a_mask_that_hides_the_prefix_is_named(pi0: nn.Module) -> None:
    """SYSTEMS 1.8: an expert that does not see images and text."""

    def blind(one: nn.Module) -> None:
        prefix = one.prefix

        def unseen(inputs: Any) -> Any:
            found = prefix(inputs)
            hidden = torch.zeros_like(found.columns.valid)
            return found._replace(columns=found.columns._replace(valid=hidden))

        one.prefix = unseen

    found = faulty(pi0, blind)
    assert found.first_divergent is not None
    assert found.first_divergent.name == "expert.blocks.0"
    assert "mask" in found.first_divergent.verdict


@pytest.mark.parametrize("name", ["qwen", "pi0"])
def test_a_sound_model_passes_in_bfloat16(name: str, request: pytest.FixtureRequest) -> None:
    one = request.getfixturevalue(name)
    found = verify(one, backend("eager", dtype="bfloat16"), dtype="bfloat16")
    assert found.first_divergent is None, found.first_divergent
    assert max(stage.isolated.relative for stage in found.stages if stage.isolated) > 1e-4


def test_every_block_of_a_policy_is_a_stage(pi0: nn.Module) -> None:
    names = [stage.name for stage in verify(pi0, EAGER).stages]
    for role, layers in (("vision", 2), ("vlm", 3), ("expert", 3)):
        assert [f"{role}.blocks.{i}" for i in range(layers)] == [
            n for n in names if n.startswith(f"{role}.blocks")
        ]
    assert {"vision.patch_embed", "projector", "prefix", "suffix", "expert.norm"} <= set(names)
    assert names[-1] == "heads.action_out"


def test_a_constant_has_no_correlation() -> None:
    zeros, ones = torch.zeros(5), torch.ones(5)
    for candidate, reference in ((zeros, zeros), (ones, ones), (zeros, torch.arange(5.0))):
        assert distance(candidate, reference).is_constant
    loose = Tolerance(pcc=0.5, relative=10.0)
    assert loose.passes(distance(zeros, zeros))
    assert not loose.passes(distance(zeros, torch.arange(5.0)))
    assert not loose.passes(distance(ones, zeros))


def test_distances_are_what_numpy_says() -> None:
    a, b = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 2.0, 3.0])
    found = distance(a, b)
    assert found.max_abs == 1
    assert found.relative == pytest.approx(1 / 14**0.5)
    assert found.pcc == pytest.approx(0.9819805)
    assert distance(torch.tensor([1.0, torch.nan]), torch.ones(2)).num_bad == 1


def test_a_stage_beyond_protobufs_limit_goes_through_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dovetail.parity.backends.onnx._LARGE", 0)
    stage, x = nn.Linear(64, 48), torch.randn(3, 64)
    (found,) = backend("onnx").compile(stage, (x,))(x)
    assert torch.allclose(found, stage(x), atol=1e-5)


def tiny_qwen2_vl(folder: Path) -> Path:
    """A Qwen2-VL of one layer each."""
    sizes = {**MODELS["qwen2_vl"][0], "text.layers": 1, "vision.layers": 1}
    sizes |= {"text.d_model": 64, "text.head_dim": 16, "vision.d_vision": 64, "vision.heads": 4}
    dovetail.make("qwen2_vl", folder / "m", set=sizes, dtype="float32", seed=1)
    return folder / "m"


@pytest.fixture(scope="module")
def blocks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Call]:
    """A block of vision, of the decoder's prefill and of a cached decode step, as each was called."""
    path = tiny_qwen2_vl(tmp_path_factory.mktemp("blocks"))
    built = dovetail.load(path, dtype="float32", settings=settings("qwen2_vl"))
    found: dict[str, Call] = {}
    for name, walk in passes(built, example_inputs(built)):
        with torch.no_grad(), Recorder().attached(built) as recorder:
            walk(built, recorder)
        found |= {f"{name} {key}": call for key, call in recorder.calls.items() if ".blocks." in key}
    assert found.keys() == {"prefill vision.blocks.0", "prefill text.blocks.0", "decode text.blocks.0"}
    return found


@pytest.mark.parametrize(
    ("name", "dtype", "stages"),
    [
        ("onnx", "float32", 3),
        ("openvino", "float32", 3),
        ("openvino", "bfloat16", 1),
    ],
)
def test_other_backends_compute_the_blocks(
    name: str, dtype: str, stages: int, blocks: dict[str, Call]
) -> None:
    """The decode step first. `test_other_backends_pass` runs all stages."""
    other = backend(name, dtype=dtype)
    for key, call in [*blocks.items()][::-1][:stages]:
        assert call.stage is not None
        found = other.compile(call.stage, call.tensors)(*call.tensors)
        assert len(found) == len(call.outputs)
        distances = [distance(one, expected) for one, expected in zip(found, call.outputs, strict=True)]
        assert all(map(other.tolerance.passes, distances)), (key, distances)
        # where the processor has bfloat16, errors are of its size; where not, the backend says so
        assert (distances[0].relative > 1e-4) == (dtype == "bfloat16" and other.note is None), key
    assert other.note is None or (dtype, name) == ("bfloat16", "openvino")


class Two(nn.Module):
    """A stage with two results of different shapes."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + 1, x.sum(dim=0)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_all_results_of_a_stage_come_in_their_order(name: str) -> None:
    x = torch.arange(6.0).view(2, 3)
    found = backend(name).compile(Two(), (x,))(x)
    assert [one.tolist() for one in found] == [(x + 1).tolist(), [3.0, 5.0, 7.0]]


def test_openvino_tells_nobody_what_is_converted() -> None:
    backend("openvino")
    from openvino.tools.ovc import convert_impl

    assert convert_impl.tm.__name__ == "openvino.tools.ovc.telemetry_stub"


@pytest.mark.slow
def test_the_command_runs_every_stage_of_a_tower_in_another_backend(tmp_path: Path) -> None:
    sizes = {**MODELS["siglip"][1], "vision.layers": 1}
    dovetail.make("siglip", tmp_path / "m", set=sizes, dtype="float32", seed=1)
    answer = command("verify", tmp_path / "m", "--backend", "onnx", "--json")
    assert answer.code == 0, answer.err
    values = json.loads(answer.out)
    assert (values["good"], values["note"], values["backend"]) == (True, None, "onnx")
    assert [(one["pass"], one["stage"]) for one in values["stages"]] == [
        ("forward", "vision.patch_embed"),
        ("forward", "vision.blocks.0"),
        ("forward", "vision.norm"),
    ]
    assert 0 < max(one["isolated"]["relative_norm"] for one in values["stages"]) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("options", [("onnx", "float32"), ("openvino", "float32"), ("openvino", "bfloat16")])
def test_other_backends_pass(options: tuple[str, str], tmp_path: Path) -> None:
    """The vision tower, the decoder's prefill and a cached decode step."""
    path = tiny_qwen2_vl(tmp_path)
    name, dtype = options
    mrope = "mrope_section=[2,3,3]"
    answer = command("verify", path, "--backend", name, "--dtype", dtype, "--set", mrope, "--json")
    assert answer.code == 0, answer.err
    values = json.loads(answer.out)
    assert values["good"]
    # where the processor has bfloat16, errors are of its size; where not, the result says so
    far = max(stage["isolated"]["relative_norm"] for stage in values["stages"])
    assert (far > 1e-4) == (dtype == "bfloat16" and values["note"] is None)
    assert values["note"] is None or (dtype, name) == ("bfloat16", "openvino")
    seen = {(stage["pass"], stage["stage"]) for stage in values["stages"]}
    assert {
        ("prefill", "vision.blocks.0"),
        ("prefill", "text.blocks.0"),
        ("decode", "text.blocks.0"),
    } <= seen


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_windows_and_deepstack_pass_in_another_backend(family: str, tmp_path: Path) -> None:
    """Every layer and every merger, in a prefill and in a cached decode step."""
    dovetail.make(family, tmp_path / "m", set=SIZES[family][0], dtype="float32", seed=1)
    built = dovetail.load(tmp_path / "m", settings=SETTINGS[family])
    found = verify(built, backend("onnx"))
    assert found.first_divergent is None
    seen = {(stage.passed, stage.name) for stage in found.stages}
    assert {("prefill", "vision.blocks.1"), ("prefill", "merger"), ("decode", "text.blocks.0")} <= seen
    levels = {("prefill", f"deepstack.{i}") for i in range(2)}
    assert levels <= seen if family == "qwen3_vl" else not levels & seen


@pytest.mark.slow
def test_inductor_passes(tmp_path: Path) -> None:
    path = tiny_qwen2_vl(tmp_path)
    answer = command("verify", path, "--backend", "inductor", "--set", "mrope_section=[2,3,3]")
    assert answer.code == 0, answer.err
    assert "good: all" in answer.out


def test_the_command_names_the_first_divergent_stage(tmp_path: Path) -> None:
    sizes = {**MODELS["qwen3"][0], "text.head_dim": 8}
    dovetail.make("qwen3", tmp_path / "a", set=sizes, dtype="float32", seed=1)
    dovetail.make("qwen3", tmp_path / "b", set=sizes, dtype="float32", seed=2)
    answer = command("verify", tmp_path / "a", "--against", tmp_path / "b", "--report", tmp_path / "report")
    assert answer.code == 1
    assert "first divergent stage: text.embed (prefill): differs" in answer.out
    page = (tmp_path / "report" / "verify.html").read_text()
    assert "text.embed" in page
    assert (
        json.loads((tmp_path / "report" / "verify.json").read_text())["first_divergent"]["stage"]
        == "text.embed"
    )


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    dovetail.make("qwen3", tmp_path / "a", set=MODELS["qwen3"][0])
    dovetail.make("qwen2", tmp_path / "b", set=MODELS["qwen2"][0])
    dovetail.make("qwen3", tmp_path / "c", set={**MODELS["qwen3"][0], "text.layers": 1})
    for words, message in (
        (("--backend", "ttnn"), "there is no backend `ttnn`"),
        (("--backend", "onnx", "--dtype", "bfloat16"), "onnx runs in float32"),
        (("--backend", "openvino", "--dtype", "float16"), "openvino runs in float32 and bfloat16 on the cpu"),
        (("--dtype", "int8"), "eager does not run in int8"),
        (("--device", "cuda:99"), "device `cuda:99` cannot be used: "),
        (("--device", "gpu"), "device `gpu` cannot be used: "),
        (("--image", "a.png"), "there is no image `a.png`"),
        (("--against", tmp_path / "b"), "the two checkpoints are of different families"),
        (("--against", tmp_path / "c"), "different sizes: text.blocks.1.norm1.weight, "),
    ):
        answer = command("verify", tmp_path / "a", *words)
        assert (answer.code, message in answer.err, answer.out) == (2, True, ""), answer.err


def test_checkpoints_are_verified_by_their_names(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 2)):
        dovetail.make("qwen2", tmp_path / name, set=SIZES["qwen2"][0], dtype="float32", seed=seed)
    alone = dovetail.verify(tmp_path / "a", "eager")
    assert (alone.reference, alone.candidate) == (str(tmp_path / "a"),) * 2
    assert alone.first_divergent is None
    both = dovetail.verify(tmp_path / "a", against=tmp_path / "b")
    assert both.candidate == str(tmp_path / "b")
    assert both.first_divergent is not None
