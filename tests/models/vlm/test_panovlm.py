"""PanoVLM and CORA: their checkpoints run as transformers' parts and loops over views run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from dovetail.edit.make import make
from dovetail.errors import UsageError
from dovetail.families import family
from dovetail.inputs.images import HALF, LANCZOS, normalize, resize
from dovetail.inputs.panorama import anyres, perspective, sliding
from dovetail.inputs.panovlm import PIPELINES
from dovetail.inputs.values import values_from
from dovetail.loading.load import load
from dovetail.models import build
from dovetail.models.vlm.stitch import PositionConfig, positions
from every_layout import every_layout
from files import MODELS, plan_of
from models.recorded import GOLDEN, recorded
from models.running import check_running
from parity import assert_near, randomise

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

TOWER = {
    "hidden_size": 24,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "image_size": 32,
    "patch_size": 8,
    "vision_use_head": False,
}
TEXT = {
    "hidden_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "intermediate_size": 44,
    "vocab_size": 97,
    "tie_word_embeddings": True,
}
GIVEN = {"vision.heads": 3, "text.head_dim": 12, "text.rope_theta": 10_000.0}
PANORAMA = np.random.default_rng(0).integers(0, 256, (48, 96, 3), np.uint8)


class Original:
    """A checkpoint as PanoVLM's trainer writes it, and what it should say, part by part."""

    def __init__(self, *, has_norm: bool) -> None:
        tower = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**TOWER))
        self.tower = randomise(tower)
        self.norm = randomise(torch.nn.LayerNorm(24), 1) if has_norm else None
        layers = [torch.nn.Linear(24, 20), torch.nn.LayerNorm(20), torch.nn.GELU(), torch.nn.Linear(20, 14)]
        self.resampler = randomise(torch.nn.Sequential(*layers), 2)
        self.projector = randomise(torch.nn.Linear(14, 36), 3)
        self.llm = randomise(transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**TEXT)), 4)

    def save(self, file: Path, layout: str) -> Path:
        is_cora = layout == "cora"
        vision = "vision_encoder" if is_cora else "vision_backbone"
        places = {
            f"{vision}.encoder": getattr(self.tower, "vision_model", self.tower),
            "resampler_module.resampler.mlp": self.resampler,
            ("resampler.resampler.mlp" if is_cora else "resampler.mlp"): self.resampler,
            "projector.linear": self.projector,
            (
                "vision_to_language_projection.linear" if is_cora else "vision_to_language_projection"
            ): self.projector,
            "language_model": self.llm,
        }
        if is_cora:
            places["language_model_wrapper.model"] = self.llm
        if self.norm is not None:
            places[f"{vision}.norm"] = self.norm
        state = {
            f"model.{place}.{name}": one
            for place, module in places.items()
            for name, one in module.state_dict().items()
        }
        torch.save({"state_dict": state, "epoch": 1}, file)
        return file

    def tokens(self, views: np.ndarray, pipeline: str, overlap: float = 0.5) -> Any:
        """The tokens of one panorama, view by view and column by column."""
        x = self.tower(torch.from_numpy(views)).last_hidden_state
        x = self.resampler(x if self.norm is None else self.norm(x)).view(len(views), 4, 4, 14)
        first = []
        if pipeline == "cora":
            first, x = [self.projector(x[0]).flatten(0, 1)], x[1:]
            settings = PositionConfig(
                pe_enable_continuity=True,
                pe_spatial_encoding_type="sinusoidal",
                pe_temperature=10_000.0,
                overlap_ratio=overlap,
            )
            x = x + positions(len(x), 4, 4, 14, settings)
        y = self.projector(x)
        shared = round(4 * overlap)
        joined = [
            y[view, row, column]
            for row in range(4)
            for view in range(len(y))
            for column in range(shared if view else 0, 4)
        ]
        return torch.cat([*first, torch.stack(joined)])

    def logits(self, before: list[int], tokens: Any, after: list[int]) -> Any:
        table = self.llm.get_input_embeddings()
        x = torch.cat([table(torch.tensor(before, dtype=torch.long)), tokens, table(torch.tensor(after))])
        return self.llm(inputs_embeds=x[None]).logits


VIEWS = {"panovlm": perspective, "cora": anyres}


@pytest.mark.parametrize("pipeline", ["panovlm", "cora"])
@pytest.mark.parametrize("layout", ["legacy", "cora"])
@pytest.mark.parametrize("has_norm", [False, True])
def test_parts_of_transformers_put_together(
    pipeline: str, layout: str, has_norm: bool, tmp_path: Path
) -> None:
    theirs = Original(has_norm=has_norm)
    file = theirs.save(tmp_path / "last.ckpt", layout)
    mine = load(file, settings={**GIVEN, "pipeline": pipeline})
    views = VIEWS[pipeline](PANORAMA, (32, 32))
    inputs = mine.prepare([[5, -200, 7, 9]], [[PANORAMA]])
    assert_near(inputs["pixels"][0], torch.from_numpy(views))
    with torch.no_grad():
        expected = theirs.tokens(views, pipeline)
        assert mine.inputs.num_tokens(len(views)) == len(expected)
        assert_near(mine.project(mine.features(inputs["pixels"]))[0], expected)
        assert_near(mine(**inputs), theirs.logits([5], expected, [7, 9]))
        assert_near(mine(**mine.prepare([[7, 9]], [[PANORAMA]])), theirs.logits([], expected, [7, 9]))


