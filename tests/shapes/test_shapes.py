"""The pictures, questions, words and batches of `examples/shapes`, and the recipe that trains on them."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from examples.shapes.batches import IGNORED, PREFIX, parts, patches, random_batch
from examples.shapes.learner import Learner
from examples.shapes.manifest import write_manifest
from examples.shapes.muon import orthogonal
from examples.shapes.questions import KINDS, asked
from examples.shapes.scenes import EDGE, HELD_OUT, drawn, drawn_scene, placed
from examples.shapes.words import ASSISTANT, END, VOCAB, VOCABULARY, ids
from made_shapes import untrained

from dovetail.checkpoint import opened
from dovetail.data.labels import read_labeller
from dovetail.data.manifest import open_manifest
from dovetail.inputs.load import load_inputs
from dovetail.inputs.prompt import Prompter
from dovetail.inputs.tokenizer import read_side_values, read_tokenizer, tokenizer_at


def questions_of(number: int, *, pairs: str = "named", is_held_out: bool = False) -> list:
    """Scenes and a question of each kind about each, where it has one."""
    random = np.random.default_rng(5)
    scenes = [drawn_scene(random, pairs=pairs, is_held_out=is_held_out) for _ in range(number)]
    return [
        (scene, question)
        for scene in scenes
        for kind in KINDS
        if (question := asked(random, scene, kind, is_held_out=is_held_out))
    ]


def names_held_out(text: str) -> bool:
    return any(f"{color} {form}" in text for color, form in HELD_OUT)


def test_held_out_pairs_are_in_no_scene_and_no_question_unless_asked_for() -> None:
    for pairs in ("named", "more", "all"):
        found = questions_of(150, pairs=pairs)
        assert not any(shape.pair in HELD_OUT for scene, _ in found for shape in scene)
        assert not any(names_held_out(question.text + question.answer) for _, question in found)
    held = questions_of(150, is_held_out=True)
    assert all(any(shape.pair in HELD_OUT for shape in scene) for scene, _ in held)
    assert all(
        names_held_out(one.text) or names_held_out(one.answer)
        for _, one in held
        if one.kind in ("relation", "description")
    )


def test_a_scene_has_the_answers_that_a_person_would_give() -> None:
    random = np.random.default_rng(0)
    (scene,) = [placed(random, [("blue", "circle"), ("red", "square")])]
    blue, red = scene
    found = {
        (one.text, one.answer) for _ in range(200) for kind in KINDS if (one := asked(random, scene, kind))
    }
    answers = dict(found)
    assert len(answers) == len(found), "one answer to a question"
    assert answers["what colour is the circle?"] == answers["what color is the circle?"] == "blue"
    assert answers["which shape is red?"] == "square"
    assert answers["how many shapes are there?"] == "2"
    assert {answers.get("how many squares are there?"), answers.get("how many red shapes are there?")} == {
        "1"
    }
    side = "left of" if red.x < blue.x else "right of"
    if abs(red.x - blue.x) >= 8:
        assert answers[f"what is {side} the blue circle?"] == "a red square"
    first, second = sorted((("blue circle", blue.x), ("red square", red.x)), key=lambda one: one[1])
    assert answers["describe the picture."] == f"a {first[0]} and a {second[0]}"


def test_shapes_lie_apart_and_are_drawn_in_their_colours() -> None:
    random = np.random.default_rng(1)
    for _ in range(50):
        scene = drawn_scene(random)
        picture = drawn(random, scene)
        assert (picture.shape, picture.dtype) == ((EDGE, EDGE, 3), np.uint8)
        for one in scene:
            middle = picture[one.y, one.x].astype(int)
            assert middle.max() - middle.min() > 60, "a colour, not the pale ground"


def test_every_count_is_frequent() -> None:
    answers = Counter(one.answer for _, one in questions_of(600) if one.kind == "count")
    assert all(answers[number] > 30 for number in "0123")


def test_the_words_are_the_tokens_that_the_tokenizer_makes() -> None:
    folder, _ = untrained()
    tokenizer = tokenizer_at(folder)
    assert tokenizer.size == len(VOCABULARY) <= VOCAB
    for pairs in ("named", "all"):
        for _, one in questions_of(60, pairs=pairs):
            assert tokenizer.encode(one.text) == ids(one.text)
            assert tokenizer.encode(one.answer) == ids(one.answer)
            assert tokenizer.decode([*ids(one.answer), *ids(END)]) == one.answer
    assert tokenizer.encode("What's up?")[0] == ids("what")[0]


def test_a_prompt_is_what_was_trained() -> None:
    folder, _ = untrained()
    question = questions_of(1)[0][1]
    with opened(folder) as checkpoint:
        values = read_side_values(checkpoint.store)
        tokenizer = read_tokenizer(checkpoint.store, values)
        assert tokenizer is not None
        inputs = load_inputs(folder)
        prompt = Prompter(inputs, tokenizer, values.config).tokens(question.text, 1)
    asking, _ = parts(question)
    assert inputs.expanded(prompt, [(EDGE, EDGE)]) == PREFIX + asking
    assert asking[-1:] == ids(ASSISTANT)


def test_pictures_become_the_patches_of_the_image_processor() -> None:
    folder, _ = untrained()
    batch = random_batch(np.random.default_rng(2), 3, pairs=["all"])
    expected = load_inputs(folder)([PREFIX] * 3, [[one] for one in batch.pictures])
    np.testing.assert_allclose(patches(batch.pictures), expected["pixels"], atol=1e-6)


def test_questions_of_one_picture_are_answered_as_if_each_stood_alone() -> None:
    _, model = untrained()
    batch = random_batch(np.random.default_rng(3), 3, pairs=["named"], kinds=[[*KINDS, "relation"]])
    columns = torch.from_numpy(batch.targets) != IGNORED
    found = Learner(model).logits(batch, columns)
    each = [(i, *parts(one)) for i, of in enumerate(batch.questions) for one in of]
    rows = [PREFIX + asking + answer for _, asking, answer in each]
    inputs = model.prepare(rows, [[batch.pictures[i]] for i, _, _ in each], pad="right")
    with torch.no_grad():
        alone = model(**inputs)
    starts = [len(PREFIX) + len(asking) - 1 for _, asking, _ in each]
    expected = [alone[i, at : at + len(one[2])] for i, (one, at) in enumerate(zip(each, starts, strict=True))]
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-5, rtol=0)
    answers = [token for _, _, answer in each for token in answer]
    assert batch.targets[columns.numpy()].tolist() == answers


def test_an_answer_is_right_if_all_of_it_is() -> None:
    _, model = untrained()
    batch = random_batch(np.random.default_rng(4), 4, pairs=["named"])
    learner = Learner(model)
    columns = torch.from_numpy(batch.targets) != IGNORED
    best = learner.logits(batch, columns).argmax(dim=-1).tolist()
    expected = []
    for one in (one for of in batch.questions for one in of):
        answer = parts(one)[1]
        said, best = best[: len(answer)], best[len(answer) :]
        expected.append((one.kind, said == answer))
    assert learner.rights(batch) == expected


def test_orthogonal_matrices_keep_their_directions() -> None:
    random = torch.Generator().manual_seed(0)
    for shape in ((2, 24, 24), (3, 16, 40), (1, 40, 16)):
        u, _, v = torch.linalg.svd(torch.randn(shape, generator=random), full_matrices=False)
        found = orthogonal(u @ torch.diag(torch.linspace(0.2, 3, u.shape[-1])) @ v).float()
        inner = u.mT @ found @ v.mT
        sizes = torch.diagonal(inner, dim1=-2, dim2=-1)
        assert 0.6 < float(sizes.min()) <= float(sizes.max()) < 1.3
        torch.testing.assert_close(inner, torch.diag_embed(sizes), atol=0.02, rtol=0)


def test_a_manifest_is_read_as_any_other(tmp_path: Path) -> None:
    number = write_manifest(tmp_path / "shapes", 5, seed=1)
    samples = open_manifest(str(tmp_path / "shapes" / "shapes.jsonl"))
    assert len(samples) == number
    records = [json.loads(line) for line in (tmp_path / "shapes" / "shapes.jsonl").read_text().splitlines()]
    for sample, record in zip(samples, records, strict=True):
        assert (sample.id, sample.kind) == (record["id"], record["kind"])
        assert [turn.role for turn in sample.turns] == ["user", "assistant"]
        assert sample.turns[1].text == record["conversations"][1]["value"]
        (picture,) = sample.seen()
        assert picture.pixels().shape == (EDGE, EDGE, 3)
    with pytest.raises(FileExistsError):
        write_manifest(tmp_path / "shapes", 5, seed=1)


def test_what_is_learned_of_a_record_is_its_answer(tmp_path: Path) -> None:
    folder, _ = untrained()
    write_manifest(tmp_path / "shapes", 4, seed=2)
    labeller = read_labeller(str(folder))
    for sample in open_manifest(str(tmp_path / "shapes" / "shapes.jsonl")):
        labelled = labeller.labelled(sample)
        learned = [target for target in labelled.targets if target != IGNORED]
        assert learned == [*ids(sample.turns[1].text), *ids(END)]
        assert learned == list(labelled.tokens[-len(learned) :])
