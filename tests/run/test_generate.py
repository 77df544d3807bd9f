"""`generate` gives the tokens of transformers, from every layout; what cannot be is refused in words."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from PIL import Image

import dovetail
from commands import dovetail as command
from dovetail.cli.generate import token_ids
from dovetail.errors import CheckpointError, DovetailError, UsageError
from dovetail.families import family
from dovetail.inputs.stop_tokens import stop_tokens
from dovetail.inputs.tokenizer import SideValues
from dovetail.run.generate import Generator, context_length
from dovetail.run.sampling import Sampling
from files import MODELS
from inputs.golden_images import noise
from models.recorded import GOLDEN, recorded
from run.beside import LLAMA, SAVERS, Saved, sentence_pieces, template

transformers.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore")

PROMPT = "Describe the picture: a café by the sea?"
NEW = 12


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Saved]:
    """The tiny model of a family with everything beside it, written once."""
    found: dict[str, Saved] = {}

    def one(name: str) -> Saved:
        if name not in found:
            found[name] = SAVERS[name](tmp_path_factory.mktemp(name))
        return found[name]

    return one


def pictures(one: Saved) -> list[np.ndarray]:
    """An image for models that take some: wide, and larger than any of them runs with."""
    return [noise(60, 90)] if one.images else []


def copied(one: Saved, folder: Path, *without: str) -> Path:
    """The folder again, without some files."""
    shutil.copytree(one.folder, folder)
    for name in without:
        (folder / name).unlink()
    return folder


# -- the same as transformers


@pytest.mark.parametrize("name", SAVERS)
def test_greedy_equals_transformers(name: str, saved: Callable[[str], Saved]) -> None:
    one = saved(name)
    images = pictures(one)
    answer = Generator.load(one.folder).answer(PROMPT, images, max_new_tokens=NEW)
    assert answer.tokens == one.generated(PROMPT, images, new=NEW)
    assert answer.prompt_tokens == one.inputs(PROMPT, images)["input_ids"].shape[1]
    assert answer.text == one.tokenizer.decode(answer.tokens, skip_special_tokens=True)
    assert len(set(answer.tokens)) > 1 or name == "paligemma"


@pytest.mark.parametrize(
    "name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_onevision", "paligemma", "llava"]
)
def test_several_images_and_none(name: str, saved: Callable[[str], Saved]) -> None:
    one, generator = saved(name), Generator.load(saved(name).folder)
    two = [noise(60, 90), noise(31, 40, seed=1)]
    if name != "llava_onevision":  # transformers tiles several images, unlike its own publication
        assert generator.answer(PROMPT, two, max_new_tokens=NEW).tokens == one.generated(PROMPT, two)
    if name != "paligemma":  # its processor wants an image
        assert generator.answer(PROMPT, max_new_tokens=NEW).tokens == one.generated(PROMPT)
    seen = generator.tokens_of(PROMPT, two)
    assert seen.count(generator.model.config.image_token) == 2


@pytest.mark.parametrize(
    "name", ["qwen2", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava_onevision", "paligemma", "llava"]
)
def test_every_layout_gives_the_same_tokens(name: str, saved: Callable[[str], Saved], tmp_path: Path) -> None:
    one = saved(name)
    expected = one.generated(PROMPT, pictures(one), new=NEW)
    layouts = [layout.id for layout in family(name).layouts if layout.is_writable and layout.id != "hf-base"]
    assert len(layouts) > 1  # and the bare model, which has no head
    for layout in layouts:
        dovetail.convert(one.folder, tmp_path / layout, to=layout)
        answer = Generator.load(tmp_path / layout, as_=f"{name}/{layout}").answer(
            PROMPT, pictures(one), max_new_tokens=NEW
        )
        assert answer.tokens == expected, layout


@pytest.mark.parametrize("variant", ["alternating_attn", "alternating_cross_attn"])
def test_every_layout_of_a_variant(variant: str, saved: Callable[[str], Saved], tmp_path: Path) -> None:
    """The same weights under other masks, which its own tests compare with what was recorded."""
    one = saved("llava_onevision")
    folder = copied(one, tmp_path / "given")
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**said, "model_type": f"llava_qwen_with_{variant}"}))
    expected = Generator.load(folder).answer(PROMPT, pictures(one), max_new_tokens=NEW).tokens
    assert expected != one.generated(PROMPT, pictures(one), new=NEW)
    for layout in (layout.id for layout in family("llava_onevision").layouts if layout.is_writable):
        dovetail.convert(folder, tmp_path / layout, to=layout)
        found = Generator.load(tmp_path / layout, as_=f"llava_onevision/{layout}")
        assert found.answer(PROMPT, pictures(one), max_new_tokens=NEW).tokens == expected, layout


@pytest.mark.parametrize("name", ["qwen2", "paligemma"])
def test_padded_rows_are_never_chosen(name: str, saved: Callable[[str], Saved], tmp_path: Path) -> None:
    one = saved(name)
    dovetail.convert(one.folder, tmp_path / "padded", pad_vocab=2048)
    generator = Generator.load(tmp_path / "padded")
    rows = generator.model.head_weight.shape[0]
    assert rows == 2048
    with torch.no_grad():  # what nobody trained may be anything
        weight = generator.model.head_weight
        weight[len(one.tokenizer) :] = (
            weight[: rows - len(one.tokenizer)].repeat(5, 1)[: rows - len(one.tokenizer)] * 9
        )
    answer = generator.answer(PROMPT, pictures(one), max_new_tokens=NEW)
    assert answer.tokens == one.generated(PROMPT, pictures(one), new=NEW)
    generator.tokenizer = None  # then the certificate alone says how many are tokens
    assert generator.vocab_used is not None
    assert generator.vocab_used < rows


def test_a_batch_gives_what_each_prompt_gives(saved: Callable[[str], Saved]) -> None:
    generator = Generator.load(saved("qwen2_vl").folder)
    prompts = ["two boats", PROMPT, "the sea"]
    images = [[noise(60, 90)], [noise(31, 40, seed=1), noise(60, 60, seed=2)], []]
    together = generator.answers(prompts, images, max_new_tokens=NEW)
    alone = [
        generator.answer(prompt, of, max_new_tokens=NEW) for prompt, of in zip(prompts, images, strict=True)
    ]
    assert together == alone
    assert len({tuple(answer.tokens) for answer in together}) == 3


# -- Prismatic, which transformers does not run


def prismatic(folder: Path, **config: Any) -> Path:
    """The recorded Prismatic, with a tokenizer as Llama's beside it."""
    shutil.copytree(GOLDEN / "prismatic", folder, ignore=shutil.ignore_patterns("linear", "io.npz"))
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**said, **config}))
    sentence_pieces(LLAMA, "<s>", eos_token="</s>", unk_token="<unk>").save_pretrained(folder)
    return folder


