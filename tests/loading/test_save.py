"""From a model in memory back to a checkpoint: the same model in every layout, and nothing that is not whole."""

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file, save_file
from torch import nn

import dovetail
import tiny_models
from dovetail.declare.family import Layout
from dovetail.declare.part import Part
from dovetail.edit.write import execute
from dovetail.errors import DovetailError, UsageError
from dovetail.families import built_in, family
from dovetail.models import build
from dovetail.models.kernels import choose_kernels
from dovetail.store.write import block_file
from files import MODELS
from models.every_model import CASES, Case
from parity import assert_near, loaded, randomise
from run.tiny import SIZES, output

CASE_IDS = sorted(CASES)


@pytest.fixture(params=CASE_IDS)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def made(folder: Path, id: str = "qwen2_vl", number: int = 0, **options: Any) -> Path:
    options = {"dtype": "float32", "seed": 3, "set": SIZES[id][number], **options}
    return Path(dovetail.make(id, folder, **options).path)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def has_place(layout: Layout, kinds: Mapping[str, Part]) -> bool:
    """Whether a layout has names for these parts."""
    return all(
        any(mount.naming in part.namings for mount in layout.mounts.get(role, ()))
        for role, part in kinds.items()
    )


def test_every_family_has_a_case() -> None:
    assert {CASES[id].family for id in CASE_IDS} == {one.id for one in built_in() if one.model}
    assert {one.id for one in built_in()} == set(MODELS)


def test_a_saved_model_is_the_model_that_was_loaded(case: Case, tmp_path: Path) -> None:
    """Every family in every layout that can be written: the fingerprint stays, and so does the model."""
    here = case.made(tmp_path / "here")
    expected = dovetail.fingerprint(here, as_=case.family, set=case.settings)
    model = case.loaded(tmp_path / "model")
    kinds = model.values.kinds
    layouts = [one.id for one in family(case.family).layouts if one.is_writable and has_place(one, kinds)]
    for layout in [None, *layouts[1:]]:
        out = tmp_path / f"out-{layout}"
        done = dovetail.save(model, out, like=here, layout=layout)
        assert done.fingerprint == expected, layout
        assert dovetail.fingerprint(out, as_=case.family) == expected, layout
        assert same_weights(dovetail.load(out, as_=case.family), model), layout


def test_a_layout_is_enough_to_write_a_model(case: Case, tmp_path: Path) -> None:
    model = case.loaded(tmp_path / "here")
    kinds = model.values.kinds
    layouts = family(case.family).layouts
    first = next(one.id for one in layouts if one.is_writable and has_place(one, kinds))
    done = dovetail.save(model, tmp_path / "out", layout=first)
    again = dovetail.load(tmp_path / "out", as_=case.family)
    assert done.fingerprint == dovetail.fingerprint(tmp_path / "here", as_=case.family, set=case.settings)
    assert same_weights(again, model)


def test_a_changed_parameter_changes_the_fingerprint(tmp_path: Path) -> None:
    here = made(tmp_path / "here")
    model: Any = dovetail.load(here)
    before = dovetail.save(model, tmp_path / "a", like=here).fingerprint
    with torch.no_grad():
        model.text.blocks["1"].norm1.weight[0] += 1
    after = dovetail.save(model, tmp_path / "b", like=here).fingerprint
    assert before != after
    assert same_weights(dovetail.load(tmp_path / "b"), model)
    assert dovetail.validate(tmp_path / "b", values=True).is_whole
    assert not dovetail.diff(here, tmp_path / "b", values=True).is_same


def test_a_trained_copy_is_saved(tmp_path: Path) -> None:
    here = made(tmp_path / "here", "qwen3")
    model: Any = copy.deepcopy(dovetail.load(here))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(**model.prepare([[5, 6, 7]])).square().mean().backward()
    optimizer.step()
    dovetail.save(model, tmp_path / "out", like=here)
    again = dovetail.load(tmp_path / "out")
    assert same_weights(again, model)
    assert not same_weights(again, dovetail.load(here))
    assert torch.equal(output(again), output(model))


