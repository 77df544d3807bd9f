"""Labels: rows equal transformers', and of them answers with their ends are learned; all else is one error."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

transformers = pytest.importorskip("transformers")

from data import chat_templates as words
from dovetail.data.certificate import certificate
from dovetail.data.labels import Labelled, Labeller, read_labeller
from dovetail.data.labels_page import labels_html, labels_page
from dovetail.data.sample import Picture, Piece, Sample, Turn, Video
from dovetail.errors import DataError, UsageError
from dovetail.inputs.tokenizer import tokenizer_at
from dovetail.render.page import Line
from inputs.every_family import inputs_for
from inputs.golden_images import noise
from inputs.test_prompt import Alone
from run.beside import LLAVA_TEMPLATE, byte_level, save_paligemma, sentence_pieces, template

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

SPECIALS = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
SPECIALS += ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<start_of_turn>", "<end_of_turn>"]
SPECIALS += ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]


class Stock(NamedTuple):
    """A family with a template as it is published with: the word for an image, and what ends an answer."""

    family: str
    template: str
    end: str
    image: str | None = None
    is_text: bool = False  # what the template takes
    has_system: bool = True
    empty: str = ""  # what comes before the last answer and is learned
    has_bos: bool = False


STOCK = {
    "qwen2": Stock("qwen2", template("qwen2"), "<|im_end|>", is_text=True),
    "qwen3": Stock("qwen3", words.QWEN3, "<|im_end|>", is_text=True, empty="<think>\n\n</think>\n\n"),
    "smollm3": Stock("smollm3", words.SMOLLM3, "<|im_end|>", is_text=True),
    "gemma": Stock("gemma", words.GEMMA, "<end_of_turn>", is_text=True, has_system=False),
    "llama3": Stock("llama", words.LLAMA3, "<|eot_id|>", is_text=True),
    "mistral": Stock("mistral", words.MISTRAL, "</s>", is_text=True, has_system=False),
    "vicuna": Stock("llava", words.VICUNA, "</s>", "<image>", is_text=True, has_bos=True),
    "qwen2_vl": Stock("qwen2_vl", template("qwen2_vl"), "<|im_end|>", "<|image_pad|>"),
    "qwen2_5_vl": Stock("qwen2_5_vl", template("qwen2_vl"), "<|im_end|>", "<|image_pad|>"),
    "qwen3_vl": Stock("qwen3_vl", words.QWEN3_VL, "<|im_end|>", "<|image_pad|>"),
    "llava_onevision": Stock("llava_onevision", template("llava_onevision"), "<|im_end|>", "<image>"),
    "llava": Stock("llava", LLAVA_TEMPLATE, "", "<image>", has_bos=True),
    "panovlm": Stock("panovlm", words.QWEN3_VL.replace("<|image_pad|>", "<image>"), "<|im_end|>", "<image>"),
}
PIXEL = Picture("a.png")
ASKED, ANSWER = "What is in the picture?", "A small house,\nby the sea."
MORE, LATER = "And 日本語?", "Two boats. 🙂"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: Any) -> dict[bool, tuple[Path, Any]]:
    """A folder with a tokenizer of either kind, and the tokenizer."""
    made = {
        False: byte_level(SPECIALS, bos_token="<s>", eos_token="</s>"),
        True: sentence_pieces(SPECIALS, "<s>", eos_token="</s>", unk_token="<unk>"),
    }
    found = {}
    for has_bos, tokenizer in made.items():
        tokenizer.add_special_tokens({"additional_special_tokens": SPECIALS[3:]})
        folder = tmp_path_factory.mktemp("tokenizer")
        tokenizer.save_pretrained(folder)
        found[has_bos] = folder, tokenizer
    return found


def labeller_of(stock: Stock, folders: Any, learn: str = "all", source: str | None = None) -> Labeller:
    folder, tokenizer = folders[stock.has_bos]
    (folder / "chat_template.jinja").write_text(source or stock.template)
    given = {"text__vocab": 2000}
    if stock.image:
        given["image_token"] = tokenizer.convert_tokens_to_ids(stock.image)
    stop = frozenset({tokenizer.convert_tokens_to_ids(stock.end)}) if stock.end else frozenset({2})
    return Labeller(inputs_for(stock.family, **given), tokenizer_at(folder), {}, stop=stop, learn=learn)


def sample(*turns: str | Sequence[Piece], first: str = "user") -> Sample:
    """Turns of the user and the assistant in turn."""
    roles = ["user", "assistant"] if first == "user" else [first, "user", "assistant"]
    made = []
    for i, turn in enumerate(turns):
        role = roles[i] if i < len(roles) else ("user", "assistant")[(i - len(roles)) % 2]
        made.append(Turn(role, (turn,) if isinstance(turn, str) else tuple(turn)))  # type: ignore[arg-type]
    return Sample("train.jsonl", 17, tuple(made))


def expected(stock: Stock, tokenizer: Any, one: Sample) -> list[int]:
    """The ids that transformers makes of a conversation."""
    messages = []
    for turn in one.turns:
        seen = [{"type": "image"} for piece in turn.pieces if not isinstance(piece, str)]
        text = turn.text.removeprefix("\n") if seen else turn.text
        content: Any = [*seen, {"type": "text", "text": text}]
        if stock.is_text:
            content = "<image>\n" * len(seen) + text
        messages.append({"role": turn.role, "content": content})
    if stock.image is None:
        tokenizer.chat_template = stock.template
        return list(tokenizer.apply_chat_template(messages)["input_ids"])
    options = {"tokenize": True, "return_dict": True}
    ids = Alone(tokenizer, stock.template).apply_chat_template([messages], **options)["input_ids"]
    return list(ids[0])


@pytest.mark.parametrize("name", STOCK)
def test_answers_and_their_ends_are_learned(name: str, folders: Any) -> None:
    stock = STOCK[name]
    _, tokenizer = folders[stock.has_bos]
    labeller = labeller_of(stock, folders)
    picture = Picture("a.png")
    first = (picture, f"\n{ASKED}") if stock.image else (ASKED,)
    cases = {"one": sample(first, ANSWER), "two": sample(first, ANSWER, (MORE,), LATER)}
    if stock.image:
        cases["images"] = sample((picture, picture, ASKED), ANSWER)
        cases["text"] = sample(ASKED, ANSWER)
    if stock.has_system:
        cases["system"] = sample("Be brief.", first, ANSWER, first="system")
    for case, one in cases.items():
        if name == "qwen3" and case == "two":
            continue  # refused: see below
        row = labeller.labelled(one)
        assert list(row.tokens) == expected(stock, tokenizer, one), case
        answers = [turn.text for turn in one.turns if turn.role == "assistant"]
        learned = [text for text, is_learned in labeller.pieces(row) if is_learned]
        assert [text.lstrip(" ") for text in learned] == [stock.empty + one + stock.end for one in answers]
        assert row.has_end == bool(stock.end)
        assert row.num_learned == sum(target == token for token, target in zip(*row[:2], strict=True))
        assert row.images == tuple(one.seen())
    assert pickle.loads(pickle.dumps(labeller)).labelled(cases["one"]) == labeller.labelled(cases["one"])


def test_the_last_answer_alone_may_be_learned(folders: Any) -> None:
    """Which a template that changes earlier turns allows, since the model is asked in the same words."""
    stock = STOCK["qwen3"]
    _, tokenizer = folders[False]
    one = sample(ASKED, ANSWER, MORE, LATER)
    labeller = labeller_of(stock, folders, "last")
    row = labeller.labelled(one)
    assert list(row.tokens) == expected(stock, tokenizer, one)
    learned = [text for text, is_learned in labeller.pieces(row) if is_learned]
    assert learned == [f"{stock.empty}{LATER}<|im_end|>"]
    with pytest.raises(UsageError, match="answers cannot be learned by `first`"):
        labeller_of(stock, folders, "first")


def test_a_template_may_take_pieces_of_the_user_alone(folders: Any) -> None:
    """As templates do that people write for a fine-tune: answers are texts in them."""
    source = words.QWEN3_VL.replace("m.content is string", "m.role != 'user'")
    labeller = labeller_of(STOCK["qwen3_vl"], folders, source=source)
    plain = labeller_of(STOCK["qwen3_vl"], folders)
    one = sample("Be brief.", (PIXEL, ASKED), ANSWER, first="system")
    assert labeller.labelled(one) == plain.labelled(one)


LAST = "--learn last learns the last answer only; or write a conversation of its own for each answer"
TEMPLATE = "give the chat template of this model: chat_template.jinja beside the weights"
# what is wrong -> template, conversation, what is said
REFUSED: dict[str, tuple[Stock, str | None, Sample, str]] = {
    "a thought of an earlier turn goes": (
        STOCK["qwen3"],
        None,
        sample(ASKED, ANSWER, MORE, LATER),
        "the template writes the conversation up to turn 1 otherwise when turns follow\n"
        "  sample    train.jsonl, record 17\n"
        "  expected  ...im_start|>assistant\\n<think>\\n\\n</think>\\n\\nA small house,\\nby the sea.<|im_...\n"
        "  found     ...im_start|>assistant\\nA small house,\\nby the sea.<|im_end|>\\n<|im_start|>u...\n\n"
        f"hint: {LAST}",
    ),
    "a system turn moves": (
        STOCK["mistral"],
        None,
        sample("Be brief.", ASKED, ANSWER, MORE, LATER, first="system"),
        "the template writes the conversation up to turn 2 otherwise when turns follow",
    ),
    "no system turn": (
        STOCK["gemma"],
        None,
        sample("Be brief.", ASKED, ANSWER, first="system"),
        "the chat template refuses the messages: System role not supported\n  sample  train.jsonl, record 17",
    ),
    "nobody answers": (
        STOCK["qwen2"],
        None,
        sample(ASKED),
        "nothing of this conversation is learned: it has no turn of the assistant\n"
        "  sample  train.jsonl, record 17\n"
        "  found   user",
    ),
    "nobody asks": (
        STOCK["qwen2"],
        None,
        Sample("train.jsonl", 17, (Turn("assistant", ("Hi.",)),)),
        "the conversation begins with the assistant, so that nothing asks for its answer",
    ),
    "an empty answer": (STOCK["qwen2"], None, sample(ASKED, " \n"), "turn 1 is an empty answer"),
    "an answer with an image": (
        STOCK["qwen2_vl"],
        None,
        sample(ASKED, (PIXEL, "x")),
        "turn 1 is an answer with",
    ),
    "a role": (
        STOCK["qwen2"],
        None,
        Sample("train.jsonl", 17, (Turn("tool", ("3",)), Turn("assistant", ("x",)))),  # type: ignore[arg-type]
        "turn 0 is of `tool`, whose words are neither asked nor learned\n"
        "  sample    train.jsonl, record 17\n"
        "  expected  system, user, assistant",
    ),
    "no images in the template": (
        STOCK["qwen2_vl"],
        words.QWEN3_VL.replace("<|image_pad|>", ""),
        sample((PIXEL, ASKED), ANSWER),
        "the image tokens do not match the images\n"
        "  sample    train.jsonl, record 17\n"
        "  expected  1, one for each of the images\n"
        "  found     0 of token 8 (`<|image_pad|>`)",
    ),
    "an image token in the text": (
        STOCK["qwen2_vl"],
        None,
        sample((PIXEL, "What is <|image_pad|>?"), ANSWER),
        "the image tokens do not match the images",
    ),
    "an image for a text model": (
        STOCK["qwen2"],
        None,
        sample((PIXEL, ASKED), ANSWER),
        "qwen2 is a text model: it takes no images",
    ),
    "a video": (
        STOCK["qwen2_vl"],
        None,
        sample((Video((PIXEL,)), ASKED), ANSWER),
        "qwen2_vl takes no videos here",
    ),
    "the template shows no answers": (
        STOCK["qwen2"],
        "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}",
        sample(ASKED, ANSWER),
        "turn 1: the template does not show the answer as it is\n",
    ),
    "the template shows the answer as Python": (
        STOCK["qwen2"],
        "{% for m in messages %}{{ [{'type': 'text', 'text': m.content}] }}{% endfor %}",
        sample(ASKED, "A house."),
        "turn 1: the template does not show the answer as it is\n",
    ),
    "the template changes the answer": (
        STOCK["qwen2"],
        "{% for m in messages %}{{ m.role }}: {{ m.content | upper }}\n{% endfor %}",
        sample(ASKED, ANSWER),
        "turn 1: the template does not show the answer as it is\n",
    ),
    "nothing comes before": (
        STOCK["qwen2"],
        "{% for m in messages if m.role == 'assistant' %}{{ m.content }}<|im_end|>{% endfor %}",
        sample(ASKED, ANSWER),
        "everything of this conversation is learned: no token comes before the answer",
    ),
    "it asks in other words": (
        STOCK["qwen2"],
        words.SMOLLM3.replace("<|im_start|>assistant\n{%", "<|im_start|>assistant\n<think>{%"),
        sample(ASKED, ANSWER),
        "turn 1: the template asks for an answer in other words than those that it writes before one\n",
    ),
    "the prompt ends within a token": (
        STOCK["qwen2"],
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}",
        sample(ASKED, ANSWER),
        "turn 1: the tokens before the answer change when the answer follows\n"
        "  sample    train.jsonl, record 17\n"
        "  expected  ' ', as the model is asked",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_labelled_is_one_error(name: str, folders: Any) -> None:
    stock, source, one, message = REFUSED[name]
    with pytest.raises(DataError) as caught:
        labeller_of(stock, folders, source=source).labelled(one)
    assert str(caught.value).startswith(message)
    assert caught.value.details["sample"] == "train.jsonl, record 17"
    assert caught.value.exit_code == 1


def test_the_frame_of_prismatic_goes_on(folders: Any) -> None:
    """As its own trainer cuts turns into tokens, each by itself: `FinetuneDataset` at 4fcd061."""
    folder, tokenizer = folders[True]
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    one = sample((PIXEL, f"\n{ASKED} "), f"{ANSWER}\n", MORE, LATER)
    for config, first, later in (
        ({}, "In: {}\nOut:", "In: {}\nOut:"),
        (
            {"llm_backbone_id": "vicuna-v15-7b"},
            "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
            "detailed, and polite answers to the user's questions. USER: {} ASSISTANT:",
            "USER: {} ASSISTANT:",
        ),
    ):
        said = [first.format(ASKED), f"{ANSWER}</s>", later.format(MORE), f"{LATER}</s>"]
        pieces = [tokenizer(text, add_special_tokens=i == 0).input_ids for i, text in enumerate(said)]
        labeller = Labeller(inputs_for("prismatic", llm__vocab=2000), tokenizer_at(folder), config)
        row = labeller.labelled(one)
        assert list(row.tokens) == [id for piece in pieces for id in piece]
        wanted = [id if i % 2 else -100 for i, piece in enumerate(pieces) for id in piece]
        assert list(row.targets) == wanted


def test_the_frame_of_paligemma_is_its_processors(tmp_path: Path) -> None:
    saved = save_paligemma(tmp_path)
    Image.fromarray(noise(30, 61)).save(tmp_path / "a.png")
    one = sample((Picture(str(tmp_path / "a.png")), ASKED), ANSWER)
    labeller = read_labeller(tmp_path)
    row = labeller.labelled(one)
    seen = saved.processor(images=[noise(30, 61)], text=[ASKED], suffix=[ANSWER], return_tensors="np")
    image = saved.model.config.image_token_id
    assert [id for id in seen["input_ids"][0] if id != image] == [id for id in row.tokens if id != image]
    assert list(seen["labels"][0][-row.num_learned :]) == list(row.targets[-row.num_learned :])
    assert (np.asarray(seen["labels"][0]) != -100).sum() == row.num_learned
    assert labeller.source == "the frame of paligemma (there is no chat template)"
    for turns, message in (
        (sample(ASKED, ANSWER, MORE, LATER), "the frame of the family has one prompt and one answer"),
        (sample("Be brief.", ASKED, ANSWER, first="system"), "takes prompts and answers in turn"),
    ):
        with pytest.raises(DataError, match=message):
            labeller.labelled(turns)


def test_a_certificate_counts_what_is_learned_and_lists_what_is_not(folders: Any) -> None:
    labeller = labeller_of(STOCK["qwen2"], folders)
    good, bad = sample(ASKED, ANSWER), sample(ASKED)
    found = certificate(labeller, [good, bad, good], on_error="skip", shown=1)
    row = labeller.labelled(good)
    assert ([*found.numbers], [*found.lengths]) == ([0, 2], [len(row.tokens)] * 2)
    assert (found.tokens, found.learned, found.without_end) == (2 * len(row.tokens), 2 * row.num_learned, 0)
    assert [(one.number, one.place) for one in found.refused] == [(1, "train.jsonl, record 17")]
    assert [finding.code for finding in found.findings] == ["samples-left-out"]
    assert "".join(text for text, _ in found.shown[0].pieces).endswith(f"{ANSWER}<|im_end|>\n")
    assert found.as_json()["refused"][0]["message"].startswith("nothing of this conversation is learned")
    with pytest.raises(DataError, match="has no turn of the assistant"):
        certificate(labeller, [good, bad])
    with pytest.raises(DataError, match="all 1 samples are left out; the first one because nothing of this"):
        certificate(labeller, [bad], on_error="skip")
    with pytest.raises(DataError, match="there are no samples to learn from"):
        certificate(labeller, [])
    endless = certificate(labeller_of(STOCK["llava"], folders), [good])
    assert [finding.code for finding in endless.findings] == ["answers-without-end"]


def test_a_row_is_small_to_send(folders: Any) -> None:
    row = labeller_of(STOCK["qwen2"], folders).labelled(sample(ASKED, ANSWER))
    assert pickle.loads(pickle.dumps(row)) == row
    assert isinstance(row, Labelled)


def test_a_certificate_is_shown_token_by_token(folders: Any) -> None:
    """With a word before what is learned, and on HTML a mark: not by colour alone."""
    found = certificate(
        labeller_of(STOCK["qwen2"], folders), [sample("<b>?", ANSWER), sample(ASKED)], on_error="skip"
    )
    lines = [line.text for line in labels_page(found) if isinstance(line, Line)]
    assert lines[:3] == [
        "labels by the checkpoint's chat template",
        "learned: every answer of a conversation and the token that ends it",
        f"1 sample of {found.tokens} tokens, the longest of {found.tokens}; 0 are of images, "
        f"{found.learned} are learned ({found.learned / found.tokens:.1%})",
    ]
    assert lines[4:] == [
        f"train.jsonl, record 17: {found.tokens} tokens, {found.learned} learned",
        "           <|im_start|>system\\n",
        "           You are a helpful assistant.<|im_end|>\\n",
        "           <|im_start|>user\\n",
        "           <b>?<|im_end|>\\n",
        "           <|im_start|>assistant\\n",
        "  learned  A small house,\\n",
        "  learned  by the sea.<|im_end|>",
        "           \\n",
        "",
        "warning: 1 sample left out: 1 x nothing of this conversation is learned: it has no turn of the assistant",
        "  train.jsonl, record 17: nothing of this conversation is learned: it has no turn of the assistant",
        "  hint: --json lists all of them",
    ]
    page = labels_html(found)
    assert '<mark class="learned">A small house,\nby the sea.&lt;|im_end|&gt;</mark>' in page
    assert "&lt;b&gt;?" in page
