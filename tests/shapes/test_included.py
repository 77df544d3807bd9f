"""The model that comes with the package: how well it sees, in every layout, and who else reads it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from examples.shapes.batches import random_batch
from examples.shapes.learner import Learner, accuracy
from examples.shapes.questions import KINDS
from examples.shapes.recipe import ROWS, SEED, STEPS, TESTING, made, trained

import dovetail
from commands import dovetail as command
from dovetail.families import family
from dovetail.included import SHAPES
from dovetail.inputs.image_file import read_image
from dovetail.run.generate import Generator

PICTURE = Path(__file__).parents[2] / "examples" / "shapes" / "shapes.png"
# Of 400 questions of each kind, as issue 13 wants them: known pairs of colour and form, and held-out pairs.
WANTED = (
    {"colour": 0.97, "shape": 0.97, "count": 0.97, "relation": 0.90, "average": 0.95},
    {**dict.fromkeys(KINDS, 0.80), "average": 0.88},
)


def missed(found: dict[str, float], wanted: dict[str, float], slack: float = 0.0) -> dict[str, float]:
    """What is below what is wanted."""
    return {kind: found[kind] for kind, least in wanted.items() if found[kind] < least - slack}


def measured(model: Any, each: int, *, is_held_out: bool) -> dict[str, float]:
    """The accuracy on pictures of now: none of them was trained on, and none chose the recipe."""
    random = np.random.default_rng([SEED, TESTING, int(is_held_out)])
    return accuracy(Learner(model), random, each, is_held_out=is_held_out)


@pytest.fixture(scope="module")
def model() -> Any:
    return dovetail.load(SHAPES)


@pytest.mark.parametrize("is_held_out", [False, True], ids=["known pairs", "held-out pairs"])
def test_it_sees_shapes(model: Any, is_held_out: bool) -> None:
    found = measured(model, 60, is_held_out=is_held_out)
    assert missed(found, WANTED[is_held_out], slack=0.04) == {}  # of 60, two more may be wrong by chance


def test_it_is_the_tower_that_sees(model: Any) -> None:
    batch = random_batch(np.random.default_rng([SEED, TESTING, 2]), 32, pairs=["named"])
    blind = batch.pictures * 0 + 230
    right, guessed = (
        sum(is_right for _, is_right in Learner(model).rights(one))
        for one in (batch, type(batch)(**{**vars_of(batch), "pictures": blind}))
    )
    assert guessed < 0.5 * right


def vars_of(batch: Any) -> dict[str, Any]:
    return {name: getattr(batch, name) for name in batch.__dataclass_fields__}


def test_it_is_small_whole_and_certified() -> None:
    files = {path.name: path.stat().st_size for path in Path(SHAPES).iterdir()}
    assert files["model.safetensors"] <= 4_000_000
    assert sum(files.values()) <= 4_100_000
    report = dovetail.validate(SHAPES, values=True)
    assert report.is_whole
    assert not report.findings
    certificate = json.loads(Path(SHAPES, "dovetail.json").read_text())
    assert certificate["fingerprint"] == dovetail.fingerprint(SHAPES)


ANSWERS = {
    "what is left of the blue circle?": "a red square",
    "What colour is the star?": "yellow",
    "how many shapes are there?": "3",
    "which shape is red?": "square",
    "describe the picture.": "a red square, a blue circle and a yellow star",
}


def test_generate_needs_no_checkpoint() -> None:
    question, answer = next(iter(ANSWERS.items()))
    said = command("generate", "--image", PICTURE, "--prompt", question)
    assert (said.code, said.out) == (0, f"{answer}\n")
    assert said.err.startswith("note: no checkpoint is given: ")


@pytest.mark.slow
def test_what_is_asked_of_the_picture_is_answered() -> None:
    generator = Generator.load(SHAPES)
    answers = generator.answers(list(ANSWERS), [[read_image(str(PICTURE))]] * len(ANSWERS))
    assert [one.text for one in answers] == list(ANSWERS.values())


@pytest.mark.slow
def test_verify_needs_no_checkpoint() -> None:
    said = command("verify", "--prompt", "what shape is red?", "--image", PICTURE)
    assert said.code == 0
    assert "good: all" in said.out


def layouts() -> list[str]:
    """All that a qwen2_vl is written in."""
    return [layout.id for layout in family("qwen2_vl").layouts if layout.is_writable]


@pytest.mark.slow
@pytest.mark.parametrize("layout", layouts())
def test_it_sees_from_every_layout(layout: str, tmp_path: Path) -> None:
    dovetail.convert(SHAPES, tmp_path / "converted", to=layout)
    there = dovetail.load(tmp_path / "converted")
    for is_held_out in (False, True):
        assert missed(measured(there, 400, is_held_out=is_held_out), WANTED[is_held_out]) == {}


def generated(generator: Generator, each: int, *, is_held_out: bool) -> dict[str, float]:
    """The accuracy of whole answers as `generate` gives them, prompts made by the chat template."""
    random = np.random.default_rng([SEED, TESTING, 10 + int(is_held_out)])
    found: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    for batch in batches(random, is_held_out=is_held_out):
        asked = [(one, batch.pictures[i]) for i, of in enumerate(batch.questions) for one in of]
        prompts, images = [one.text for one, _ in asked], [[picture] for _, picture in asked]
        answers = generator.answers(prompts, images, max_new_tokens=16)
        for (question, _), answer in zip(asked, answers, strict=True):
            found[question.kind].append(answer.has_stopped and answer.text == question.answer)
        if min(map(len, found.values())) >= each:
            break
    shares = {kind: sum(of[:each]) / each for kind, of in found.items()}
    return {**shares, "average": sum(shares.values()) / len(shares)}


def batches(random: np.random.Generator, *, is_held_out: bool) -> Iterator[Any]:
    while True:
        yield random_batch(random, 32, pairs=["named"], is_held_out=is_held_out)


@pytest.mark.slow
@pytest.mark.parametrize("is_split", [False, True], ids=["whole", "split"])
def test_generate_answers(is_split: bool, tmp_path: Path) -> None:
    if is_split:
        dovetail.split(SHAPES, tmp_path / "nodes", nodes=2)
    generator = Generator.load(tmp_path / "nodes" if is_split else SHAPES)
    each, slack = (100, 0.03) if is_split else (400, 0.0)
    for is_held_out in (False, True):
        found = generated(generator, each, is_held_out=is_held_out)
        assert missed(found, WANTED[is_held_out], slack) == {}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_transformers_reads_it_and_computes_the_same(model: Any) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(SHAPES)
    processor = transformers.AutoImageProcessor.from_pretrained(SHAPES)
    theirs = transformers.Qwen2VLForConditionalGeneration.from_pretrained(SHAPES, dtype=torch.float32)
    ours = Generator.load(SHAPES, dtype="float32", weights="stored")
    (picture,) = random_batch(np.random.default_rng(1), 1, pairs=["named"]).pictures
    question = "what is in the picture?"
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    seen = processor(images=[picture], return_tensors="pt")
    number = int(seen["image_grid_thw"].prod()) // processor.merge_size**2
    row = tokenizer(text.replace("<|image_pad|>", "<|image_pad|>" * number))["input_ids"]
    assert row == ours.model.inputs.expanded(ours.tokens_of(question, [picture]), [picture.shape[:2]])
    ids = torch.tensor([row])
    kinds = (ids == ours.model.inputs.image_token).int()
    with torch.no_grad():
        expected = theirs(input_ids=ids, mm_token_type_ids=kinds, **seen).logits
        found = ours.model(**ours.model.prepare([row], [[picture]]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)  # logits are up to 30
    new = theirs.generate(input_ids=ids, mm_token_type_ids=kinds, max_new_tokens=16, **seen)[
        0, ids.shape[1] :
    ]
    assert tokenizer.decode(new, skip_special_tokens=True) == ours.answer(question, [picture]).text


@pytest.mark.slow
def test_two_minutes_of_the_recipe_teach_something(tmp_path: Path) -> None:
    made(tmp_path / "pattern", seed=3)
    found = trained(tmp_path / "pattern", 3, 450, every=450)
    scores = measured(found, 100, is_held_out=False)
    assert scores["average"] > 0.6
    blank = measured(dovetail.load(tmp_path / "pattern", dtype="bfloat16"), 100, is_held_out=False)
    assert blank["average"] < 0.1


@pytest.mark.slow
def test_a_seed_gives_the_same_weights_each_time(tmp_path: Path) -> None:
    made(tmp_path / "pattern", seed=3)
    first, second, other = (
        trained(tmp_path / "pattern", seed, 3, every=9).state_dict() for seed in (3, 3, 4)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["text.embed.weight"], other["text.embed.weight"])


def test_the_certificate_says_how_it_was_made() -> None:
    certificate = json.loads(Path(SHAPES, "dovetail.json").read_text())
    expected = {"recipe": "examples/shapes/recipe.py", "seed": SEED, "steps": STEPS, "rows": ROWS}
    assert certificate["training"] == expected