def test_the_dtype_is_that_of_the_parameters(tmp_path: Path) -> None:
    here = made(tmp_path / "here")
    dovetail.save(dovetail.load(here, dtype="bfloat16"), tmp_path / "out", like=here)
    assert dovetail.inspect(tmp_path / "out").dtypes == {"BF16": len(load_file(here / "model.safetensors"))}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_side_files_travel_and_values_are_stamped(tmp_path: Path) -> None:
    """What nothing beside the weights says: one value when the model is loaded, another when it is saved."""
    case = CASES["panovlm-bimamba"]
    here = case.made(tmp_path / "here")
    (here / "tokenizer.json").write_text("{}")
    model = dovetail.load(here, as_="panovlm", settings=case.settings)
    dovetail.save(model, tmp_path / "out", like=here, stamp={"resampler.dropout": 0.25})
    assert (tmp_path / "out" / "tokenizer.json").read_text() == "{}"
    stamp = json.loads((tmp_path / "out" / "dovetail.json").read_text())
    assert stamp["config"]["resampler.norm_first"]["value"] is True
    assert stamp["config"]["resampler.dropout"]["value"] == 0.25
    assert (stamp["source"]["path"], stamp["source"]["verb"]) == (str(here), "save")
    with pytest.raises(UsageError, match=r"has no value `resampler.dropuot`; did you mean"):
        dovetail.save(model, tmp_path / "no", like=here, stamp={"resampler.dropuot": 0.25})


def test_a_save_for_a_reader_has_facts_and_files_beside(tmp_path: Path) -> None:
    """The values of a state dict from elsewhere, in what transformers 4.57 opens, with what else was said."""
    here = made(tmp_path / "here")
    model = dovetail.load(here)
    twice = {name: 2 * one for name, one in model.state_dict().items()}
    facts = {"training": {"seed": 7}}
    options: dict[str, Any] = {"like": here, "for_": "transformers==4.57", "weights": twice, "facts": facts}

    def beside(folder: str) -> None:
        assert not (tmp_path / "out").exists()
        Path(folder, "trainer_state.json").write_text("{}")

    done = dovetail.save(model, tmp_path / "out", beside=beside, **options)
    assert json.loads((tmp_path / "out" / "dovetail.json").read_text())["training"] == {"seed": 7}
    assert (tmp_path / "out" / "trainer_state.json").is_file()
    again = dovetail.load(tmp_path / "out").state_dict()
    assert all(torch.equal(again[name], one) for name, one in twice.items())
    assert done.fingerprint == dovetail.fingerprint(tmp_path / "out") != dovetail.fingerprint(here)
    with pytest.raises(UsageError, match="no reader is called `transformer`"):
        dovetail.save(model, tmp_path / "no", like=here, for_="transformer")

    def fails(folder: str) -> None:
        raise UsageError("no more")

    with pytest.raises(UsageError, match="no more"):
        dovetail.save(model, tmp_path / "cut", beside=fails, **options)
    assert not (tmp_path / "cut").exists()


def test_fresh_tensors_keep_their_tag(tmp_path: Path) -> None:
    donor = made(tmp_path / "donor", "qwen2")
    dovetail.graft([donor], tmp_path / "grafted", config=made(tmp_path / "target"), only="text")
    model = dovetail.load(tmp_path / "grafted")
    tags = {"vision.patch_embed.weight": "random"}
    for out, options in (("a", {"like": tmp_path / "grafted"}), ("b", {"layout": "hf"})):
        dovetail.save(model, tmp_path / out, **options)
        init = json.loads((tmp_path / out / "dovetail.json").read_text())["init"]
        assert init.items() >= tags.items()
        assert "text.norm.weight" not in init


def test_a_head_is_tied_as_the_model_is(tmp_path: Path) -> None:
    """The checkpoint that it shall be like stores the head; the model shares the table."""
    here = made(tmp_path / "here")
    stored = load_file(here / "model.safetensors")
    stored["lm_head.weight"] = stored["model.embed_tokens.weight"].clone()
    save_file(stored, here / "model.safetensors", metadata={"format": "pt"})
    dovetail.save(dovetail.load(here), tmp_path / "out", like=here)
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    apart = made(tmp_path / "apart", number=1)
    dovetail.save(dovetail.load(apart), tmp_path / "both", like=apart)
    assert "lm_head.weight" in load_file(tmp_path / "both" / "model.safetensors")