def test_prismatic_gives_what_was_recorded(tmp_path: Path) -> None:
    io = recorded("prismatic", images="prismatic")
    generator = Generator.load(GOLDEN / "prismatic")
    ids = io["avgpool16_mlp.input_ids"].tolist()
    answer = generator.answer(ids, [io["imageA"]], max_new_tokens=16)
    assert [answer.tokens] == io["avgpool16_mlp.greedy"].tolist()
    assert answer.text is None
    given = prismatic(tmp_path / "given")
    for layout in ("native", "openvla", "datology"):
        dovetail.convert(given, tmp_path / layout, to=layout, as_="prismatic")
        again = Generator.load(tmp_path / layout, as_=f"prismatic/{layout}")
        again.tokenizer = None
        assert again.answer(ids, [io["imageA"]], max_new_tokens=16).tokens == answer.tokens, layout


def test_prismatic_is_asked_as_its_language_model_was(tmp_path: Path) -> None:
    pure = Generator.load(prismatic(tmp_path / "pure", model={"llm_backbone_id": "llama2-7b-pure"}))
    tokenizer = pure.tokenizer
    assert tokenizer is not None
    ids = pure.tokens_of("pick up the box", [noise(56, 56)])
    assert ids == tokenizer.encode("In: pick up the box\nOut:", with_specials=True)
    assert ids[0] == tokenizer.id("<s>")
    answers = [pure.answer("pick up the box", of, max_new_tokens=4) for of in ([noise(56, 56)], [])]
    assert answers[0].prompt_tokens == answers[1].prompt_tokens + 16
    vicuna = Generator.load(prismatic(tmp_path / "vicuna", llm_backbone_id="vicuna-v15-7b"))
    assert tokenizer.decode(vicuna.tokens_of("hi")).endswith("questions. USER: hi ASSISTANT:")
    chat = Generator.load(prismatic(tmp_path / "chat", llm_backbone_id="llama2-7b-chat"))
    with pytest.raises(UsageError, match="how `llama2-7b-chat` is asked is not known here"):
        chat.tokens_of("hi")
    assert chat.tokens_of("hi", is_raw=True) == tokenizer.encode("hi", with_specials=True)


