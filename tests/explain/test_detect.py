"""Every family in every layout is recognised by names and shapes alone, with its parts and sizes."""

import math
from pathlib import Path
from typing import Any

import pytest

import dovetail
from dovetail.declare.blueprint import Blueprint
from dovetail.families import built_in, family
from files import MODELS, header_of, plan_of, write_listing

# Names and shapes of these are the same by design (see layout.lookalikes); a config tells them apart.
ALIKE = ("llama", "mistral", "smollm3", "gemma")
CASES = [
    pytest.param(each.id, model, layout.id, id=f"{each.id}-{i}-{layout.id}")
    for each in built_in()
    for i, model in enumerate(MODELS[each.id])
    for layout in each.layouts
    if header_of(plan_of(each.id, model), layout.id)
]


def present(plan: Blueprint, layout: str) -> dict[str, Any]:
    """The parts that this layout has."""
    return {role: part for role, part in plan.kinds.items() if role in plan.family.layout(layout).mounts}


@pytest.mark.parametrize(("id", "model", "layout"), CASES)
def test_a_header_says_family_layout_parts_and_sizes(
    id: str, model: dict[str, Any], layout: str, tmp_path: Path
) -> None:
    plan = plan_of(id, model)
    header = header_of(plan, layout)
    report = dovetail.inspect(write_listing(tmp_path / "x.json", header))
    if id in ALIKE:
        rivals = tuple(one for one in ALIKE if layout in {each.id for each in family(one).layouts})
        assert (report.family, report.candidates) == (None, rivals)
        return
    assert (report.family, report.layout) == (id, layout)
    assert [f.message for f in report.findings if f.severity == "error"] == []
    assert (report.tensors, report.parameters) == (
        len(header),
        sum(math.prod(shape) for _, shape in header.values()),
    )
    roles = present(plan, layout)
    if "avgpool_mlp" not in {part.id for part in roles.values()} or layout != "openvla":
        kinds = {role: part.kind for role, part in report.parts.items() if not part.tied_to}
        assert kinds == {role: part.id for role, part in roles.items()} | (
            {"head": "head"} if "head" in kinds and "head" not in roles else {}
        )
    assert {role: set(report.parts[role].features) for role in roles} == {
        role: set(plan.features[role]) for role in roles
    }
    known = {name: value.value for name, value in report.config.items() if value.source == "weights"}
    declared = {name: size for name, size in plan.sizes.items() if name in known}
    assert {name: known[name] for name in declared} == declared
    assert set(plan.sizes) - set(declared) <= OPEN[id] | {
        n for n in plan.sizes if n.split(".")[0] not in roles
    }


@pytest.mark.parametrize(("id", "model", "layout"), CASES)
def test_the_same_when_it_is_told(id: str, model: dict[str, Any], layout: str, tmp_path: Path) -> None:
    """A layout that is named finds its names in the wrapper of its container as well."""
    plan = plan_of(id, model)
    one = plan.family.layout(layout)
    wrapper = one.container.wrapper
    header = {wrapper + name: shape for name, shape in header_of(plan, layout).items()}
    report = dovetail.validate(write_listing(tmp_path / "x.json", header), as_=f"{id}/{layout}")
    assert [f.message for f in report.findings if f.severity == "error"] == []
    assert report.layout == layout


