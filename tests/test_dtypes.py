"""Every spelling of an element type."""

import pytest
import torch
from safetensors import torch as safetensors_torch

from dovetail.dtypes import DTYPES, dtype_of
from dovetail.errors import FormatError


def test_every_dtype_that_safetensors_writes_is_known_with_its_size() -> None:
    for name, theirs in safetensors_torch._TYPES.items():
        ours = dtype_of(name)
        assert ours.torch == str(theirs).removeprefix("torch.")
        assert ours.bits == theirs.itemsize * 8 or name in ("F4",)


def test_spellings_meet() -> None:
    for spelling in ("BF16", "bfloat16", "torch.bfloat16", "BFloat16Storage"):
        assert dtype_of(spelling) is DTYPES["BF16"]


def test_torch_knows_every_torch_spelling_that_we_map() -> None:
    unknown = [
        d.torch for d in DTYPES.values() if not hasattr(torch, d.torch) and not d.torch.startswith("float6")
    ]
    assert unknown == []


def test_an_unknown_spelling_says_what_is_known() -> None:
    with pytest.raises(FormatError) as error:
        dtype_of("F12")
    assert str(error.value).startswith("unknown dtype `F12`\n\nhint: known dtypes: BOOL, F4, ")
