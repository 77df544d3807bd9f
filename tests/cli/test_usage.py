"""Wrong usage: one message each, word for word, on stderr, and nothing on stdout."""

import json
from pathlib import Path

import pytest

from commands import dovetail
from dovetail.cli import VERBS
from dovetail.families import built_in

FAMILIES = ", ".join(family.id for family in built_in())
LAYOUTS = "hf, hf-4.52, hf-5.5.4, hf-base, hf-5.5.3-bug, litgpt, litgpt-legacy, litgpt-fork"
DTYPES = "bfloat16, float16, float32, float64"
# the words after `dovetail`, the exit code, the message
WRONG: dict[str, tuple[str, int, str]] = {
    "family": (
        "make qwen_vl OUT",
        2,
        f"no family is called `qwen_vl`\n\nhint: did you mean `qwen2_vl`? known families: {FAMILIES}",
    ),
    "project of a family": (
        "make openvla OUT",
        2,
        f"no family is called `openvla`\n\nhint: did you mean `prismatic`? known families: {FAMILIES}",
    ),
    "asserted family": (
        "validate a --as x",
        2,
        f"no family is called `x`\n\nhint: known families: {FAMILIES}",
    ),
    "layout": (
        "make qwen2_vl OUT --layout vllm",
        2,
        f"family `qwen2_vl` has no layout `vllm`\n\nhint: its layouts: {LAYOUTS}",
    ),
    "asserted layout": (
        "validate a --as qwen2_vl/vllm",
        2,
        f"family `qwen2_vl` has no layout `vllm`\n\nhint: its layouts: {LAYOUTS}",
    ),
    "size": (
        "make qwen2_vl OUT --size 3b",
        2,
        "qwen2_vl has no size `3b`\n\nhint: published sizes: 2b, 7b, 72b",
    ),
    "no assignment": (
        "make qwen2_vl OUT --set text.layers",
        2,
        "`--set text.layers` is not NAME=VALUE\n\nhint: for example --set text.layers=2",
    ),
    "unknown name": (
        "make qwen2_vl OUT --set text.depth=2",
        2,
        "qwen2_vl has no size or setting `text.depth`\n\n"
        "hint: text has layers, vocab, d_model, head_dim, q_heads, kv_heads, d_ff, rope_theta, rope_scaling, "
        "norm_eps, activation, max_positions, use_sliding_window, sliding_window, max_window_layers, layer_types",
    ),
    "unknown part": (
        "make qwen2_vl OUT --set ears=2",
        2,
        "qwen2_vl has no size or setting `ears`\n\n"
        "hint: parts: vision, merger, text, head; settings: vision_start_token, "
        "vision_end_token, image_token, video_token, mrope_section, "
        "min_pixels, max_pixels, image_mean, image_std, resample, rescale_factor, do_resize, do_rescale, do_normalize, "
        "do_center_crop, do_pad, size, crop_size, vision.norm_eps, vision.activation and 9 more",
    ),
    "no number": (
        "make qwen2_vl OUT --set text.layers=two",
        2,
        "text.layers cannot be `two`\n\nhint: a size is a whole number above 0",
    ),
    "nothing": (
        "make qwen2_vl OUT --set text.layers=0",
        2,
        "text.layers cannot be `0`\n\nhint: a size is a whole number above 0",
    ),
    "less than nothing": (
        "make qwen2_vl OUT --set text.layers=-1",
        2,
        "text.layers cannot be `-1`\n\nhint: a size is a whole number above 0",
    ),
    "more tensors than there is memory": (
        "make qwen2 OUT --set text.layers=1000000000000 --sparse",
        2,
        "text.layers cannot be 1,000,000,000,000\n"
        "  expected  at most 1,000,000 tensors of `blocks.{layer}.norm1.weight`\n\nhint: give a smaller number",
    ),
    "a tensor that no file holds": (
        "make qwen2 OUT --set text.vocab=99999999999999999999 --sparse",
        2,
        "`text.embed.weight` cannot have the shape [99999999999999999999, 896]\n"
        "  expected  at most 70,368,744,177,664 elements\n\nhint: see the sizes vocab, d_model",
    ),
    "kind": (
        "make prismatic OUT --set vision=clip",
        2,
        "vision of family `prismatic` is never a `clip`\n\nhint: it is one of: siglip, dinov2",
    ),
    "feature": (
        "make siglip OUT --set vision=siglip+ears",
        2,
        "vision (siglip) is never with `ears`\n\nhint: what may be added to it: pool",
    ),
    "sizes that meet": (
        "make qwen2_vl OUT --set text.d_model=64 --set merger.d_out=32",
        2,
        "text.d_model cannot be 64 and 32\n\nhint: two sizes that meet must be equal",
    ),
    "kind without names": (
        "make prismatic OUT --set projector=linear --layout openvla",
        2,
        "layout openvla has no names for projector = linear\n\n"
        "hint: choose another layout or another kind: `dovetail families` lists them",
    ),
    "dtype": ("make qwen2_vl OUT --dtype int3", 2, f"unknown dtype `int3`\n\nhint: dtypes: {DTYPES}"),
    "dtype of half a byte": (
        "make qwen2_vl OUT --dtype F4 --sparse",
        2,
        f"cannot make values of dtype F4: they share bytes\n\nhint: dtypes: {DTYPES}",
    ),
    "dtype without random values": (
        "make qwen2 OUT --dtype int8 --set text.layers=1 --set text.vocab=7",
        2,
        "cannot make values of dtype I8\n\nhint: dtypes: BF16, F16, F32, F64",
    ),
    "seed": (
        "make qwen2_vl OUT --seed -1",
        2,
        "--seed -1 is no seed\n\nhint: a seed is a whole number from 0 up",
    ),
    "shard size": (
        "make qwen2_vl OUT --max-shard-size 5XB",
        2,
        "`5XB` is no size\n\nhint: for example 5GB or 500MB",
    ),
    "existing output": (
        "make qwen2_vl a --sparse",
        2,
        "`DIR/a` exists\n\nhint: choose another name, or remove it first",
    ),
    "a file in the way": (
        "make qwen2_vl a/file/OUT --sparse",
        1,
        "cannot write `DIR/a/file/OUT`: Not a directory\n\nhint: nothing was written; choose another place",
    ),
    "a place that cannot be written": (
        "make qwen2_vl /proc/OUT --sparse",
        1,
        "cannot write `/proc/OUT`: No such file or directory\n\nhint: nothing was written; choose another place",
    ),
    "a report that cannot be written": (
        "validate a --report /proc/report",
        1,
        "cannot make the folder `/proc/report`: No such file or directory\n\nhint: choose another place",
    ),
    "no checkpoint": (
        "inspect b",
        2,
        "there is no `b`\n\nhint: give a folder, a weights file, an index, a listing or hf://owner/name",
    ),
    "a repository without its scheme": (
        "inspect Qwen/Qwen2-VL-2B-Instruct",
        2,
        "there is no `Qwen/Qwen2-VL-2B-Instruct`\n\n"
        "hint: a repository of the hub is written hf://Qwen/Qwen2-VL-2B-Instruct",
    ),
    "a file that is not there": (
        "inspect a/nothing",
        2,
        "there is no `a/nothing`\n\nhint: give a folder, a weights file, an index, a listing or hf://owner/name",
    ),
    "no weights": (
        "inspect a",
        1,
        "there are no weights in this folder\n  folder  a\n  found   file\n\n"
        "hint: looked for *.safetensors, *.index.json, and *.bin, *.pth, *.pt, *.ckpt",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_usage_says_this(case: str, tmp_path: Path) -> None:
    words, code, message = WRONG[case]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_text("in the way")
    answer = dovetail(*words.split(), cwd=tmp_path)
    assert answer == (code, "", f"error: {message}\n".replace("DIR", str(tmp_path)))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "convrt a b",
            "error: there is no verb `convrt`\n\n"
            f"hint: did you mean `convert`? the verbs: {', '.join(VERBS)}\n",
        ),
        (
            "inspect",
            "error: the following arguments are required: CKPT\n  usage  dovetail inspect CKPT …\n\n"
            "hint: `dovetail inspect --help` says what may be given\n",
        ),
        (
            "inspect a --jsn",
            "error: there is no option `--jsn`\n  usage  dovetail inspect CKPT …\n\n"
            "hint: did you mean `--json`? `dovetail inspect --help` lists all\n",
        ),
        (
            "graft a b",
            "error: the following arguments are required: --config\n"
            "  usage  dovetail graft SRC OUT --config TARGET …\n\n"
            "hint: `dovetail graft --help` says what may be given\n",
        ),
        (
            "inspect a b",
            "error: `b` is one argument too many\n  usage  dovetail inspect CKPT …\n\n"
            "hint: `dovetail inspect --help` says what may be given\n",
        ),
        (
            "--colour inspect a",
            "error: `--colour` is no verb\n\n"
            "hint: options stand behind the verb: dovetail inspect … --colour; `dovetail --help` lists all verbs\n",
        ),
        (
            "make siglip a --seed x",
            "error: argument --seed: invalid int value: 'x'\n  usage  dovetail make FAMILY OUT …\n\n"
            "hint: `dovetail make --help` says what may be given\n",
        ),
        (
            "inspect Qwen",
            "error: there is no `Qwen`\n\nhint: did you mean `Qwen2-VL-2B`? "
            "give a folder, a weights file, an index, a listing or hf://owner/name\n",
        ),
        (
            "make siglip a --dtype bf17",
            "error: unknown dtype `bf17`\n\nhint: dtypes: bfloat16, float16, float32, float64\n",
        ),
        (
            "make qwen2 a --size 0.5b",
            "error: qwen2 has no size `0.5b`\n\nhint: did you mean `qwen2-0.5b`? published sizes: qwen2-0.5b, "
            "qwen2-1.5b, qwen2.5-3b, qwen2-7b, qwen2.5-14b, qwen2.5-32b, qwen2-72b\n",
        ),
    ],
)
def test_words_that_no_verb_takes(words: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "Qwen2-VL-2B").mkdir()
    assert dovetail(*words.split(), cwd=tmp_path) == (2, "", message)


