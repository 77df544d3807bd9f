"""What a checkpoint answers: counts are those of other ways to ask it, and nothing is left out unsaid."""

import json
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from PIL import Image

import dovetail
from dovetail.cli import main
from dovetail.data.batches import Batches
from dovetail.data.labels import Labeller, read_labeller
from dovetail.data.manifest import Manifest, open_manifest
from dovetail.errors import DataError, DovetailError, UsageError
from dovetail.models.arrays import tensors
from dovetail.run.generate import Generator
from dovetail.train.evaluate import MARGIN, evaluate
from dovetail.train.named_save import named_save
from inputs.golden_images import noise
from models.every_model import CASES
from run.beside import save_qwen_vl

pytestmark = pytest.mark.filterwarnings("ignore")
ASKED = "What is in the picture?"
ANSWERS = ["A small house.", "two boats", "the lazy dog"]
CPU = torch.device("cpu")


def turn(role: str, text: str) -> dict[str, str]:
    return {"from": role, "value": text}


@pytest.fixture(scope="module")
def data(tmp_path_factory: Any) -> Path:
    """Six records: three with one image and one question, one with two questions, two without an image."""
    folder: Path = tmp_path_factory.mktemp("questions")
    records: list[dict[str, Any]] = []
    for i in range(4):
        Image.fromarray(noise(40, 50 + i, seed=i)).save(folder / f"{i}.png")
    for i, answer in enumerate(ANSWERS):
        turns = [turn("human", f"<image>\n{ASKED}"), turn("gpt", answer)]
        records.append({"id": f"q{i}", "image": f"{i}.png", "question_type": "scene", "conversations": turns})
    both = [
        *[turn("human", f"<image>\n{ASKED}"), turn("gpt", "the sea")],
        *[turn("human", "In detail?"), turn("gpt", "two boats by the sea")],
    ]
    records.append({"image": "3.png", "kind": "detail", "conversations": both})
    for text, answer in (("pick up the box", "red"), ("the lazy dog", "the fox")):
        records.append({"conversations": [turn("human", text), turn("gpt", answer)]})
    (folder / "val.json").write_text(json.dumps(records))
    return folder / "val.json"


@pytest.fixture(scope="module")
def fitted(data: Path, tmp_path_factory: Any) -> Path:
    """A tiny Qwen2-VL that has seen some of it, saved."""
    place: Path = tmp_path_factory.mktemp("model")
    save_qwen_vl("Qwen2VL", place / "new")
    labeller, model = read_labeller(place / "new"), dovetail.load(place / "new")
    made = batch(labeller, open_manifest(data), [0, 1, 3, 4])
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3)
    for _ in range(24):
        optimizer.zero_grad()
        model.loss(*made).backward()
        optimizer.step()
    dovetail.save(model, place / "run" / "checkpoint-40", like=place / "new")
    return place / "run" / "checkpoint-40"


def batch(labeller: Labeller, samples: Manifest, numbers: list[int]) -> tuple[dict[str, Any], Any]:
    made = Batches(labeller.inputs)([labeller.labelled(samples[i]) for i in numbers])
    return tensors(made["inputs"], CPU), torch.from_numpy(made["targets"])


@pytest.fixture(scope="module")
def found(fitted: Path, data: Path) -> Any:
    return evaluate(fitted, data, batch=4)


def test_answers_are_those_of_generate(found: Any, fitted: Path, data: Path) -> None:
    """Asked one by one by their texts, through the chat template of `generate`."""
    generator = Generator.load(fitted, weights="stored")
    wrong = []
    for sample in open_manifest(data):
        asked = [one for one in sample.turns if one.role == "user"]
        if len(asked) > 1:
            continue
        images = [one.pixels() for one in sample.seen()]
        said = generator.answer(asked[0].text.strip(), images, max_new_tokens=40)
        if said.text != sample.turns[1].text:
            wrong.append((sample.place, said.tokens))
    mine = [one for one in found.wrong if one.kind != "detail"]
    assert [one.place for one in mine] == [place for place, _ in wrong]
    for one, (_, tokens) in zip(mine, wrong, strict=True):
        length = len(generator.tokenizer.encode(one.wanted)) + 1 + MARGIN  # type: ignore[union-attr]
        assert one.said == generator.tokenizer.decode(tokens[:length])  # type: ignore[union-attr]
        assert one.has_ended == (len(tokens) <= length and tokens[-1] in generator.stop)
    assert 0 < found.total.exact < found.total.answers == 7
    assert {kind: one.answers for kind, one in found.kinds.items()} == {"detail": 2, "scene": 3, "": 2}