# What no shape of the family decides (head counts), by role.
_DECODER = ("q_heads", "kv_heads", "head_dim")
OPEN = {
    "qwen2_vl": {"vision.heads", *(f"text.{dim}" for dim in _DECODER)},
    "qwen2_5_vl": {"vision.heads", *(f"text.{dim}" for dim in _DECODER)},
    "qwen3_vl": {"vision.heads"},
    "llava_onevision": {"vision.heads", *(f"text.{dim}" for dim in _DECODER)},
    "llava": {"vision.heads", *(f"text.{dim}" for dim in _DECODER)},
    "paligemma": {"vision.heads", *(f"text.{dim}" for dim in _DECODER)},
    "prismatic": {"vision.heads", "fused.heads", *(f"llm.{dim}" for dim in _DECODER)},
    "pi0": {"vision.heads", *(f"{role}.{dim}" for role in ("vlm", "expert") for dim in _DECODER)},
    "pi05": {"vision.heads", *(f"{role}.{dim}" for role in ("vlm", "expert") for dim in _DECODER)},
    "panovlm": {
        "vision.heads",
        "resampler.heads",
        "resampler.head_dim",
        *(f"text.{dim}" for dim in _DECODER),
    },
    "siglip": {"vision.heads"},
    "siglip_text": {"text.heads"},
    "clip": {"vision.heads", "text.heads"},
    "clip_text": {"text.heads"},
    "dinov2": {"vision.heads"},
    "qwen2": {f"text.{dim}" for dim in _DECODER},
    "qwen3": set(),
}


def test_the_parametrisation_covers_every_layout() -> None:
    covered = {(param.values[0], param.values[2]) for param in CASES}
    assert {(family.id, layout.id) for family in built_in() for layout in family.layouts} == covered


def test_a_config_tells_kinds_with_the_same_tensors_apart(tmp_path: Path) -> None:
    path = write_listing(
        tmp_path / "x.json", header_of(plan_of("prismatic", MODELS["prismatic"][1]), "openvla")
    )
    report = dovetail.inspect(path)
    assert report.parts["projector"].kind == "gelu_mlp"
    assert [f.message for f in report.findings] == [
        "projector may be gelu_mlp or avgpool_mlp: their tensors are the same; it is read as gelu_mlp"
    ]
    (tmp_path / "config.json").write_text(
        '{"model_type": "prismatic", "arch_specifier": "full-align+729-avgpool"}'
    )
    assert dovetail.inspect(path).parts["projector"].kind == "avgpool_mlp"


def test_a_part_that_is_missing_shows_where_sizes_meet(tmp_path: Path) -> None:
    header = header_of(plan_of("prismatic", MODELS["prismatic"][3]), "native")
    lost = {name: value for name, value in header.items() if "siglip_featurizer" not in name}
    report = dovetail.inspect(write_listing(tmp_path / "x.json", lost))
    assert [f.message for f in report.findings if f.severity == "error"] == [
        "sizes do not meet: projector.d_in = vision.d_vision + fused.d_vision, but projector.d_in = 124 "
        "(`projector/projector.0.weight` and 2 more), vision.d_vision = 58 "
        "(`vision_backbone/dino_featurizer.patch_embed.proj.weight` and 19 more)"
    ]


def test_a_config_tells_lookalikes_apart(tmp_path: Path) -> None:
    plan = plan_of("gemma", MODELS["gemma"][0])
    path = write_listing(tmp_path / "x.json", header_of(plan, "hf"))
    (tmp_path / "config.json").write_text('{"model_type": "gemma", "head_dim": 7}')
    assert dovetail.inspect(path).family == "gemma"


def test_parts_in_different_layouts_are_named_one_by_one(tmp_path: Path) -> None:
    plan = plan_of("qwen2_vl", MODELS["qwen2_vl"][0])
    old, new = header_of(plan, "hf"), header_of(plan, "hf-4.52")
    mixed = {n: v for n, v in new.items() if ".visual." in n} | {
        n: v for n, v in old.items() if n.startswith("model.")
    }
    # vision as in memory, text as on the hub: that is the save bug of 5.5.4, declared under its own name
    assert dovetail.inspect(write_listing(tmp_path / "a.json", mixed)).layout == "hf-5.5.4"
    other = {n: v for n, v in old.items() if n.startswith("visual.")} | {
        n: v for n, v in new.items() if ".language_model." in n
    }
    report = dovetail.inspect(write_listing(tmp_path / "b.json", other))
    assert (report.family, report.layout) == ("qwen2_vl", {"vision": "hf", "merger": "hf", "text": "hf-4.52"})
    assert [f.message for f in report.findings] == [
        "the parts are in different layouts: vision is hf, merger is hf, text is hf-4.52"
    ]