# -- prompts


def test_a_raw_prompt_is_taken_as_it_is(saved: Callable[[str], Saved]) -> None:
    one = saved("qwen2_vl")
    generator = Generator.load(one.folder)
    text = "<|vision_start|><|image_pad|><|vision_end|>the sea"
    assert generator.tokens_of(text, [noise(9, 9)], is_raw=True) == one.tokenizer(text)["input_ids"]
    token = generator.model.config.image_token
    plain = one.tokenizer("the sea")["input_ids"]
    assert generator.tokens_of("the sea", [noise(9, 9)], is_raw=True) == [token, *plain]


def test_a_template_that_takes_only_text_gets_the_images_before_it(
    saved: Callable[[str], Saved], tmp_path: Path
) -> None:
    """As the tokenizer of lmms-lab's LLaVA-OneVision has it, which is Qwen2's."""
    one = saved("llava_onevision")
    folder = copied(one, tmp_path / "text")
    (folder / "chat_template.jinja").write_text(template("qwen2"))
    generator = Generator.load(folder)
    found = generator.tokens_of("the sea", [noise(9, 9), noise(9, 9)])
    text = one.tokenizer.apply_chat_template(
        [{"role": "user", "content": "<image>\n<image>\nthe sea"}],
        chat_template=template("qwen2"),
        tokenize=False,
        add_generation_prompt=True,
    )
    assert found == one.tokenizer(text)["input_ids"]


@pytest.mark.parametrize("place", ["chat_template.json", "tokenizer_config.json", "named"])
def test_a_template_is_found_wherever_it_is(
    place: str, saved: Callable[[str], Saved], tmp_path: Path
) -> None:
    one = saved("qwen2_vl")
    folder = copied(one, tmp_path / "moved", "chat_template.jinja")
    said = json.loads((folder / "tokenizer_config.json").read_text())
    if place == "chat_template.json":
        (folder / place).write_text(json.dumps({"chat_template": template("qwen2_vl")}))
        (folder / "chat_template.jinja").write_text("the processor's legacy file goes before it")
    else:
        both = [{"name": ["odd"], "template": "x"}, {"name": "default", "template": template("qwen2_vl")}]
        said["chat_template"] = both if place == "named" else template("qwen2_vl")
        (folder / "tokenizer_config.json").write_text(json.dumps(said))
    expected = Generator.load(one.folder).tokens_of(PROMPT, [noise(9, 9)])
    assert Generator.load(folder).tokens_of(PROMPT, [noise(9, 9)]) == expected
    assert len(expected) > len(one.tokenizer(PROMPT)["input_ids"]) + 10


def test_without_a_template_the_text_alone(saved: Callable[[str], Saved], tmp_path: Path) -> None:
    one = saved("qwen2_vl")
    generator = Generator.load(copied(one, tmp_path / "bare", "chat_template.jinja"))
    token = generator.model.config.image_token
    assert generator.tokens_of(PROMPT, [noise(9, 9)]) == [token, *one.tokenizer(PROMPT)["input_ids"]]


# -- sampling


def test_the_draws_are_those_of_transformers_processors() -> None:
    from transformers.generation import logits_process as theirs

    from dovetail.run.sampling import trimmed

    scores = torch.randn(5, 60, generator=torch.Generator().manual_seed(0)) * 3
    for top_k, top_p in ((0, 1.0), (7, 1.0), (0, 0.6), (9, 0.8), (1, 0.1), (60, 0.999), (500, 1.0)):
        expected = scores / 0.7
        if top_k:
            expected = theirs.TopKLogitsWarper(top_k)(None, expected)
        if top_p < 1:
            expected = theirs.TopPLogitsWarper(top_p)(None, expected)
        assert torch.equal(trimmed(scores / 0.7, top_k=top_k, top_p=top_p), expected)