@pytest.mark.parametrize("words", ["", "inspect a"])
def test_an_address_in_the_wrong_place_is_named_without_its_secrets(words: str) -> None:
    answer = dovetail(*words.split(), "https://me:geheim@host/a?signature=geheim")
    assert answer.code == 2
    assert "`https://host/a`" in answer.err
    assert "geheim" not in answer.err


@pytest.mark.parametrize("spelling", ["bf16", "BF16", "fp16", "Half", "torch.bfloat16", "fp32"])
def test_dtypes_may_be_spelled_as_people_spell_them(spelling: str, tmp_path: Path) -> None:
    answer = dovetail("make", "siglip", tmp_path / "it", "--sparse", "--dtype", spelling)
    assert (answer.code, answer.err) == (0, "")


@pytest.mark.parametrize("id", ["Qwen2-VL", "qwen2_vl", "QWEN2.VL"])
def test_a_family_may_be_spelled_otherwise(id: str, tmp_path: Path) -> None:
    assert dovetail("make", id, tmp_path / "it", "--sparse").code == 0


@pytest.mark.parametrize(
    "words", ["inspect nothing --json", "inspct --json", "validate --json", "make x OUT --jsn --json"]
)
def test_with_json_an_error_is_an_object_too(words: str, tmp_path: Path) -> None:
    """What goes wrong before a report can be made is on stdout for programs and on stderr for people."""
    answer = dovetail(*words.split(), cwd=tmp_path)
    (error,) = json.loads(answer.out).values()
    assert list(error) == ["type", "message", "details", "hint", "exit_code"]
    assert (answer.code, error["exit_code"]) == (2, 2)
    assert answer.err.startswith(f"error: {error['message']}\n")
    assert answer.err.endswith(f"hint: {error['hint']}\n")
