"""The calls with which torch rebuilds a tensor, each answered by a checked `TensorRecord`.

Their arguments are those of `torch/_utils.py` and `torch/_tensor.py` (pytorch@v2.13.0). A view is
checked here against the size that its storage claims; whether the storage is really there and really
that long is checked by the reader of the file, which has it.
"""

from typing import Any, NoReturn

from dovetail.dtypes import DTYPES
from dovetail.errors import FormatError, listed
from dovetail.store.torchfile.pickle.pickled import (
    Arguments,
    Call,
    Global,
    Storage,
    TensorRecord,
    expect,
    shown,
    type_name,
    unsafe,
)

_MAX_SIZE = 1 << 48
_MAX_REPEATED = 1 << 26
_MAX_AXES = 64

# Element types of less than a byte are left out: torch counts them in pairs, safetensors one by one.
_DTYPES = {dtype.torch: dtype.name for dtype in DTYPES.values() if dtype.bits >= 8}
_STORAGES = {dtype.storage: dtype.name for dtype in DTYPES.values() if dtype.storage}
_STORAGE_MODULES = ("torch", "torch.cuda")
_DEQUANTISE = "save it again after .dequantize(), or as .int_repr() with its scales"
_QUANTISED = ("QInt8Storage", "QUInt8Storage", "QInt32Storage", "QUInt4x2Storage", "QUInt2x4Storage")


def storage_of(identity: Any) -> Storage:
    """The storage that a persistent id names: `("storage", type, key, location, elements)`.

    torch writes the key as text, LitGPT's converters as a number (litgpt@0.5.13 `utils.py:incremental_save`);
    torch.load looks for `data/KEY` either way.

    Raises:
        FormatError: the id is anything else, or the type is none of torch's.
    """
    if type(identity) is not tuple or len(identity) != 5 or identity[0] != "storage":
        expected = "('storage', type, key, location, elements)"
        raise FormatError("a persistent id is not one of torch's", expected=expected)
    _, kind, key, location, elements = identity
    if type(key) is int and 0 <= key < _MAX_SIZE:
        key = str(key)
    if type(key) is not str or type(location) is not str:
        raise FormatError(f"a storage has the key {shown(key)} and the location {shown(location)}")
    if type(elements) is not int or not 0 <= elements < _MAX_SIZE:
        expected = f"0 to {_MAX_SIZE - 1:,}"
        raise FormatError(f"storage {shown(key)} has {shown(elements)} elements", expected=expected)
    return Storage(key, _storage_dtype(kind), elements)


def _storage_dtype(kind: Any) -> str:
    """The element type of a storage class; bytes for the untyped one."""
    if type(kind) is Global:
        if kind == ("torch.storage", "UntypedStorage"):
            return "U8"
        if kind.module in _STORAGE_MODULES and kind.name in _QUANTISED:
            raise FormatError(f"a storage holds quantised values (`{kind.path}`)", hint=_DEQUANTISE)
        if kind.module in _STORAGE_MODULES and kind.name in _STORAGES:
            return _STORAGES[kind.name]
    raise FormatError(f"a storage is of the type `{type_name(kind)}`", expected="one of torch's")


def is_torch_value(name: Global) -> bool:
    """Whether it is an element type or storage class of torch, which a pickle may name freely."""
    if name.module == "torch.storage":
        return name.name == "UntypedStorage"
    return name.module in _STORAGE_MODULES and (name.name in _DTYPES or name.name in _STORAGES)


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, dtype: str | None = None) -> TensorRecord:
    """A checked view; its elements are those of the storage unless `dtype` says otherwise."""
    if type(storage) is not Storage:
        raise FormatError(f"the tensor's storage is a `{type_name(storage)}`", expected="a persistent id")
    if type(offset) is not int or not 0 <= offset < _MAX_SIZE:
        raise FormatError(f"the tensor begins at element {shown(offset)}", expected=f"0 to {_MAX_SIZE - 1:,}")
    count = _check_sizes(shape, "sizes")
    _check_sizes(strides, "strides", axes=len(shape))
    dtype = dtype or storage.dtype
    available = storage.bytes * 8 // DTYPES[dtype].bits
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if count and last >= available:
        raise FormatError(
            "the tensor runs past the end of its storage",
            expected=f"at most {available:,} elements of {dtype} in storage {shown(storage.key)}",
            found=f"element {last:,} of shape {shown(shape)}, strides {shown(strides)}, offset {offset:,}",
        )
    if count > max(available, _MAX_REPEATED):
        expected = f"at most {_MAX_REPEATED:,} from a storage of {available:,}"
        raise FormatError(f"the tensor repeats its storage to {count:,} elements", expected=expected)
    return TensorRecord(storage, dtype, offset, shape, strides)


def _check_sizes(sizes: Any, what: str, axes: int | None = None) -> int:
    """Refuses what is no shape; gives the product."""
    if type(sizes) is not tuple or len(sizes) > _MAX_AXES or (axes is not None and len(sizes) != axes):
        found = f"{len(sizes)} numbers" if type(sizes) is tuple else f"a `{type_name(sizes)}`"
        expected = f"a tuple of {'at most ' + str(_MAX_AXES) if axes is None else axes}"
        raise FormatError(f"the tensor's {what} are {found}", expected=expected)
    product = 1
    for size in sizes:
        if type(size) is not int or not 0 <= size < _MAX_SIZE:
            expected = f"numbers from 0 to {_MAX_SIZE - 1:,}"
            raise FormatError(f"the tensor's {what} are {shown(sizes)}", expected=expected)
        product *= size
    return product