def test_a_seed_gives_one_sequence(saved: Callable[[str], Saved]) -> None:
    generator = Generator.load(saved("qwen2").folder)

    def drawn(**options: Any) -> list[int]:
        sampling = Sampling(temperature=1.5, **options)
        return generator.answer(PROMPT, max_new_tokens=NEW, sampling=sampling).tokens

    assert drawn(seed=3) == drawn(seed=3)
    assert len({tuple(drawn(seed=seed)) for seed in range(4)}) == 4
    greedy = generator.answer(PROMPT, max_new_tokens=NEW).tokens
    assert drawn(seed=5, top_k=1) == greedy
    assert drawn(seed=5, top_p=1e-9) == greedy


def test_a_draw_depends_on_no_other_row(saved: Callable[[str], Saved]) -> None:
    generator = Generator.load(saved("qwen2").folder)
    options: dict[str, Any] = {"max_new_tokens": NEW, "sampling": Sampling(temperature=1.5, seed=3)}
    alone = generator.answer("one", **options)
    first, second = generator.answers(["one", "and a longer prompt"], **options)
    assert (first.tokens, second.tokens != first.tokens) == (alone.tokens, True)


def test_draws_are_as_frequent_as_they_are_likely() -> None:
    from dovetail.run.engine import Draw
    from dovetail.run.sampling import chooser

    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0, 9.0]])
    choose = chooser(Sampling(temperature=0.8, top_k=3, seed=0), vocab_used=4)
    draws = [[Draw(row, position) for row in range(500)] for position in range(40)]
    found = torch.stack([choose(logits.expand(500, 5), each) for each in draws]).flatten()
    share = torch.bincount(found, minlength=5) / len(found)
    expected = (torch.tensor([2.0, 1.0, 0.0]) / 0.8).softmax(0)
    assert share[3:].tolist() == [0, 0]
    assert (share[:3] - expected).abs().max() < 4 * (0.25 / len(found)) ** 0.5  # four standard errors


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}],
)
def test_sampling_that_cannot_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="cannot be"):
        Sampling(**wrong)


@pytest.mark.parametrize("idle", [{"top_k": 5}, {"top_p": 0.9}])
def test_sampling_that_would_do_nothing(idle: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="top-k and top-p would do nothing"):
        Sampling(**idle)
    Sampling(**idle, temperature=0.1)


# -- where an answer ends


def test_an_answer_ends_at_a_stop_token(saved: Callable[[str], Saved], tmp_path: Path) -> None:
    one = saved("qwen2")
    whole = Generator.load(one.folder).answer(PROMPT, max_new_tokens=NEW)
    assert not whole.has_stopped
    folder = copied(one, tmp_path / "stops")
    said = json.loads((folder / "generation_config.json").read_text())
    third = whole.tokens[2]
    end = whole.tokens.index(third)
    for stop in (third, [399, third]):
        (folder / "generation_config.json").write_text(json.dumps({**said, "eos_token_id": stop}))
        answer = Generator.load(folder).answer(PROMPT, max_new_tokens=NEW)
        assert answer.tokens == whole.tokens[: end + 1]
        assert answer.has_stopped


def test_what_says_the_stop_tokens(saved: Callable[[str], Saved], tmp_path: Path) -> None:
    one = saved("qwen2_vl")
    ids = one.tokenizer.convert_tokens_to_ids
    assert Generator.load(one.folder).stop == {ids("<|im_end|>"), ids("<|endoftext|>")}
    folder = copied(one, tmp_path / "config", "generation_config.json")
    assert Generator.load(folder).stop == {ids("<|im_end|>")}  # config.json
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(
            {
                **{k: v for k, v in said.items() if k != "eos_token_id"},
                "text_config": {k: v for k, v in said["text_config"].items() if k != "eos_token_id"},
            }
        )
    )
    assert Generator.load(folder).stop == {ids("<|im_end|>")}  # the tokenizer


