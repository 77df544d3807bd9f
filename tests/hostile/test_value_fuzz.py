"""Damaged checkpoints with values, read by the safetensors library: what converts comes back, or is named."""

import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file

import dovetail
from dovetail.errors import CheckpointError, DovetailError, UsageError
from dovetail.families import built_in
from files import MODELS, header_of, plan_of

Tensors = dict[str, torch.Tensor]
CASES = [
    (family.id, layout.id, model)
    for family in built_in()
    for layout in family.layouts
    for model in MODELS[family.id][:2]
    if layout.container.kind == "safetensors" and header_of(plan_of(family.id, model), layout.id)
]


def _drop(tensors: Tensors, name: str, _: Random) -> None:
    del tensors[name]


def _double(tensors: Tensors, name: str, _: Random) -> None:
    tensors[f"{name}.copy"] = tensors[name].clone()


def _rename(tensors: Tensors, name: str, chance: Random) -> None:
    other = chance.choice(sorted(tensors))
    tensors[name], tensors[other] = tensors[other], tensors[name]


def _misspell(tensors: Tensors, name: str, _: Random) -> None:
    tensors[name.replace("weight", "kernel") + "_"] = tensors.pop(name)


def _reshape(tensors: Tensors, name: str, chance: Random) -> None:
    one = tensors[name]
    tensors[name] = chance.choice(
        (one.flatten(), one.unsqueeze(0), one.transpose(0, -1).contiguous(), one[:1].clone())
    )


def _cast(tensors: Tensors, name: str, chance: Random) -> None:
    kind = chance.choice((torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.uint8, torch.bool))
    tensors[name] = tensors[name].to(kind)


def _spoil(tensors: Tensors, name: str, chance: Random) -> None:
    tensors[name].flatten()[0] = chance.choice((float("nan"), float("inf"), -0.0, 1e-42))


def _foreign(tensors: Tensors, _: str, chance: Random) -> None:
    tensors[chance.choice(("extra.weight", "lm_head.bias", "model.layers.0.extra.weight"))] = torch.ones(3)


CHANGES: tuple[Callable[[Tensors, str, Random], None], ...] = (
    _drop,
    _double,
    _rename,
    _misspell,
    _reshape,
    _cast,
    _spoil,
    _foreign,
)


def changed(source: Path, out: Path, chance: Random) -> Tensors:
    """The checkpoint again with one change, or as it is; its tensors."""
    shutil.copytree(source, out)
    tensors = load_file(out / "model.safetensors")
    if chance.random() < 0.9:
        chance.choice(CHANGES)(tensors, chance.choice(sorted(tensors)), chance)
    save_file(tensors, out / "model.safetensors")
    (out / "dovetail.json").unlink(missing_ok=True)
    return tensors


def came_back(folder: Path, tensors: Tensors, family: str, layout: str, chance: Random) -> bool:
    """Converts there and back. False if it is refused.

    Whatever it says, every tensor is there again, or was named as dropped.
    """
    targets = [layout for one, layout, _ in CASES if one == family]
    there, back = folder / "there", folder / "back"
    named: set[str] = set()
    try:
        for source, out, to in ((folder / "it", there, chance.choice(targets)), (there, back, layout)):
            plan = dovetail.plan_convert(source, to=to, format="safetensors", as_=family)
            named |= {name for dropped in plan.dropped for name in dropped.names}
            dovetail.convert(source, out, to=to, format="safetensors", as_=family, sync=False)
    except (CheckpointError, UsageError):
        return False
    found = load_file(back / "model.safetensors")
    for name in tensors.keys() - named:
        ours, theirs = found[name], tensors[name]
        assert ours.dtype == theirs.dtype, name
        assert ours.shape == theirs.shape, name
        assert torch.equal(ours.flatten().view(torch.uint8), theirs.flatten().view(torch.uint8)), name
    return True


@pytest.mark.parametrize("seeds", [range(12), pytest.param(range(12, 2012), marks=pytest.mark.slow)])
def test_nothing_is_lost_without_being_named(seeds: range, tmp_path: Path) -> None:
    made: dict[int, Path] = {}
    outcomes = {True: 0, False: 0}
    for seed in seeds:
        chance = Random(seed)
        number = chance.randrange(len(CASES))
        family, layout, model = CASES[number]
        if number not in made:
            made[number] = tmp_path / f"made{number}"
            dovetail.make(family, made[number], layout=layout, set=model, dtype="float32", seed=number)
        folder = tmp_path / str(seed)
        folder.mkdir()
        tensors = changed(made[number], folder / "it", chance)
        try:
            outcomes[came_back(folder, tensors, family, layout, chance)] += 1
        except DovetailError as error:
            pytest.fail(f"seed {seed}: {error}")
        shutil.rmtree(folder)
    assert min(outcomes.values()) > len(seeds) // 10