def test_a_wrapped_model_is_the_model_inside(tmp_path: Path) -> None:
    here = made(tmp_path / "here", "qwen2")

    class Around(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module

    done = dovetail.save(Around(dovetail.load(here)), tmp_path / "out", like=here)
    assert done.fingerprint == dovetail.fingerprint(here)


def _without_a_norm(model: Any) -> nn.Module:
    del model.text.norm.weight
    return model


def _with_more(model: Any) -> nn.Module:
    model.adapter = nn.Linear(2, 3, bias=False)
    return model


def _larger(model: Any) -> nn.Module:
    model.text.norm.weight = nn.Parameter(torch.ones(27))
    return model


def _laid_out(model: Any) -> nn.Module:
    choose_kernels(model, "int8")
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_a_norm, "missing  `text.norm.weight`"),
        (_with_more, "not_in_the_family  `adapter.weight`"),
        (_larger, "`text.norm.weight` is [27], expected [26]"),
        (lambda model: build(model.values), "`text.embed.weight`"),
        (_laid_out, "laid out anew for fast products"),
        (lambda _: nn.Linear(2, 3), "a Linear is no model of dovetail's"),
    ],
    ids=["missing", "more", "shape", "meta", "packed", "foreign"],
)
def test_what_is_not_whole_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    here = made(tmp_path / "here", "qwen2")
    with pytest.raises(DovetailError) as error:
        dovetail.save(change(dovetail.load(here)), tmp_path / "out", like=here)
    assert message in str(error.value)
    assert not (tmp_path / "out").exists()


def test_something_must_say_how_to_write_it(tmp_path: Path) -> None:
    here = made(tmp_path / "here", "qwen2")
    model = dovetail.load(here)
    with pytest.raises(UsageError, match="nothing says how to write the model"):
        dovetail.save(model, tmp_path / "out")
    with pytest.raises(UsageError, match="is the source itself"):
        dovetail.save(model, here, like=here, overwrite=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("")
    with pytest.raises(UsageError, match="exists"):
        dovetail.save(model, tmp_path / "out", like=here)


ORIGINALS = {
    "qwen2_vl": tiny_models.qwen2_vl,
    "llava_onevision": tiny_models.llava_onevision,
    "paligemma": tiny_models.paligemma,
    "qwen3": tiny_models.decoder("Qwen3", head_dim=8),
}


@pytest.mark.parametrize("id", sorted(ORIGINALS))
@pytest.mark.parametrize("way", ["like", "layout"])
def test_transformers_reads_what_is_saved(id: str, way: str, tmp_path: Path) -> None:
    """No key missing, none unexpected, and the same logits."""
    original = ORIGINALS[id]()
    model: Any = loaded(randomise(original), tmp_path / "here")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.25)
    options = {"like": tmp_path / "here"} if way == "like" else {"layout": "hf"}
    dovetail.save(model, tmp_path / "out", **options)
    theirs, info = type(original).from_pretrained(
        tmp_path / "out", output_loading_info=True, dtype=torch.float32, attn_implementation="eager"
    )
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens = torch.tensor([[5, 6, 7, 8]])
    more = {"token_type_ids": torch.zeros_like(tokens)} if id == "paligemma" else {}
    with torch.inference_mode():
        expected = theirs.eval()(input_ids=tokens, attention_mask=torch.ones_like(tokens), **more).logits
        found = model(**model.prepare(tokens.tolist()))
    assert_near(found, expected)


def test_a_save_that_was_interrupted_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it finished is kept if the parameters are still the same, and written again if they are not."""
    model = dovetail.load(made(tmp_path / "here"))
    write_file, begun = execute.write_file, []

    def write(*words: object, **options: object) -> None:
        begun.append(words)
        if len(begun) % 2 == 0:
            raise KeyboardInterrupt
        write_file(*words, **options)  # type: ignore[arg-type]

    def save(**more: Any) -> Any:
        return dovetail.save(model, tmp_path / "out", like=tmp_path / "here", max_shard_size=60_000, **more)

    for module in (execute, block_file):
        monkeypatch.setattr(module, "BLOCK", 4096)
    for is_changed in (False, True):
        with monkeypatch.context() as patch:
            patch.setattr(execute, "write_file", write)
            with pytest.raises(KeyboardInterrupt) as interruption:
                save()
        assert f"kept in `{tmp_path}/out.partial`" in interruption.value.__notes__[-1]
        if is_changed:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(2)
        done = save(resume=True)
        assert (done.resumed == 0) == is_changed
        assert same_weights(dovetail.load(tmp_path / "out"), model)
        shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("variant", ["alternating", "alternating_cross"])
def test_a_model_that_is_re_typed_is_saved_as_what_it_became(variant: str, tmp_path: Path) -> None:
    """Its config says so, not only the certificate."""
    path = made(tmp_path / "base", "llava_onevision")
    dovetail.save(dovetail.load(path, settings={"variant": variant}), tmp_path / "saved", like=path)
    (tmp_path / "saved" / "dovetail.json").unlink()
    report = dovetail.inspect(tmp_path / "saved")
    assert (report.variant, report.is_whole) == (variant, True)