@pytest.mark.parametrize(
    ("wrap", "wrappers"),
    [
        (lambda name: f"module.{name}", ("module.",)),
        (lambda name: f"module.module.{name}", ("module.", "module.")),
        (lambda name: f"_orig_mod.{name}", ("_orig_mod.",)),
        (lambda name: f"base_model.model.{name}", ("base_model.model.",)),
        (lambda name: f"state_dict/model.{name}", ("state_dict/", "model.")),
        (
            lambda name: name.replace("layers.0.", "layers.0._fsdp_wrapped_module."),
            ("_fsdp_wrapped_module.",),
        ),
        (
            lambda name: name.replace("layers.", "layers._checkpoint_wrapped_module."),
            ("_checkpoint_wrapped_module.",),
        ),
        (lambda name: f"module._orig_mod.{name}", ("module.", "_orig_mod.")),
    ],
)
def test_wrappers_are_taken_off_and_reported(wrap: Any, wrappers: tuple[str, ...], tmp_path: Path) -> None:
    plan = plan_of("llava_onevision", MODELS["llava_onevision"][0])
    header = {wrap(name): value for name, value in header_of(plan, "hf").items()}
    report = dovetail.inspect(write_listing(tmp_path / "x.json", header))
    assert (report.family, report.layout, report.wrappers) == ("llava_onevision", "hf", wrappers)
    assert report.is_whole


def test_training_state_is_set_aside_by_rule(tmp_path: Path) -> None:
    plan = plan_of("qwen2", MODELS["qwen2"][0])
    header = {f"state_dict/model.{name}": value for name, value in header_of(plan, "hf").items()}
    header |= {f"optimizer_states/0/state/{i}/exp_avg": ["F32", [61]] for i in range(5)}
    report = dovetail.inspect(write_listing(tmp_path / "x.json", header))
    assert (report.family, report.tensors, report.wrappers) == (
        "qwen2",
        len(header) - 5,
        ("state_dict/", "model."),
    )
    assert report.accounting.ignored == {"training state `optimizer_states`": 5}


def test_chunks_are_put_together_with_their_layers_renumbered(tmp_path: Path) -> None:
    plan = plan_of("qwen2_vl", {**MODELS["qwen2_vl"][0], "text.layers": 5, "head": "head"})
    chunks: dict[str, dict[str, Any]] = {
        f"model_{name}.pth": {} for name in ("starter", "secondary0", "secondary1")
    }
    first = {"model_starter.pth": 0, "model_secondary0.pth": 2, "model_secondary1.pth": 4}
    for name, value in header_of(plan, "litgpt-fork").items():
        if name.startswith("transformer.h."):
            layer = int(name.split(".")[2])
            file = next(f for f in reversed(first) if layer >= first[f])
            name = name.replace(f".h.{layer}.", f".h.{layer - first[file]}.")
        else:
            file = (
                "model_secondary1.pth"
                if name.startswith(("lm_head", "transformer.ln_f"))
                else "model_starter.pth"
            )
        chunks[file][name] = value
    report = dovetail.inspect(write_listing(tmp_path / "x.json", chunks))
    assert (report.family, report.layout, report.is_whole) == ("qwen2_vl", "litgpt-fork", True)
    assert report.config["text.layers"].value == 5
    assert [(c["file"], c["first_layer"], c["last_layer"]) for c in report.chunks] == [
        ("model_starter.pth", 0, 1),
        ("model_secondary0.pth", 2, 3),
        ("model_secondary1.pth", 4, 4),
    ]
    del chunks["model_secondary0.pth"]
    lost = dovetail.inspect(write_listing(tmp_path / "y.json", chunks))
    assert lost.config["text.layers"].value == 3  # nothing in the chunks says that one is gone …
    (tmp_path / "config.json").write_text('{"model_type": "qwen2_vl", "num_hidden_layers": 5}')
    lost = dovetail.inspect(tmp_path / "y.json")  # … a config does
    assert [f.message for f in lost.findings if f.severity == "error"] == [
        "text.layers is 3 in the weights (`model_starter.pth/transformer.h.0.ln_1.weight`) "
        "and 5 in config.json: num_hidden_layers"
    ]