@pytest.mark.parametrize("odd", [True, "x", -1, [1, None], {}, 2.0])
def test_a_stop_token_that_is_none_is_refused(odd: object) -> None:
    with pytest.raises(CheckpointError, match="eos_token_id is no token") as error:
        stop_tokens(None, SideValues({}, {"eos_token_id": odd}, {}))
    assert "generation_config.json" in str(error.value)


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 100}, 100),
        ({"max_position_embeddings": "x"}, None),
        ({"max_position_embeddings": True}, None),
        ({"max_position_embeddings": 100, "rope_scaling": {"factor": 4.0}}, 400),
        ({"max_position_embeddings": 100, "rope_scaling": {"rope_type": "llama3"}}, 100),
        (
            {
                "max_position_embeddings": 100,
                "rope_scaling": {"factor": 4, "original_max_position_embeddings": "x"},
            },
            400,
        ),
        ({"max_position_embeddings": 100, "rope_parameters": {"factor": float("nan")}}, 100),
        ({"text_config": {"max_position_embeddings": 7}}, 7),
    ],
)
def test_the_context_is_what_a_config_says(config: dict[str, Any], length: int | None) -> None:
    assert context_length(SideValues({}, {}, config)) == length


def test_text_is_streamed_character_by_character(saved: Callable[[str], Saved]) -> None:
    one = saved("qwen2")
    generator = Generator.load(one.folder)
    assert generator.tokenizer is not None
    text = "日本語 🙂🚀 naïve café\n  fin"
    ids = one.tokenizer(text)["input_ids"]
    stream = generator.tokenizer.stream()
    pieces = [stream.push(id) for id in ids]
    assert "".join(pieces) + stream.rest() == text
    assert "" in pieces  # bytes of a character that is not yet whole
    assert not any("\ufffd" in piece for piece in pieces)
    half = generator.tokenizer.stream()
    emoji = one.tokenizer("🚀")["input_ids"]
    assert len(emoji) > 1
    assert half.push(emoji[0]) == ""
    assert half.rest() == one.tokenizer.decode(emoji[:1]) == "\ufffd"


@pytest.mark.parametrize("name", ["qwen2_vl", "paligemma"])
def test_the_stream_is_the_answer(name: str, saved: Callable[[str], Saved]) -> None:
    one = saved(name)
    generator = Generator.load(one.folder)
    pieces = list(generator.stream(PROMPT, pictures(one), max_new_tokens=NEW))
    assert "".join(pieces) == generator.answer(PROMPT, pictures(one), max_new_tokens=NEW).text
    generator.tokenizer = None
    ids = one.tokenizer("the sea")["input_ids"]
    numbers = "".join(generator.stream(ids, max_new_tokens=3)).split()
    assert [int(number) for number in numbers] == generator.answer(ids, max_new_tokens=3).tokens


def test_who_stops_reading_stops_the_model(saved: Callable[[str], Saved]) -> None:
    generator = Generator.load(saved("qwen2").folder)
    told: list[int] = []
    choose = generator.model.logits
    generator.model.logits = lambda hidden: (told.append(1), choose(hidden))[1]
    stream = generator.stream(PROMPT, max_new_tokens=150)
    next(stream)
    stream.close()
    count = len(told)
    assert count < 150
    time.sleep(0.2)
    assert len(told) == count


def test_a_closed_pipe_ends_the_command(saved: Callable[[str], Saved]) -> None:
    words = ["generate", saved("qwen2").folder, "--tokens", "5,6,7", "--max-new-tokens", "200", "--raw"]
    with subprocess.Popen(
        [sys.executable, "-m", "dovetail", *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        told = process.stderr.read()
    assert (process.returncode, told) == (1, b"")


def test_an_error_in_the_stream_is_raised_where_it_is_read(saved: Callable[[str], Saved]) -> None:
    generator = Generator.load(saved("qwen2").folder)
    with pytest.raises(UsageError, match="takes no images"):
        list(generator.stream(PROMPT, [noise(9, 9)]))


# -- what cannot be


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ raise_exception('Only user and model turns, please') }}")


def broken_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for message in messages %}{{ message }")


def other_tokenizer(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['content'][-1]['text'] }}{% endfor %}"
    )


