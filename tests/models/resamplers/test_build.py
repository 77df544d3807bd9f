"""Every kind of resampler has the parameters that its family declares, by name and shape."""

import pytest
import torch

from dovetail.errors import UsageError
from dovetail.families import family
from dovetail.inputs.values import values_from
from dovetail.models.resamplers import RESAMPLERS, build_resampler
from files import MODELS, plan_of

GIVEN = {"resampler.norm_first": True, "resampler.num_queries": 0, "resampler.resampler_type": "avg"}
KINDS = {str(model["resampler"]): model for model in MODELS["panovlm"]}
MORE = {
    "perceiver": {**KINDS["perceiver+ff+proj"], "resampler": "perceiver", "resampler.out_dim": 66},
    "c_abstractor": {**KINDS["c_abstractor+readout"], "resampler": "c_abstractor"},
    "mlp_1": {**KINDS["identity_or_avg"], "resampler": "mlp_1"},
    "mlp_6": {**KINDS["mlp_3"], "resampler": "mlp_6"},
    "spatial_pool_conv_1": {
        **{name: size for name, size in KINDS["spatial_pool_conv_2"].items() if "hidden" not in name},
        "resampler": "spatial_pool_conv_1",
    },
}


@pytest.mark.parametrize("kind", [*KINDS, *MORE])
def test_names_and_shapes_are_the_declared_ones(kind: str) -> None:
    plan = plan_of("panovlm", (KINDS | MORE)[kind])
    stored = plan.stored(family("panovlm").layout("resampler-bare"))
    declared = {one.name: one.shape for one in stored if one.role == "resampler"}
    with torch.device("meta"):
        model = build_resampler(values_from(plan, GIVEN))
    assert {name: tuple(one.shape) for name, one in model.state_dict().items()} == declared


def test_every_declared_kind_is_built() -> None:
    declared = {part.id for part in family("panovlm").parts["resampler"]}
    assert {part for part in declared if not part.startswith(tuple(RESAMPLERS))} == set()


def test_what_no_weight_shows_must_be_known() -> None:
    with pytest.raises(UsageError, match=r"to run panovlm, resampler\.norm_first must be known"):
        build_resampler(values_from(plan_of("panovlm", KINDS["bimamba"])))