def _dtype(value: Any) -> str:
    """The element type that `torch.bfloat16` and its like name."""
    if type(value) is Global and value.module == "torch" and value.name in _DTYPES:
        return _DTYPES[value.name]
    expected = listed((f"torch.{name}" for name in _DTYPES), limit=len(_DTYPES))
    raise FormatError(f"the tensor's element type is `{type_name(value)}`", expected=expected)


def _check_bits(metadata: Any) -> None:
    """Refuses a lazily conjugated or negated tensor: its bytes are not its values."""
    if metadata is not None and (type(metadata) is not dict or any(metadata.values())):
        hint = "save it again after .resolve_conj() and .resolve_neg()"
        raise FormatError("the tensor's bytes are not its values: it is conjugated or negated", hint=hint)


def _rebuild_tensor(arguments: Arguments) -> TensorRecord:
    """`(storage, offset, shape, strides)`."""
    expect(arguments, 4)
    return _tensor(*arguments)


def _rebuild_tensor_v2(arguments: Arguments) -> TensorRecord:
    """`(storage, offset, shape, strides, requires_grad, hooks[, metadata])`."""
    expect(arguments, 6, 7)
    _check_bits(arguments[6] if len(arguments) == 7 else None)
    return _tensor(*arguments[:4])


def _rebuild_tensor_v3(arguments: Arguments) -> TensorRecord:
    """`(storage, offset, shape, strides, requires_grad, hooks, dtype[, metadata])`."""
    expect(arguments, 7, 8)
    _check_bits(arguments[7] if len(arguments) == 8 else None)
    storage, offset, shape, strides = arguments[:4]
    return _tensor(storage, offset, shape, strides, _dtype(arguments[6]))


def _rebuild_parameter(arguments: Arguments) -> TensorRecord:
    """`(tensor, requires_grad, hooks[, state])`; the state is Python attributes, not weights."""
    expect(arguments, 1, 2, 3, 4)
    return _the_tensor(arguments[0])


def _rebuild_on_device(arguments: Arguments) -> TensorRecord:
    """`(tensor, dtype, device, requires_grad)`: a tensor that was copied from an accelerator to be saved."""
    expect(arguments, 4)
    tensor = _the_tensor(arguments[0])
    if _dtype(arguments[1]) != tensor.dtype:
        raise FormatError("the tensor is saved in one element type and loaded in another")
    return tensor


def _rebuild_meta(arguments: Arguments) -> TensorRecord:
    """`(dtype, shape, strides, requires_grad)`: a tensor without values."""
    expect(arguments, 4)
    dtype, shape, strides = _dtype(arguments[0]), *arguments[1:3]
    count = _check_sizes(shape, "sizes")
    _check_sizes(strides, "strides", axes=len(shape))
    if count >= _MAX_SIZE:
        expected = f"at most {_MAX_SIZE - 1:,} elements"
        raise FormatError(f"the tensor's sizes are {shown(shape)}", expected=expected)
    return TensorRecord(None, dtype, 0, shape, strides)


def _rebuild_from_type(arguments: Arguments) -> TensorRecord:
    """`(function, class, arguments, state)`: a subclass of Tensor; its bytes are those of the tensor."""
    expect(arguments, 4)
    function, kind, inner, _ = arguments
    if type(function) is not Global or type(kind) is not Global or type(inner) is not tuple:
        raise FormatError(f"a tensor subclass is made by a `{type_name(function)}`")
    rule = TENSOR_CALLS.get((function.module, function.name))
    if rule is None or rule is _rebuild_from_type:
        raise unsafe(function)
    return _the_tensor(rule(inner))


def _the_tensor(value: Any) -> TensorRecord:
    if type(value) is not TensorRecord:
        raise FormatError(f"a `{type_name(value)}` stands where a tensor belongs")
    return value


def _refused(kind: str, hint: str) -> Call:
    """A tensor that is more than a view of a storage."""

    def refuse(arguments: Arguments) -> NoReturn:
        raise FormatError(f"a {kind} tensor cannot be read", hint=hint)

    return refuse


_sparse = _refused("sparse", "save it again after .to_dense()")
_quantised = _refused("quantised", _DEQUANTISE)
_nested = _refused("nested", "save its parts one by one, or after .to_padded_tensor(0)")
_wrapped = _refused("wrapped", "save the plain tensors that it is made of, e.g. .full_tensor() of a DTensor")
_inline = _refused("device", "its values lie inside the pickle; move it to the CPU and save it again")

_TORCH_UTILS: dict[str, Call] = {
    "_rebuild_tensor": _rebuild_tensor,
    "_rebuild_tensor_v2": _rebuild_tensor_v2,
    "_rebuild_tensor_v3": _rebuild_tensor_v3,
    "_rebuild_parameter": _rebuild_parameter,
    "_rebuild_parameter_with_state": _rebuild_parameter,
    "_rebuild_meta_tensor_no_storage": _rebuild_meta,
    "_rebuild_device_tensor_from_cpu_tensor": _rebuild_on_device,
    "_rebuild_device_tensor_from_numpy": _inline,
    "_rebuild_xla_tensor": _inline,
    "_rebuild_sparse_tensor": _sparse,
    "_rebuild_sparse_csr_tensor": _sparse,
    "_rebuild_qtensor": _quantised,
    "_rebuild_nested_tensor": _nested,
    "_rebuild_wrapper_subclass": _wrapped,
}

TENSOR_CALLS = {("torch._utils", name): rule for name, rule in _TORCH_UTILS.items()} | {
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch.tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    ("torch.nn.parameter", "Parameter"): _rebuild_parameter,
}