def test_a_component_beside_something_else_is_a_larger_model(tmp_path: Path) -> None:
    header = header_of(plan_of("qwen2", MODELS["qwen2"][0]), "hf")
    report = dovetail.inspect(
        write_listing(tmp_path / "x.json", {**header, "visual.patch.weight": ["BF16", [3, 5]]})
    )
    assert report.family is None
    assert report.closest is not None
    assert (report.closest.family, report.closest.missing, report.closest.unexplained) == ("qwen2", 0, 1)
    assert [(f.code, f.message) for f in report.findings if f.severity == "error"] == [
        (
            "larger-model",
            "all of qwen2/hf is here, and 1 tensor beside it fits nothing in it: "
            "another model, or one with additions",
        ),
        ("unexpected", "`visual.patch.weight` fits nothing in qwen2"),
    ]


def test_a_component_with_an_addition_inside_is_itself_if_a_config_says_so(tmp_path: Path) -> None:
    """Weights alone cannot tell an addition from another architecture: Gemma 3 has the tensors of Qwen3, and
    two norms more in each layer."""
    header = header_of(plan_of("qwen2", MODELS["qwen2"][0]), "hf")
    path = write_listing(tmp_path / "x.json", {**header, "model.layers.0.mlp.extra.weight": ["BF16", [3]]})
    unexpected = "`model.layers.0.mlp.extra.weight` fits nothing in qwen2"
    alone = dovetail.inspect(path)
    assert alone.family is None
    assert [f.message for f in alone.findings if f.severity == "error"] == [
        "all of qwen2/hf is here, and 1 tensor inside its layers fits nothing in it: "
        "another model, or one with additions",
        unexpected,
    ]
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    report = dovetail.inspect(path)
    assert (report.family, report.title) == ("qwen2", "Qwen2 / Qwen2.5, 1 tensor fits nothing in it")
    assert [f.message for f in report.findings if f.severity == "error"] == [unexpected]


def test_an_unknown_file_says_which_known_parts_it_holds(tmp_path: Path) -> None:
    text = header_of(plan_of("qwen2", MODELS["qwen2"][0]), "hf")
    tower = {
        f"vpm.{name}": value
        for name, value in header_of(plan_of("siglip", MODELS["siglip"][1]), "hf-5.23").items()
    }
    foreign = {f"resampler.x.{i}": ["BF16", [3]] for i in range(4)}
    report = dovetail.inspect(write_listing(tmp_path / "x.json", {**text, **tower, **foreign}))
    assert report.family is None
    assert report.closest is not None
    assert report.closest.fits == (
        f"qwen2 under `model.` ({len(text)} tensors)",
        f"siglip or siglip_naflex under `vpm.` ({len(tower)} tensors)",
    )


def test_a_part_under_an_unknown_prefix_is_found_and_the_prefix_named(tmp_path: Path) -> None:
    header = header_of(plan_of("llava_onevision", MODELS["llava_onevision"][0]), "hf")
    moved = {n.replace("vision_tower.vision_model.", "eye.tower."): value for n, value in header.items()}
    report = dovetail.inspect(write_listing(tmp_path / "x.json", moved))
    tower = sum(1 for name in moved if name.startswith("eye."))
    assert report.family is None
    assert [
        (f.code, f.message) for f in report.findings if f.severity == "error" and f.code != "incomplete"
    ] == [
        (
            "unknown-prefix",
            f"vision: {tower} tensors under `eye.tower.`, expected under `vision_tower.vision_model.`",
        ),
    ]


def test_an_empty_file_is_nothing(tmp_path: Path) -> None:
    report = dovetail.inspect(write_listing(tmp_path / "x.json", {}))
    assert (report.family, [f.message for f in report.findings]) == (None, ["there is not one tensor in it"])
