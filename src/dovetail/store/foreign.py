"""Formats that dovetail does not read: what each is, who reads it, and the command that makes it readable.

A file is told by its first bytes or by what its zip directory lists, a folder by the names in it. What was
exported for one engine has no way back, and the hint says to take what it was made from.
"""

import os
import re
from collections.abc import Collection
from typing import NamedTuple

from dovetail.errors import FormatError

_EXPORTED = "it was exported for that; give the checkpoint that it was made from"
_OR_ITS_SOURCE = ", or take the checkpoint that it was made from"
_NUMPY = "from safetensors.numpy import save_file"


def _python(code: str, out: str) -> str:
    return f'python -c "from sys import argv; {code}" {{path}} {out}'


class Foreign(NamedTuple):
    """One format. `command` makes a readable file of one at {path}, and `note` is what to know of that.

    `names` are how files of it are called, in a folder; `heads` are bytes that stand at a place of the file,
    `entries` what the directory of a zip file lists.
    """

    what: str
    reader: str
    names: str
    command: str = ""
    note: str = _EXPORTED
    heads: tuple[tuple[int, bytes], ...] = ()
    entries: tuple[bytes, ...] = ()

    def refusal(self, path: str, *, is_folder: bool = False, more: str = "") -> FormatError:
        """The error: what it is, who reads it, and how it can be read here."""
        from shlex import quote

        is_remote = "://" in path
        here = os.path.basename(path.rstrip("/")) if is_remote else path
        command = self.command.replace("{path}", quote(here))
        begin = "download it and make it readable" if is_remote else "make it readable"
        hint = f"{begin}: `{command}`{self.note}{more}" if command else self.note
        place = {"folder" if is_folder else "file": path}
        return FormatError(f"this is {self.what}, which {self.reader} reads", hint=hint, **place)


TORCHSCRIPT = Foreign(
    "a TorchScript program",
    "torch.jit",
    r".*\.torchscript",
    _python("import torch; torch.save(torch.jit.load(argv[1], 'cpu').state_dict(), argv[2])", "OUT.pth"),
    "",
    entries=(b"/constants.pkl", b"/code/"),
)
EXPORTED_PROGRAM = Foreign(
    "an exported program (.pt2)",
    "torch.export",
    r".*\.pt2",
    _python("import torch; torch.save(torch.export.load(argv[1]).state_dict, argv[2])", "OUT.pth"),
    "",
    entries=(b"/models/model.json", b"/archive_format", b"serialized_exported_program.json"),
)
NUMPY_ARCHIVE = Foreign(
    "an archive of numpy (.npz)",
    "numpy",
    r".*\.npz",
    _python(f"import numpy; {_NUMPY}; save_file(dict(numpy.load(argv[1])), argv[2])", "OUT.safetensors"),
    "",
)
NUMPY_ARRAY = Foreign(
    "one array of numpy (.npy)",
    "numpy",
    r".*\.npy",
    _python(
        f"import numpy; {_NUMPY}; save_file(dict(array=numpy.load(argv[1])), argv[2])", "OUT.safetensors"
    ),
    "",
    heads=((0, b"\x93NUMPY"),),
)
GGUF = Foreign(
    "a GGUF file",
    "llama.cpp (Ollama, LM Studio)",
    r".*\.gguf",
    _python(
        "import torch; from os.path import split; from transformers import AutoModelForCausalLM as A; "
        "at, name = split(argv[1]); "
        "torch.save(A.from_pretrained(at or '.', gguf_file=name).state_dict(), argv[2])",
        "OUT.pth",
    ),
    f" (transformers unpacks it to floats){_OR_ITS_SOURCE}",
    heads=((0, b"GGUF"),),
)
HDF5 = Foreign(
    "an HDF5 file",
    "Keras or h5py",
    r".*\.(h5|hdf5)",
    _python(
        f"import h5py; {_NUMPY}; found = dict(); h5py.File(argv[1]).visititems(lambda name, one: "
        "found.update([(name.replace('/', '.'), one[()])]) if hasattr(one, 'dtype') else None); "
        "save_file(found, argv[2])",
        "OUT.safetensors",
    ),
    "",
    heads=((0, b"\x89HDF\r\n"),),
)
ONNX = Foreign(
    "an ONNX graph",
    "onnxruntime",
    r".*\.onnx",
    _python(
        f"import onnx; from onnx.numpy_helper import to_array; {_NUMPY}; "
        "save_file(dict((one.name, to_array(one)) for one in onnx.load(argv[1]).graph.initializer), argv[2])",
        "OUT.safetensors",
    ),
    f" (under the names of the graph){_OR_ITS_SOURCE}",
)
FLAX = Foreign(
    "a Flax checkpoint",
    "Flax (JAX)",
    r".*\.msgpack",
    _python(
        "from flax.serialization import msgpack_restore; from flax.traverse_util import flatten_dict; "
        f"{_NUMPY}; tree = msgpack_restore(open(argv[1], 'rb').read()); "
        "save_file(flatten_dict(tree, sep='.'), argv[2])",
        "OUT.safetensors",
    ),
    "",
)
DISTRIBUTED = Foreign(
    "a checkpoint of torch.distributed in parts (FSDP, torchtitan, Megatron, NeMo)",
    "torch.distributed.checkpoint",
    r".*\.distcp",
    "python -m torch.distributed.checkpoint.format_utils dcp_to_torch {path} OUT.pth",
    "",
)
ORBAX = Foreign(
    "an Orbax checkpoint of JAX",
    "orbax-checkpoint (openpi, MaxText, big_vision)",
    r"(.*/)?(_CHECKPOINT_METADATA|_METADATA|manifest\.ocdbt)",
    _python(
        "import numpy; from jax.tree_util import keystr, tree_flatten_with_path as flat; "
        f"from orbax.checkpoint import PyTreeCheckpointer as P; from os.path import abspath; {_NUMPY}; "
        "save_file(dict((keystr(k, simple=True, separator='.'), numpy.asarray(v)) "
        "for k, v in flat(P().restore(abspath(argv[1])))[0]), argv[2])",
        "OUT.safetensors",
    ),
    " (the arrays as JAX has them), or convert it with the tool of its project: openpi has "
    "examples/convert_jax_model_to_pytorch.py",
)
ZERO = Foreign(
    "a checkpoint of DeepSpeed (ZeRO), dealt out to its ranks",
    "DeepSpeed",
    r"(.*/)?((\w+_)?zero_pp_rank_\d+_mp_rank_\d+_(model|optim)_states|mp_rank_\d+_model_states)\.pt",
    "python -m deepspeed.utils.zero_to_fp32 {path} OUT --safe_serialization",
    "",
)
OPENVINO = Foreign("a model of OpenVINO", "OpenVINO", r"(.*/)?openvino_[\w-]*model\.(xml|bin)")
_OTHERS = (
    Foreign("a TFLite model", "LiteRT", r".*\.(tflite|task)", heads=((4, b"TFL3"),)),
    Foreign("a Core ML model", "Core ML", r".*\.(mlmodel|mlpackage/.*)"),
    Foreign("a TensorRT engine", "TensorRT", r".*\.(engine|plan|trt)"),
    Foreign("a model for Rockchip's NPU", "RKLLM", r".*\.(rkllm|rknn)"),
    Foreign(
        "a TensorFlow checkpoint",
        "TensorFlow",
        r".*\.(ckpt(-\d+)?\.(index|data-\d+-of-\d+)|pb)",
        note="read it with tf.train.load_checkpoint and write its arrays with safetensors.numpy.save_file",
    ),
)
# In the order in which a folder is asked: what is made of many files before single ones that may lie beside.
FORMATS = (
    *(ZERO, DISTRIBUTED, ORBAX, GGUF, ONNX, OPENVINO, EXPORTED_PROGRAM, TORCHSCRIPT),
    *(NUMPY_ARCHIVE, HDF5, FLAX, *_OTHERS, NUMPY_ARRAY),
)
_ZIPPED = (EXPORTED_PROGRAM, TORCHSCRIPT)
# An ONNX model begins with its version and the name of what made it (onnx.proto: fields 1 and 2).
_ONNX_HEAD = rb"\x08[\x03-\x20]\x12[\x03-\x40][ -~]{3}"
_STEP = r"global_step\d+"


