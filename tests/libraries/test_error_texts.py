"""The guide to errors quotes what torch and safetensors say, so that a search for it finds the page."""

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "errors.md").read_text(encoding="utf-8")


def quoted(message: str, *phrases: str) -> bool:
    """Whether both the message and the guide have all phrases."""
    return all(phrase in message and phrase in GUIDE for phrase in phrases)


def test_torch_says_of_another_size_what_the_guide_quotes() -> None:
    model = nn.ModuleDict({"resampler": nn.Linear(2, 3)})
    state = {"resampler.weight": torch.zeros(4, 2), "resampler.bias": torch.zeros(3)}
    with pytest.raises(RuntimeError) as error:
        model.load_state_dict(state)
    assert quoted(
        str(error.value),
        "size mismatch for resampler.",
        "size mismatch for ",
        ": copying a param with shape torch.Size([",
        "]) from checkpoint, the shape in current model is torch.Size([",
        "Error(s) in loading state_dict for ",
    )


def test_torch_says_of_other_names_what_the_guide_quotes() -> None:
    with pytest.raises(RuntimeError) as error:
        nn.Linear(2, 3).load_state_dict({"module.weight": torch.zeros(3, 2)})
    assert quoted(str(error.value), "Missing key(s) in state_dict: ", "Unexpected key(s) in")


def test_torch_says_of_a_mask_cut_on_one_side_what_the_guide_quotes() -> None:
    zero = torch.zeros(())
    with pytest.raises(RuntimeError) as error:
        zero.expand(1, 8, 1490, 1490) + zero.expand(1, 1, 1490, 1541)
    assert quoted(
        str(error.value),
        "The size of tensor a (1490) must match the size of tensor b (1541) at non-singleton dimension 3",
    )


@pytest.mark.parametrize(
    ("content", "phrase"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "header too large"),
        (
            b'\x38\0\0\0\0\0\0\0{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}      ',
            "incomplete metadata",
        ),
    ],
)
def test_safetensors_says_of_broken_files_what_the_guide_quotes(
    content: bytes, phrase: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(SafetensorError) as error, safe_open(path, "np"):
        pass
    assert quoted(str(error.value), "Error while deserializing header: ", phrase)