def removed(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def written(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def unchanged(_: Path) -> None:
    """The folder as it is."""


TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
# what is done to the folder of a Qwen2-VL, the options, the message
REFUSED: dict[str, tuple[Callable[[Path], None], tuple[str, ...], str]] = {
    "no tokenizer": (
        removed(*TOKENIZER),
        ("--prompt", "hi"),
        "error: there is no tokenizer beside the weights\n\n"
        "hint: put tokenizer.json into the folder, or give token ids: --tokens 1,2,3\n",
    ),
    "a tokenizer that is none": (
        written("tokenizer.json", "{}"),
        ("--prompt", "hi"),
        "error: the tokenizer cannot be read: Cannot instantiate Tokenizer from buffer: Model missing. at line 1 "
        "column 2\n  file  tokenizer.json\n\n"
        "hint: fetch tokenizer.json again, or give token ids: --tokens 1,2,3\n",
    ),
    "a template that refuses": (
        no_template,
        ("--prompt", "hi"),
        "error: the chat template refuses the messages: Only user and model turns, please\n\n"
        "hint: --raw gives the model your text as it is\n",
    ),
    "a template that is none": (
        broken_template,
        ("--prompt", "hi"),
        "error: the chat template refuses the messages: unexpected '}'\n\n"
        "hint: --raw gives the model your text as it is\n",
    ),
    "an image token in the prompt": (
        unchanged,
        ("--prompt", "<|image_pad|>"),
        "error: the prompt has 1 image placeholders, and there are 0 images\n  image_token  5\n\n"
        "hint: leave image tokens out of the prompt; if it has none, tokenizer or chat template are of "
        "another model\n",
    ),
    "no image": (
        unchanged,
        ("--prompt", "hi", "--image", "none.png"),
        "error: there is no image `none.png`\n\nhint: give the path of a JPEG, PNG or WebP file\n",
    ),
    "an image that is none": (
        unchanged,
        ("--prompt", "hi", "--image", "config.json"),
        "error: `config.json` is no image that can be read\n\nhint: JPEG, PNG and WebP can\n",
    ),
    "half an image": (
        written("half.png", ""),
        ("--prompt", "hi", "--image", "half.png"),
        "error: the image `half.png` cannot be read: ",
    ),
    "an overflow": (
        unchanged,
        ("--prompt", "hi", "--max-new-tokens", "300"),
        "error: the prompt has 51 tokens and 300 more are wanted; the context holds 256\n\n"
        "hint: give --max-new-tokens 205\n",
    ),
    "a prompt beyond the context": (
        unchanged,
        ("--tokens", ",".join(["9"] * 256)),
        "error: the prompt has 256 tokens and 128 more are wanted; the context holds 256\n\n"
        "hint: shorten the prompt, or take smaller or fewer images\n",
    ),
    "no new tokens": (
        unchanged,
        ("--prompt", "hi", "--max-new-tokens", "0"),
        "error: 0 new tokens cannot be generated\n\nhint: --max-new-tokens is at least 1\n",
    ),
    "tokens that are none": (
        unchanged,
        ("--tokens", "1,x"),
        "error: `--tokens 1,x` is no list of token ids\n\nhint: for example --tokens 1,2,3\n",
    ),
    "a token beyond the table": (
        unchanged,
        ("--tokens", "1,9999"),
        "error: token 9999 is none of the model's 512\n\nhint: ids count from 0\n",
    ),
    "no temperature": (
        unchanged,
        ("--prompt", "hi", "--temperature", "-1"),
        "error: temperature -1.0, top-k 0, top-p 1.0 cannot be\n\n"
        "hint: temperature >= 0, top-k >= 0, 0 < top-p <= 1\n",
    ),
    "values that are no JSON": (
        written("generation_config.json", "[1]"),
        ("--prompt", "hi"),
        "error: the file is no JSON object\n  file  generation_config.json\n\nhint: fetch the file again\n",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused(case: str, saved: Callable[[str], Saved], tmp_path: Path) -> None:
    change, options, message = REFUSED[case]
    folder = copied(saved("qwen2_vl"), tmp_path / "model")
    change(folder)
    if case == "half an image":
        Image.fromarray(noise(90, 90)).save(folder / "half.png")
        (folder / "half.png").write_bytes((folder / "half.png").read_bytes()[:900])
    answer = in_process(folder, *options)
    assert answer.out == ""
    told = answer.err[: len(message)] if message.endswith(": ") else answer.err
    assert told == message
    assert answer.code in (1, 2)


class Result:
    """What a run in this process gave."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


def in_process(folder: Path, *options: str) -> Result:
    """`dovetail generate . OPTIONS` in a folder, without the seconds that a process of torch takes."""
    import contextlib
    import io

    from dovetail.cli import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["generate", ".", *options])
    return Result(code, out.getvalue(), err.getvalue())


def test_an_image_for_a_text_model(saved: Callable[[str], Saved]) -> None:
    generator = Generator.load(saved("qwen3").folder)
    for prompt in (PROMPT, [1, 2]):
        with pytest.raises(UsageError, match="qwen3 is a text model: it takes no images"):
            generator.answer(prompt, [noise(9, 9)])


def test_other_models_do_not_speak(tmp_path: Path) -> None:
    dovetail.make("pi0", tmp_path / "pi0", set=MODELS["pi0"][0], dtype="float32")
    with pytest.raises(UsageError, match="Pi0 does not generate text") as error:
        Generator.load(tmp_path / "pi0")
    assert error.value.hint == "`dovetail act` runs policies"


def test_a_tokenizer_without_tokenizer_json(saved: Callable[[str], Saved], tmp_path: Path) -> None:
    """Of GPT-2's files transformers makes the same tokenizer; of what is none, an error says so."""
    one = saved("qwen2")
    folder = copied(one, tmp_path / "old", "tokenizer.json")
    one.tokenizer.backend_tokenizer.model.save(str(folder))
    said = json.loads((folder / "tokenizer_config.json").read_text())
    kind = {"tokenizer_class": "GPT2Tokenizer", "unk_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**said, **kind}))
    again = Generator.load(folder).tokenizer
    assert again is not None
    assert again.encode("the sea") == one.tokenizer("the sea")["input_ids"]
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    (folder / "tokenizer.model").write_bytes(b"\0nothing")
    with pytest.raises(DovetailError, match=r"cannot read the tokenizer in tokenizer\.model"):
        Generator.load(folder)


def test_a_missing_processor_is_said(saved: Callable[[str], Saved], tmp_path: Path) -> None:
    one = saved("qwen2_vl")
    folder = copied(one, tmp_path / "bare", "preprocessor_config.json")
    Image.fromarray(noise(60, 90)).save(folder / "a.png")
    answer = in_process(folder, "--prompt", "hi", "--image", "a.png", "--max-new-tokens", "2")
    assert answer.code == 0
    assert "note: max_pixels = 1003520 (Qwen2VLImageProcessor default): no file says it" in answer.err
    whole = in_process(copied(one, tmp_path / "whole"), "--prompt", "hi", "--max-new-tokens", "2")
    assert (whole.code, whole.err) == (0, "")


# -- the command


def test_the_command_prints_text_or_json(saved: Callable[[str], Saved], tmp_path: Path) -> None:
    one = saved("qwen2_vl")
    image = tmp_path / "a.png"
    Image.fromarray(noise(60, 90)).save(image)
    words = ["generate", one.folder, "--prompt", PROMPT, "--image", image, "--max-new-tokens", str(NEW)]
    expected = Generator.load(one.folder).answer(PROMPT, [noise(60, 90)], max_new_tokens=NEW)
    plain = command(*words)
    assert (plain.code, plain.out) == (0, f"{expected.text}\n")
    piped = subprocess.run(
        [sys.executable, "-m", "dovetail", *(str(word) if word != PROMPT else "-" for word in words)],
        input=f"{PROMPT}\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (piped.returncode, piped.stdout) == (0, plain.out)
    found = json.loads(command(*words, "--json").out)
    assert found == {
        "text": expected.text,
        "tokens": expected.tokens,
        "prompt_tokens": expected.prompt_tokens,
        "stopped": False,
    }


def test_the_verb_is_a_function_too(saved: Callable[[str], Saved]) -> None:
    one = saved("qwen2_vl")
    told = {"max_new_tokens": 5, "sampling": Sampling(temperature=0.7, seed=4)}
    expected = Generator.load(one.folder).answer([10, 11, 12], **told)
    found = dovetail.generate(one.folder, [10, 11, 12], max_new_tokens=5, temperature=0.7, seed=4)
    assert found == expected


def test_ids_may_be_those_that_stand_for_an_image() -> None:
    """Prismatic's and PanoVLM's is -200."""
    assert token_ids("1,-200,2") == token_ids("1 -200 2") == [1, -200, 2]
    with pytest.raises(UsageError, match="`--tokens 1,--2` is no list of token ids"):
        token_ids("1,--2")
