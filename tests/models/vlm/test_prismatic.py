"""Prismatic equals the recorded outputs, and timm's towers before transformers' decoder, in every variant."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file
from torch.nn import functional as F

from dovetail.errors import UsageError
from dovetail.families import family
from dovetail.inputs.images import HALF, IMAGENET, normalize
from dovetail.inputs.values import values_from
from dovetail.loading.load import load
from dovetail.models import build
from dovetail.models.taps import tapped
from dovetail.run.engine import generate
from every_layout import every_layout
from files import MODELS, plan_of
from models.recorded import GOLDEN, recorded
from models.running import check_running
from parity import assert_near, randomise
from stand_in import import_timm

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

VARIANTS = {
    "avgpool16_mlp": {},
    "avgpool4_mlp": {"projector.arch_specifier": "full-align+4-avgpool"},
    "linear_nobias_postnorm": {"vision_output": "normed"},
}


@pytest.fixture(scope="module", params=list(VARIANTS))
def golden(request: Any, tmp_path_factory: Any) -> tuple[str, Any, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("golden")
    whole = torch.load(GOLDEN / "prismatic" / "latest-checkpoint.pt", weights_only=True)
    settings = dict(VARIANTS[request.param])
    config = json.loads((GOLDEN / "prismatic" / "config.json").read_text())
    if request.param.startswith("linear"):
        weight = load_file(GOLDEN / "prismatic" / "linear" / "linear_projector.safetensors")
        whole["model"]["projector"] = {"projector.weight": weight["projection.weight"]}
        config["arch_specifier"] = "linear"
    if arch := settings.pop("projector.arch_specifier", None):
        config["arch_specifier"] = arch
    torch.save(whole, folder / "latest-checkpoint.pt")
    (folder / "config.json").write_text(json.dumps(config))
    io = recorded("prismatic", images="prismatic")
    return request.param, load(folder, settings=settings), io


def test_what_was_recorded(golden: tuple[str, Any, dict[str, Any]]) -> None:
    variant, model, io = golden
    images = [io["imageA"], io["imageB"]]
    for ids, of, logits in (("input_ids", images[:1], "logits"), ("input_ids2", images, "logits2")):
        inputs = model.prepare([io[f"{variant}.{ids}"].tolist()], [of])
        assert_near(inputs["pixels"], torch.from_numpy(io["pixel_values"][: len(of)]))
        with torch.no_grad(), tapped(model, "projector") as taps:
            found = model(**inputs)
        assert_near(found, torch.from_numpy(io[f"{variant}.{logits}"]))
        assert_near(taps["projector"], torch.from_numpy(io[f"{variant}.proj"][: len(of)]))
    pixels = torch.from_numpy(io["pixel_values"])
    with torch.no_grad():
        for output, name in {"penultimate": "m2", "last": "last_nonorm", "normed": "last_norm"}.items():
            assert_near(model.vision(pixels, output), torch.from_numpy(io[f"feat_{name}"]))
        assert_near(model.vision.pool(model.vision(pixels)), torch.from_numpy(io["attn_pool"]))
    inputs = model.prepare([io[f"{variant}.input_ids"].tolist()], [images[:1]])
    assert generate(model, inputs, max_new_tokens=16) == io[f"{variant}.greedy"].tolist()


def test_every_way_of_running_it(golden: tuple[str, Any, dict[str, Any]]) -> None:
    _, model, io = golden
    a, b = io["imageA"], io["imageB"]
    check_running(model, [[5, -200, 6, 7], [9, 8], [1, -200, -200, 3, 4]], [[a], [], [b, a]], vocab=512)


def test_where_images_go(golden: tuple[str, Any, dict[str, Any]]) -> None:
    _, model, io = golden
    image = [io["imageA"]]
    count = model.inputs.tokens_per_image
    placed = model.prepare([[5, -200, 6, 7]], [image])
    assert placed["tokens"].tolist() == [[5, *[-200] * count, 6, 7]]
    for row in ([5, 6, 7], placed["tokens"][0].tolist()):
        again = model.prepare([row], [image])
        assert all(torch.equal(again[name], placed[name]) for name in placed)
    two = model.prepare([[5, 6]], [image * 2])
    assert two["tokens"].tolist() == [[5, *[-200] * 2 * count, 6]]
    with pytest.raises(UsageError, match="a row holds token -200 1 times"):
        model.prepare([[5, -200, 6]], [image * 3])
    with pytest.raises(UsageError, match="do not match the images"):
        model(**{**placed, "pixels": placed["pixels"].repeat(2, 1, 1, 1)})
    with pytest.raises(UsageError, match="not a decoded image"):
        model.prepare([[5, -200]], [[np.zeros((2, 2, 3))]])


# of each tower: width, heads, feed-forward width, layers; then projector
SIGLIP, DINO = (35, 5, 22, 3), (26, 2, 61, 4)
LLM = {
    "hidden_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "head_dim": 12,
    "intermediate_size": 44,
    "vocab_size": 97,
    "tie_word_embeddings": False,
}
LAYERS = {"linear": (1,), "gelu-mlp": (1, 1), "fused-gelu-mlp": (4, 1, 1)}
CASES = [
    *(("siglip", arch, edge, "resize-naive") for arch, edge in (("linear", 4), ("gelu-mlp", 5))),
    *(("dinosiglip", arch, edge, "resize-naive") for arch, edge in (("fused-gelu-mlp", 3), ("gelu-mlp", 4))),
    ("siglip", "gelu-mlp", 27, "resize-naive"),  # 729 tokens: run once only
    ("dino", "gelu-mlp", 3, "resize-crop"),
]


def tower(name: str, edge: int, patch: int) -> Any:
    width, heads, ffn, layers = DINO if name == "dino" else SIGLIP
    more = {"reg_tokens": 4, "no_embed_class": True, "init_values": 1e-5}
    of_siglip = {"class_token": False, "global_pool": "map"}
    return randomise(
        import_timm().models.vision_transformer.VisionTransformer(
            img_size=edge * patch,
            patch_size=patch,
            embed_dim=width,
            depth=layers,
            num_heads=heads,
            mlp_ratio=ffn / width + 1e-9,
            num_classes=0,
            **(more if name == "dino" else of_siglip),
        )
    )


class Original:
    """A Prismatic model out of timm's towers, linears written out and transformers' Llama."""

    def __init__(self, vision: str, arch: str, edge: int) -> None:
        names = {"siglip": ["siglip"], "dino": ["dino"], "dinosiglip": ["dino", "siglip"]}[vision]
        self.towers = {name: tower(name, edge, 6) for name in names}
        width = sum(DINO[0] if name == "dino" else SIGLIP[0] for name in names)
        self.llm = randomise(transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLM)))
        widths = [width, *(width * 4 if times == 4 else LLM["hidden_size"] for times in LAYERS[arch])]
        self.linears = [randomise(torch.nn.Linear(a, b), i) for i, (a, b) in enumerate(pairwise(widths))]

    def save(self, folder: Path, config: dict[str, Any]) -> Path:
        single = len(self.towers) == 1
        vision = {
            f"{'' if single else name + '_'}featurizer.{key}": value
            for name, one in self.towers.items()
            for key, value in one.state_dict().items()
        }
        number = (lambda i: "") if len(self.linears) == 1 else (lambda i: f"{2 * i}.")
        projector = {
            f"projector.{number(i)}{name}": value
            for i, one in enumerate(self.linears)
            for name, value in one.state_dict().items()
        }
        llm = {f"llm.{name}": value for name, value in self.llm.state_dict().items()}
        parts = {"vision_backbone": vision, "projector": projector, "llm_backbone": llm}
        folder.mkdir(exist_ok=True)
        torch.save({"model": parts}, folder / "latest-checkpoint.pt")
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    def logits(self, row: list[int], pixels: dict[str, Any]) -> Any:
        seen = [
            one.get_intermediate_layers(pixels[name], n={len(one.blocks) - 2})[0]
            for name, one in self.towers.items()
        ]
        x = torch.cat(seen, dim=2)
        for i, one in enumerate(self.linears):
            x = one(x if i == 0 else F.gelu(x))
        text = self.llm.get_input_embeddings()(torch.tensor([row]))
        return self.llm(
            inputs_embeds=torch.cat([text[:, :1], x.flatten(0, 1)[None], text[:, 1:]], dim=1)
        ).logits


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_timm_before_transformers(case: tuple[str, str, int, str], tmp_path: Path) -> None:
    vision, arch, edge, strategy = case
    theirs = Original(vision, arch, edge)
    heads = {"num_attention_heads": DINO[1] if vision.startswith("dino") else SIGLIP[1]}
    config = {
        "model_type": "prismatic",
        "arch_specifier": f"no-align+{arch}",
        "image_resize_strategy": strategy,
        "vision": heads,
        "fused": {"num_attention_heads": SIGLIP[1]},
        "text": {**LLM, "model_type": "llama", "rms_norm_eps": 1e-6, "rope_theta": 10000.0},
    }
    mine = load(theirs.save(tmp_path / "model", config))
    image = np.random.default_rng(0).integers(0, 256, (6 * edge, 6 * edge, 3), np.uint8)
    pixels = {"siglip": normalize(image, HALF), "dino": normalize(image, IMAGENET)}
    pixels = {name: torch.from_numpy(one)[None] for name, one in pixels.items()}
    with torch.no_grad():
        found = mine(**mine.prepare([[1, 17, 30]], [[image]]))
        assert_near(found, theirs.logits([1, 17, 30], pixels))
    assert mine.inputs.tokens_per_image == edge**2
    if edge < 27:
        check_running(mine, [[1, 17, 30], [1, 4]], [[image], [image, image]], vocab=97)


def test_average_pools() -> None:
    from dovetail.models.vlm.prismatic import AvgpoolConfig, AvgpoolMlp

    x = torch.rand(2, 36, 5)
    plain = {"d_in": 5, "d_out": 3, "num_image_tokens": 9}
    grid = AvgpoolMlp(AvgpoolConfig(**plain, pooling="2d")).pool(x)
    assert_near(grid, x.view(2, 3, 2, 3, 2, 5).mean(dim=(2, 4)).flatten(1, 2))
    line = AvgpoolMlp(AvgpoolConfig(**plain, pooling="1d")).pool(x)
    assert_near(line, x.view(2, 9, 4, 5).mean(dim=2))
    assert AvgpoolMlp(AvgpoolConfig(**plain, pooling="1d")).pool(x[:, :9]).equal(x[:, :9])
    with pytest.raises(UsageError, match="no pooling is called `3d`"):
        AvgpoolMlp(AvgpoolConfig(**plain, pooling="3d"))


def test_numbers_that_a_text_says(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "prismatic", tmp_path / "model", ignore=shutil.ignore_patterns("linear"))
    file, config = (
        tmp_path / "model" / "config.json",
        json.loads((GOLDEN / "prismatic" / "config.json").read_text()),
    )
    del config["vision"]["image_size"]
    for more, size in ({}, 56), ({"vision_backbone_id": "siglip-vit-so400m-62px"}, 62):
        file.write_text(json.dumps(config | more))
        assert load(tmp_path / "model").vision.image_size == size
    file.write_text(json.dumps(config | {"num_image_tokens": 4}))
    with pytest.raises(UsageError, match=r"num_image_tokens is 4 in .* says `full-align\+16-avgpool`"):
        load(tmp_path / "model")
    assert load(tmp_path / "model", settings={"projector.num_image_tokens": 9}).inputs.tokens_per_image == 9
    file.write_text(json.dumps(config | {"arch_specifier": "avgpool"}))
    with pytest.raises(UsageError, match=r"projector\.num_image_tokens must be known"):
        load(tmp_path / "model")
    with pytest.raises(UsageError, match="no output of a tower is called `best`"):
        load(GOLDEN / "prismatic" / "latest-checkpoint.pt", settings={"vision_output": "best"})


@pytest.mark.parametrize("number", range(len(MODELS["prismatic"])))
def test_every_layout_is_the_same_model(number: int, tmp_path: Path) -> None:
    sizes = {**MODELS["prismatic"][number], "llm.head_dim": 8}
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    outputs = {}
    for layout, model in every_layout("prismatic", sizes, tmp_path):
        with torch.no_grad():
            outputs[layout] = model(**model.prepare([[3, -200, 5, 6]], [[image]]))
    assert len(outputs) >= 2
    assert all(torch.equal(one, outputs["native"]) for one in outputs.values())


@pytest.mark.parametrize(
    ("size", "parameters"), [("siglip2-qwen3-1.7b", 2_466_523_200), ("openvla-7b", 7_541_237_184)]
)
def test_the_published_sizes(size: str, parameters: int) -> None:
    given = {"projector.num_image_tokens": 729} if size.startswith("siglip2") else {}
    model = build(values_from(plan_of("prismatic", family("prismatic").sizes[size]), given))
    assert sum(one.numel() for one in model.parameters()) == parameters
    assert model.inputs.tokens_per_image == (729 if size.startswith("siglip2") else 256)
