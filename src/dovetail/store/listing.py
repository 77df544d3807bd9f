"""Names without bytes: a header listing, or an index.

A listing is JSON, `{name: [dtype, shape]}`; `{name: {"dtype": …, "shape": …}}` and `{name: shape}` are
read as well, and so is one more level, `{file: {name: …}}`, for the files of a folder.
"""

from typing import Any

from dovetail.dtypes import dtype_of
from dovetail.errors import FormatError
from dovetail.store.safetensors.read import is_shape, shown
from dovetail.store.store import Entry, Shard


def read_listing(values: Any, path: str) -> Shard:
    """The tensors that a listing names.

    Raises:
        FormatError: an entry is neither of the forms.
    """
    if not isinstance(values, dict):
        raise FormatError(
            "not a header listing: the JSON is no object", file=path, expected="{name: [dtype, shape]}"
        )
    entries: dict[str, Entry] = {}
    for name, value in values.items():
        if _is_file(value):
            entries |= {f"{name}/{inner}": _entry(inner, one, path) for inner, one in value.items()}
        else:
            entries[name] = _entry(name, value, path)
    return Shard(entries=entries)


def _is_file(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and "shape" not in value
        and all(isinstance(v, list | dict) for v in value.values())
    )


def _entry(name: str, value: Any, path: str) -> Entry:
    dtype, shape = "", value
    if isinstance(value, dict):
        dtype, shape = value.get("dtype", ""), value.get("shape")
    elif isinstance(value, list) and len(value) == 2 and isinstance(value[0], str):
        dtype, shape = value
    if not is_shape(shape):
        raise FormatError(
            f"not a header listing: `{name}` is {shown(value)}",
            file=path,
            expected="[dtype, shape]",
            hint="give the weights, or the folder that this file lies in",
        )
    if not isinstance(dtype, str):
        raise FormatError(f"not a header listing: the dtype of `{name}` is {shown(dtype)}", file=path)
    try:
        spelled = dtype_of(dtype).name if dtype else ""
    except FormatError as error:
        raise FormatError(
            f"not a header listing: {error.message}", file=path, tensor=name, hint=error.hint
        ) from None
    return Entry(spelled, tuple(shape), -1, -1, -1)


def read_weight_map(values: Any, path: str) -> dict[str, str]:
    """The `weight_map` of an index: name -> file.

    Raises:
        FormatError: there is none, or it is not a map of strings.
    """
    weight_map = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(weight_map, dict):
        raise FormatError("the index has no weight_map", file=path, expected='{"weight_map": {name: file}}')
    for name, file in weight_map.items():
        if not isinstance(file, str) or not file:
            raise FormatError(
                f"the index gives `{name}` the file {shown(file)}", file=path, expected="a file name"
            )
    if not weight_map:
        raise FormatError(
            "the weight_map of the index is empty",
            file=path,
            hint="this is a placeholder: whoever published it did not upload the weights",
        )
    return weight_map