def file_refusal(head: bytes, path: str) -> FormatError | None:
    """What to say of a file that begins like this, None unless it is of one of the formats."""
    found = _of_file(head, path)
    if found is DISTRIBUTED:
        return found.refusal(os.path.dirname(path) or ".", is_folder=True)
    return found.refusal(path) if found else None


def _of_file(head: bytes, name: str) -> Foreign | None:
    if name.endswith(".distcp"):
        return DISTRIBUTED
    if re.match(_ONNX_HEAD, head) or (name.endswith(".onnx") and head[:1] == b"\x08"):
        return ONNX
    if head.lstrip().startswith(b"<?xml") and b"<net " in head:
        return OPENVINO
    return next((one for one in FORMATS for at, mark in one.heads if head.startswith(mark, at)), None)


def of_zip(directory: bytes, count: int) -> Foreign | None:
    """The format of a zip file by the names in its directory."""
    for one in _ZIPPED:
        if any(mark in directory for mark in one.entries):
            return one
    is_numpy = count and directory.count(b".npy") >= count and b"data.pkl" not in directory
    return NUMPY_ARCHIVE if is_numpy else None


def is_foreign_weight(name: str) -> bool:
    """Whether a file that ends as weights do is one of another format."""
    return name.endswith((".pt", ".bin", ".xml")) and any(
        re.fullmatch(one.names, name) for one in (ZERO, OPENVINO)
    )


def folder_refusal(names: Collection[str], path: str) -> FormatError | None:
    """What to say of a folder without weights: the first format that some file in it is of."""
    for one in FORMATS:
        pattern = re.compile(one.names)
        found = [name for name in names if pattern.fullmatch(name)]
        if not found:
            continue
        if one is ZERO:
            return _zero_refusal(found, path)
        if one is DISTRIBUTED or one is ORBAX:
            inner = min(
                (os.path.dirname(name) for name in found), key=lambda folder: folder.count("/") + bool(folder)
            )
            return one.refusal(os.path.join(path, inner) if inner else path, is_folder=True)
        return one.refusal(os.path.join(path, found[0]))
    return None


def _zero_refusal(found: list[str], path: str) -> FormatError:
    """The folder that its script wants is the one above `global_step…`."""
    is_above = any("/" in name for name in found)
    is_step = re.fullmatch(_STEP, os.path.basename(os.path.normpath(path)))
    root = path if is_above or not is_step else os.path.dirname(os.path.normpath(path)) or "."
    whole = [name for name in found if os.path.basename(name).startswith("mp_rank_")]
    more = ""
    if len(whole) == 1 and not any("zero_pp_rank" in name and "model_states" in name for name in found):
        from shlex import quote

        more = f"; or give {quote(os.path.join(path, whole[0]))}, which has the weights in 16 bits"
    return ZERO.refusal(root, is_folder=True, more=more)