def test_every_way_of_running_it(tmp_path: Path) -> None:
    file = Original(has_norm=False).save(tmp_path / "last.ckpt", "legacy")
    model = load(
        file, settings={**GIVEN, "pipeline": "panovlm", "fov_deg": 180.0, "crop_strategy": "sliding_window"}
    )
    check_running(model, [[5, -200, 6], [9, 8, 4], [3, 2]], [[PANORAMA], [], [PANORAMA]], vocab=97)


def test_where_a_panorama_goes(tmp_path: Path) -> None:
    file = Original(has_norm=False).save(tmp_path / "last.ckpt", "legacy")
    model = load(file, settings={**GIVEN, "pipeline": "panovlm"})
    views = [PANORAMA[:, :40], PANORAMA[:, 20:60]]
    count = model.inputs.num_tokens(2)
    assert count == 4 * (4 + 2)
    placed = model.prepare([[5, -200, 6, -200, 7]], [views])
    assert placed["tokens"].tolist() == [[5, *[-200] * count, 6, 7]]
    expected = np.stack([normalize(resize(view, (32, 32), filter=LANCZOS), HALF) for view in views])
    assert_near(placed["pixels"][0], torch.from_numpy(expected))
    again = model.prepare(placed["tokens"].tolist(), [views])
    assert again["tokens"].tolist() == placed["tokens"].tolist()
    with pytest.raises(UsageError, match="as many views"):
        model.prepare([[5], [6]], [views, [PANORAMA]])
    with pytest.raises(UsageError, match="images are given for 1 rows"):
        model.prepare([[5], [6]], [views])
    cubes = load(file, settings={**GIVEN, "pipeline": "panovlm", "crop_strategy": "cubemap"})
    with pytest.raises(UsageError, match="by `cubemap` are not written here"):
        cubes.prepare([[5]], [[PANORAMA]])


def test_whose_pipeline_it_is_the_names_say_unless_a_config_does(tmp_path: Path) -> None:
    file = Original(has_norm=False).save(tmp_path / "last.ckpt", "cora")
    model = load(file, settings=GIVEN)
    assert model(**model.prepare([[5, 6]])).shape == (1, 2, 97)
    assert model.inputs.pipeline == PIPELINES["cora"]
    model.prepare([[5]], [[PANORAMA]])
    (tmp_path / "config.yaml").write_text("models:\n  use_projection_positional_encoding: false\n")
    assert load(file, settings={**GIVEN, "pipeline": "cora"}).inputs.pipeline.has_positions is False
    with pytest.raises(UsageError, match="no pipeline is called `pano`"):
        load(file, settings={**GIVEN, "pipeline": "pano"}).prepare([[5]], [[PANORAMA]])
    strategies = {**GIVEN, "pipeline": "panovlm", "crop_strategy": "sliding_window", "fov_deg": 120.0}
    found = load(file, settings=strategies).prepare([[5]], [[PANORAMA]])["pixels"][0]
    assert_near(found, torch.from_numpy(sliding(PANORAMA, (32, 32), fov=120.0)))


KINDS = {str(model["resampler"]): model for model in MODELS["panovlm"]}
MORE = {
    "bimamba": {"resampler.norm_first": True},
    "c_abstractor+readout": {"resampler.num_queries": 9},
    "qformer": {"resampler.heads": 6},
    "perceiver+ff+proj": {"resampler.head_dim": 19},
    "spatial_pool_or_masked_drop_2": {"resampler.resampler_type": "spatial_pool", "resampler.pool_size": 3},
    "identity_or_avg": {"resampler.resampler_type": "avg"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_layout_is_the_same_model(kind: str, tmp_path: Path) -> None:
    settings = {"vision.heads": 6, "text.head_dim": 8, "pipeline": "panovlm", **MORE.get(kind, {})}
    sizes = {**KINDS[kind], "text.head_dim": 8}
    outputs, features = {}, {}
    for layout, model in every_layout("panovlm", sizes, tmp_path, settings=settings):
        with torch.no_grad():
            inputs = model.prepare([[3, -200, 5]], [[PANORAMA[:, :40], PANORAMA[:, 20:60]]])
            outputs[layout] = model(**inputs)
            x = model.vision(inputs["pixels"][0])
            features[layout] = model.resampler(x)
    assert set(outputs) == {"legacy", "cora"}
    assert torch.equal(outputs["legacy"], outputs["cora"])
    for layout in ("resampler", "resampler-bare"):
        make("panovlm", tmp_path / layout, layout=layout, set=sizes, dtype="float32", seed=5)
        model = load(tmp_path / layout, as_=f"panovlm/{layout}", settings=MORE.get(kind, {}))
        with torch.no_grad():
            assert torch.equal(model(x), features["legacy"])


def test_the_golden_resampler() -> None:
    io = recorded("bimamba")
    model = load(GOLDEN / "bimamba")
    with torch.no_grad():
        assert_near(model(torch.from_numpy(io["x"])), torch.from_numpy(io["y"]))


def test_the_published_size() -> None:
    size = family("panovlm").sizes["so400m-qwen2.5-0.5b"]
    model = build(values_from(plan_of("panovlm", size), {"resampler.norm_first": True}))
    parts = {name: sum(one.numel() for one in part.parameters()) for name, part in model.named_children()}
    assert parts["resampler"] == 50_706_176
    assert parts["text"] == 494_032_768
    assert parts["projector"] == 768 * 896 + 896
    assert parts["vision"] == 412_442_352 + 1152 * 3 * (16**2 - 14**2)