def test_counts_are_those_of_the_loss(found: Any, fitted: Path, data: Path) -> None:
    labeller, model = read_labeller(fitted), dovetail.load(fitted)
    samples = open_manifest(data)
    for kind, numbers in {"scene": [0, 1, 2], "detail": [3], "": [4, 5]}.items():
        inputs, targets = batch(labeller, samples, numbers)
        with torch.no_grad():
            loss = float(model.loss(inputs, targets))
            best = model(**inputs)[:, :-1].argmax(dim=-1)
        tally = found.kinds[kind]
        assert tally.mean_loss == pytest.approx(loss, abs=1e-5)
        assert tally.tokens == int((targets != -100).sum())
        assert tally.right == int((best == targets[:, 1:]).sum())
    total = found.total
    assert total.token_accuracy == total.right / total.tokens
    assert (found.family, found.dtype, found.samples, found.of) == ("qwen2_vl", "float32", 6, 6)


@pytest.mark.slow
def test_how_many_at_once_changes_nothing(found: Any, fitted: Path, data: Path) -> None:
    alone = evaluate(fitted, data, batch=1)
    for kind, tally in found.kinds.items():
        assert alone.kinds[kind].mean_loss == pytest.approx(tally.mean_loss, abs=1e-5)
    assert [one.as_json() for one in alone.wrong] == sorted(
        (one.as_json() for one in found.wrong), key=lambda one: one["sample"]
    )
    first = evaluate(fitted, data, limit=2)
    assert (first.samples, first.of, list(first.kinds)) == (2, 6, ["scene"])
    assert first.fingerprint != found.fingerprint


@pytest.mark.slow
def test_answers_and_loss_are_those_of_transformers(found: Any, fitted: Path, data: Path) -> None:
    theirs = transformers.Qwen2VLForConditionalGeneration.from_pretrained(fitted)
    generator, labeller = Generator.load(fitted), read_labeller(fitted)
    unused = list(range(generator.tokenizer.size, generator.model.inputs.vocab))  # type: ignore[union-attr]
    exact = loss = count = 0
    for i, sample in enumerate(open_manifest(data)):
        inputs, targets = batch(labeller, open_manifest(data), [i])
        given = {"input_ids": inputs["tokens"], "attention_mask": inputs["valid"].long()}
        if "pixels" in inputs:
            image = generator.model.inputs.image_token
            given |= {"pixel_values": inputs["pixels"], "image_grid_thw": inputs["grids"]}
            given["mm_token_type_ids"] = (inputs["tokens"] == image).int()
        with torch.no_grad():
            items = int((targets != -100).sum())
            loss += float(theirs(**given, labels=targets).loss) * items
            count += items
            if sample.kind == "detail":
                continue
            start = int((targets[0] != -100).nonzero()[0])
            short = {
                name: value[:, :start]
                if name in ("input_ids", "attention_mask", "mm_token_type_ids")
                else value
                for name, value in given.items()
            }
            said = theirs.generate(**short, max_new_tokens=30, do_sample=False, suppress_tokens=unused)
        text = generator.tokenizer.decode(said[0, start:].tolist())  # type: ignore[union-attr]
        exact += text == sample.turns[1].text
    assert exact == sum(found.kinds[kind].exact for kind in ("scene", ""))
    assert found.total.mean_loss == pytest.approx(loss / count, abs=1e-5)


def test_what_cannot_be_asked_stops_it_or_is_listed(fitted: Path, data: Path, tmp_path: Path) -> None:
    records = json.loads(data.read_text())[:2]
    records.append({"image": "lost.png", "conversations": records[0]["conversations"]})
    records.append({"conversations": [turn("human", "Who?")]})
    records.append({"conversations": "none"})
    (tmp_path / "val.json").write_text(json.dumps(records))
    root = str(data.parent)
    with pytest.raises(DataError, match=r"lost\.png") as error:
        evaluate(fitted, tmp_path / "val.json", image_root=root, batch=1)
    assert "record 2" in str(error.value)
    found = evaluate(fitted, tmp_path / "val.json", image_root=root, on_error="skip")
    assert (found.samples, len(found.skipped), found.total.answers) == (2, 3, 2)
    assert len(found.as_json()["skipped"]) == 3
    (tmp_path / "none.json").write_text(json.dumps(records[2:]))
    with pytest.raises(DataError, match="all 3 samples are left out; the first one because"):
        evaluate(fitted, tmp_path / "none.json", on_error="skip")


def test_what_cannot_be_evaluated_is_one_error(fitted: Path, data: Path, tmp_path: Path) -> None:
    policy, bare = CASES["pi0-0"].made(tmp_path / "pi0"), CASES["qwen3-0"].made(tmp_path / "qwen3")
    for options, message in (
        ((fitted, data, {"limit": 0}), "0 samples are none"),
        ((fitted, data, {"batch": 0}), "a batch of 0 samples is none"),
        ((policy, data, {}), "pi0 is no language model"),
        ((bare, data, {}), "there is no tokenizer beside the weights"),
        ((fitted, tmp_path / "nothing.json", {}), "there is no manifest"),
    ):
        with pytest.raises(DovetailError, match=message):
            evaluate(options[0], options[1], **options[2])


def test_best_and_last(tmp_path: Path) -> None:
    def run(*names: str, best: str | None = None) -> str:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        for name in names:
            (folder / name).mkdir(parents=True)
        if best:
            state = {"best_model_checkpoint": f"/elsewhere/{best}"}
            (folder / names[-1] / "trainer_state.json").write_text(json.dumps(state))
        return str(folder)

    saves = run("checkpoint-9", "checkpoint-20", "checkpoint-100", best="checkpoint-20")
    lightning = run(
        "epoch=01-val_loss=0.52.ckpt", "epoch=10-val_loss=0.31.ckpt", "epoch=11-val_loss=0.4.ckpt"
    )
    named = run("best.ckpt", "last.ckpt", "checkpoint-3")
    for folder, name, expected in (
        (saves, "best", "checkpoint-20"),
        (saves, "last", "checkpoint-100"),
        (saves, "checkpoint-9", "checkpoint-9"),
        (lightning, "best", "epoch=10-val_loss=0.31.ckpt"),
        (lightning, "last", "epoch=11-val_loss=0.4.ckpt"),
        (named, "best", "best.ckpt"),
        (named, "last", "last.ckpt"),
    ):
        assert named_save(folder, name) == f"{folder}/{expected}"
    with pytest.raises(UsageError) as error:
        named_save(run("checkpoint-3", "weights"), "best")
    assert str(error.value).endswith(
        "is `best`\n  found  checkpoint-3, weights\n\nhint: give one of them by its name, or its path alone, "
        "without --checkpoint-dir"
    )
    with pytest.raises(UsageError, match="there is no folder"):
        named_save(str(tmp_path / "none"), "best")


def test_the_command(fitted: Path, data: Path, tmp_path: Path, capsys: Any, found: Any) -> None:
    page = tmp_path / "page"
    words = ["--checkpoint-dir", str(fitted.parent), "last", "--data", str(data), "--html", str(page)]
    assert main(["evaluate", *words, "--json"]) == 0
    out, err = capsys.readouterr()
    values = json.loads(out)
    assert f"last: {fitted}" in err
    assert {**values, "seconds": 0} == json.loads((page / "evaluate.json").read_text()) | {"seconds": 0}
    assert (values["exact"], values["answers"]) == (found.total.exact, 7)
    html = (page / "evaluate.html").read_text()
    assert html.count("card-of-sample") == len(found.wrong) + html.count(".card-of-sample")
    assert html.count("<img") == sum(len(one.images) for one in found.wrong) > 0
    assert main(["evaluate", str(fitted), "--data", str(data)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{fitted}: qwen2_vl/hf in float32"
    assert [line.split()[0] for line in lines[3:8]] == ["kind", "detail", "scene", "(none", "total"]
    assert main(["evaluate", "--data", str(data)]) == 2
    assert "nothing says which checkpoint to evaluate" in capsys.readouterr().err
