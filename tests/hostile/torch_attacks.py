"""Hostile torch files: one for each way to attack the reader, put together by hand."""

import io
import os
import pickle
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dovetail.store.torchfile.write import write_torch
from dovetail.store.write.tensor_data import TensorData

SENTINEL = "dovetail-sentinel"
COMMAND = f"touch {SENTINEL}"
CODE = f"__import__('pathlib').Path({SENTINEL!r}).touch()"


# Pickles, put together by hand


def text(value: str) -> bytes:
    """The opcode that pushes a text; the others likewise."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(module: str, attribute: str, *arguments: bytes) -> bytes:
    return name(module, attribute) + b"(" + b"".join(arguments) + b"tR"


def pickled(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


class Runs:
    """What pickles itself as a call of anything."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.reduced


def runs(function: Callable[..., Any], *arguments: Any, protocol: int = 2) -> bytes:
    return pickle.dumps({"model": Runs(function, *arguments)}, protocol=protocol)


CODE = f"__import__({chr(39)}pathlib{chr(39)}).Path({SENTINEL!r}).touch()"
ARGUMENT = b"(" + text(COMMAND) + b"t"

CALLS = {
    "os.system": pickled(call("os", "system", text(COMMAND))),
    "os.system as reduce": runs(os.system, COMMAND),
    "os.system in protocol 0": runs(os.system, COMMAND, protocol=0),
    "os.system in protocol 4": runs(os.system, COMMAND, protocol=4),
    "os.system by STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + ARGUMENT + b"R.",
    "os.system by INST": pickled(b"(" + text(COMMAND) + b"ios\nsystem\n"),
    "os.system by OBJ": pickled(b"(" + name("os", "system") + text(COMMAND) + b"o"),
    "os.system by NEWOBJ": pickled(name("os", "system") + ARGUMENT + b"\x81"),
    "os.system by NEWOBJ_EX": b"\x80\x04" + name("os", "system") + ARGUMENT + b"}\x92.",
    "os.system through the memo": pickled(name("os", "system") + b"q\x000h\x00" + ARGUMENT + b"R"),
    "os.system among tensors": pickled(b"}(" + text("a.weight") + call("os", "system", text(COMMAND)) + b"u"),
    "posix.system": pickled(call("posix", "system", text(COMMAND))),
    "nt.system": pickled(call("nt", "system", text(COMMAND))),
    "subprocess.Popen": pickled(call("subprocess", "Popen", text(COMMAND))),
    "commands.getoutput of Python 2": pickled(call("commands", "getoutput", text(COMMAND))),
    "builtins.eval": runs(eval, CODE),
    "builtins.exec": runs(exec, CODE),
    "builtins.eval in protocol 4": runs(eval, CODE, protocol=4),
    "__builtin__.eval": pickled(call("__builtin__", "eval", text(CODE))),
    "builtins.getattr": pickled(call("builtins", "getattr", name("os", "environ"), text("clear"))),
    "builtins.__import__": pickled(call("builtins", "__import__", text("os"))),
    "builtins.open": pickled(call("builtins", "open", text(SENTINEL), text("w"))),
    "builtins.object.__getattribute__": b"\x80\x04\x8c\x08builtins\x8c\x17object.__getattribute__\x93)R.",
    "runpy": pickled(call("runpy", "run_path", text("x.py"))),
    "pickle.loads": pickled(call("pickle", "loads", text("x"))),
    "torch.load": pickled(call("torch.serialization", "load", text("x.pth"))),
    "torch.storage._load_from_bytes": pickled(call("torch.storage", "_load_from_bytes", b"C\1x")),
    "torch.hub.load": pickled(call("torch.hub", "load", text("evil/repository"), text("model"))),
    "numpy runstring": pickled(call("numpy.testing._private.utils", "runstring", text(CODE), b"}")),
    "a whole model": pickled(name("torch.nn.modules.linear", "Linear") + b")\x81}b"),
    "a function of somebody": pickled(call("somebody.tools", "run", text(COMMAND))),
    "a class of somebody with two arguments": pickled(call("somebody.tools", "Runner", text("a"), text("b"))),
    "a class of somebody with a list": pickled(call("somebody.tools", "Runner", b"]")),
    "a class of Python": pickled(name("ctypes", "CDLL") + ARGUMENT + b"\x81"),
    "copyreg._reconstructor of Python's": pickled(
        call("copy_reg", "_reconstructor", name("subprocess", "Popen"), name("__builtin__", "object"), b"N")
    ),
    "setting attributes of a module": pickled(name("os", "environ") + b"}" + text("a") + b"K\1sb"),
    "extension code of one byte": pickled(b"\x82\x05"),
    "extension code of two bytes": pickled(b"\x83\x05\x01"),
    "extension code of four bytes": pickled(b"\x84\x05\x00\x00\x01"),
    "a call inside a persistent id": pickled(call("os", "system", text(COMMAND)) + b"Q"),
    "a call as the type of a storage": pickled(
        b"(" + text("storage") + call("os", "system", text(COMMAND)) + text("0") + text("cpu") + b"K\1tQ"
    ),
    "a call as the metadata of a tensor": pickled(
        name("torch._utils", "_rebuild_tensor_v2") + b"(" + call("os", "system", text(COMMAND)) + b"tR"
    ),
    "a call in a tensor subclass": pickled(
        call(
            "torch._tensor",
            "_rebuild_from_type_v2",
            name("os", "system"),
            name("os", "system"),
            ARGUMENT,
            b"N",
        )
    ),
}

FLOAT64 = call("numpy", "dtype", text("f8"), b"\x89", b"\x88")
EMPTY_ARRAY = call("numpy._core.multiarray", "_reconstruct", name("numpy", "ndarray"), b"K\0\x85", b"C\1b")

MALFORMED = {
    "nothing": b"",
    "no STOP": b"\x80\x02}",
    "cut off inside a text": b"\x80\x02X\x10\x00\x00\x00abc",
    "cut off inside a number": b"\x80\x02J\x01\x02",
    "cut off inside a line": b"\x80\x02cos",
    "bytes after STOP": pickled(b"N") + b"N.",
    "two values at STOP": pickled(b"NN"),
    "an open MARK at STOP": pickled(b"(N"),
    "no such opcode": pickled(b"\xff"),
    "protocol 6": b"\x80\x06N.",
    "pop from an empty stack": pickled(b"a"),
    "tuple of an empty stack": pickled(b"\x86"),
    "duplicate of an empty stack": pickled(b"2"),
    "no MARK": pickled(b"t"),
    "recalls what was not stored": pickled(b"j\xff\xff\xff\xff"),
    "recalls by a word": pickled(b"gfirst\n"),
    "a frame past the end": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xffN.",
    "a text of 8 EiB": pickled(b"\x8d" + b"\xff" * 7 + b"\x7f"),
    "bytes of 16 EiB": pickled(b"\x8e" + b"\xff" * 8),
    "a bytearray of 16 EiB": pickled(b"\x96" + b"\xff" * 8),
    "an integer of 2 GiB": pickled(b"\x8b\xff\xff\xff\x7f"),
    "an integer of letters": pickled(b"Iabc\n"),
    "an integer of 601 digits": pickled(b"I" + b"1" * 601 + b"\n"),
    "a number of letters": pickled(b"Fabc\n"),
    "a text that is not UTF-8": pickled(b"X\x02\x00\x00\x00\xff\xfe"),
    "half a surrogate pair": pickled(b"V\\ud800\n"),
    "an escape in a text of Python 2": pickled(b"S'\\x41'\n"),
    "a name with a line break": b"\x80\x04\x8c\x02os\x8c\x09a\nb; rm -\x93.",
    "a name of 5000 letters": pickled(name("a" * 5000, "b")),
    "a name that is a number": pickled(b"K\1K\2\x93"),
    "1001 open MARKs": pickled(b"(" * 1001),
    "items of a list": pickled(b"]K\1K\2s"),
    "elements of a dict": pickled(b"}K\1a"),
    "members of a dict": pickled(b"}(K\1\x90"),
    "a key without a value": pickled(b"}(K\1u"),
    "a list as a key": pickled(b"}]Ns"),
    "a deep tuple as a key": pickled(b"})" + b"\x85" * 100_000 + b"Ns"),
    "an integer of 600 digits as a key": pickled(b"}I" + b"1" * 600 + b"\nNs"),
    "fields of a list": pickled(b"]}b"),
    "fields of a state dict": pickled(b"}}" + text("weight") + b"Nsb"),
    "a call of a list": pickled(b"])R"),
    "a call of a call": pickled(call("somebody.tools", "Colour", b"K\1") + b")R"),
    "a call with a list": pickled(name("builtins", "list") + b"]R"),
    "a buffer outside the file": b"\x80\x05\x97.",
    "list(list) a million times over": pickled(
        name("builtins", "list") + b"q\0(](" + b"N" * 1_000_000 + b"etq\1R" + b"h\0h\1R" * 4 + b"e"
    ),
    "bytes of a long text": pickled(call("_codecs", "encode", text("\u20ac"), text("latin1"))),
    "bytes of a number": pickled(call("builtins", "bytearray", b"J\xff\xff\xff\x7f")),
    "a path of numbers": pickled(call("pathlib", "PosixPath", b"K\1")),
    "a date of nothing": pickled(call("datetime", "datetime", b"C\1x")),
    "a device of lines": pickled(call("torch", "device", text("cuda\n0"))),
    "a dict of numbers": pickled(call("collections", "OrderedDict", b"(K\1K\2l")),
    "a dict of lists of one": pickled(call("collections", "OrderedDict", b"((K\1ll")),
    "a list of a number": pickled(call("collections", "deque", b"K\1")),
    "a set of a text": pickled(call("builtins", "set", text("abc"))),
    "a complex number of texts": pickled(call("builtins", "complex", text("1"), text("j"))),
    "a range of texts": pickled(call("builtins", "range", text("1"))),
    "a date of a list": pickled(call("datetime", "date", b"]")),
    "a version of a number": pickled(call("torch.torch_version", "TorchVersion", b"K\1")),
    "a namespace of a list": pickled(name("argparse", "Namespace") + b")\x81]b"),
    "named arguments of a known class": b"\x80\x04" + name("argparse", "Namespace") + b")}K\1K\2s\x92.",
    "a numpy dtype of a number": pickled(call("numpy", "dtype", b"K\1")),
    "a numpy dtype with a terminal code": pickled(call("numpy", "dtype", text("\x1b[2J"))),
    "a numpy dtype without byte order": pickled(FLOAT64 + b"(K\3" + text("?") + b"tb"),
    "a numpy scalar of a text": pickled(call("numpy._core.multiarray", "scalar", FLOAT64, text("x"))),
    "a numpy text that is none": pickled(
        call("numpy._core.multiarray", "scalar", call("numpy", "dtype", text("U1")), b"C\4\xff\xff\xff\xff")
    ),
    "a numpy array of another class": pickled(
        call("numpy._core.multiarray", "_reconstruct", name("numpy", "matrix"), b")", b"C\1b")
    ),
    "a numpy array of one field": pickled(EMPTY_ARRAY + b"K\1\x85b"),
    "a numpy array of a negative shape": pickled(
        EMPTY_ARRAY + b"(K\1J\xff\xff\xff\xff\x85" + FLOAT64 + b"\x89C\1xtb"
    ),
    "a numpy array of a text": pickled(EMPTY_ARRAY + b"(K\1K\1\x85" + FLOAT64 + b"\x89" + text("x") + b"tb"),
    "a numpy scalar that is cut off": pickled(call("numpy._core.multiarray", "scalar", FLOAT64, b"C\1x")),
    "a persistent id in a line": pickled(b"Pos.system\n"),
    "a persistent id of one word": pickled(text("storage") + b"Q"),
    "a persistent id of another kind": pickled(b"(" + text("module") + b"NNNNtQ"),
}


# Tensors whose arguments make none


def storage(kind: str = "FloatStorage", key: bytes = text("0"), elements: bytes = b"K\x06") -> bytes:
    return b"(" + text("storage") + name("torch", kind) + key + text("cpu") + elements + b"tQ"


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"


def tensor(
    *,
    store: bytes = storage(),
    offset: bytes = b"K\0",
    shape: bytes = numbers(2, 3),
    strides: bytes = numbers(3, 1),
    rest: bytes = b"\x89N",
    function: str = "_rebuild_tensor_v2",
) -> bytes:
    """A state dict with one tensor, `a.weight`."""
    return pickled(
        b"}", text("a.weight"), call("torch._utils", function, store, offset, shape, strides, rest), b"s"
    )


BIG = b"\x8a\x08" + struct.pack("<q", 1 << 60)

TENSORS = {
    "too few arguments": tensor(rest=b""),
    "too many arguments": tensor(rest=b"\x89NNNN"),
    "a text as the storage": tensor(store=text("0")),
    "a negative offset": tensor(offset=b"J\xff\xff\xff\xff"),
    "an offset of True": tensor(offset=b"\x88"),
    "an offset of 2**60": tensor(offset=BIG),
    "a list as sizes": tensor(shape=b"](K\2K\3e"),
    "a negative size": tensor(shape=numbers(-2, 3)),
    "a size of 2**60": tensor(shape=b"(" + BIG + BIG + b"t"),
    "a text as a size": tensor(shape=b"(" + text("2") + b"K\3t"),
    "65 axes": tensor(shape=numbers(*[1] * 65), strides=numbers(*[1] * 65)),
    "fewer strides than sizes": tensor(strides=numbers(1)),
    "a negative stride": tensor(strides=numbers(-3, 1)),
    "past the end of the storage": tensor(shape=numbers(2, 4), strides=numbers(4, 1)),
    "past the end by its offset": tensor(offset=b"K\1"),
    "past the end by its strides": tensor(strides=numbers(4, 1)),
    "one element repeated 2**40 times": tensor(shape=numbers(1 << 20, 1 << 20), strides=numbers(0, 0)),
    "a conjugated tensor": tensor(rest=b"\x89N}" + text("conj") + b"\x88s"),
    "element type in words": tensor(function="_rebuild_tensor_v3", rest=b"\x89N" + text("float32")),
    "an element type of 4 bits": tensor(
        function="_rebuild_tensor_v3", rest=b"\x89N" + name("torch", "float4_e2m1fn_x2")
    ),
    "a meta tensor of 2**96 elements": pickled(
        call(
            "torch._utils",
            "_rebuild_meta_tensor_no_storage",
            name("torch", "float32"),
            b"(" + (b"\x8a\x06" + struct.pack("<q", 1 << 46)[:6]) * 2 + b"t",
            numbers(1, 1),
            b"\x89",
        )
    ),
    "a parameter of a text": pickled(call("torch._utils", "_rebuild_parameter", text("x"), b"\x88N")),
    "a subclass made by itself": pickled(
        call(
            "torch._tensor",
            "_rebuild_from_type_v2",
            name("torch._tensor", "_rebuild_from_type_v2"),
            name("a", "B"),
            b")",
            b"N",
        )
    ),
    "a subclass made by a text": pickled(
        call("torch._tensor", "_rebuild_from_type_v2", text("a"), name("a", "B"), b")", b"N")
    ),
    "a storage whose type is a text": pickled(
        b"(" + text("storage") + text("FloatStorage") + text("0") + text("cpu") + b"K\1tQ"
    ),
    "a storage of nobody's type": tensor(store=storage("StringStorage")),
    "a storage of quantised values": tensor(store=storage("QInt8Storage")),
    "a storage of -1 elements": tensor(store=storage(elements=b"J\xff\xff\xff\xff")),
    "a storage of 2**60 elements": tensor(store=storage(elements=BIG)),
    "a storage whose key is a negative number": tensor(store=storage(key=b"J\xff\xff\xff\xff")),
    "a storage whose key is True": tensor(store=storage(key=b"\x88")),
} | {
    f"a tensor by {function}": pickled(call("torch._utils", function))
    for function in (
        "_rebuild_sparse_tensor",
        "_rebuild_qtensor",
        "_rebuild_nested_tensor",
        "_rebuild_wrapper_subclass",
        "_rebuild_device_tensor_from_numpy",
    )
}


# Values that lead in circles


def shared(levels: int) -> bytes:
    """A list of two that are the same list of two that are ..."""
    twice = (b"0](h%ch%ceq%c" % (level, level, level + 1) for level in range(levels))
    return pickled(b"]q\0", *twice)


SHAPES = {
    "a dict in itself": pickled(b"}q\0" + text("self") + b"h\0s"),
    "a list in itself": pickled(b"]q\0h\0a"),
    "a list in a tuple in itself": pickled(b"]q\0h\0\x85a"),
    "two dicts in each other": pickled(b"}q\0" + text("b") + b"}q\1" + text("a") + b"h\0ss"),
    "2**60 lists": shared(60),
    "dicts 70 deep": pickled(b"}" + (text("a") + b"}") * 70 + b"s" * 70),
    "tuples 1,000,000 deep": pickled(b")" + b"\x85" * 1_000_000),
    "a tensor under a float": pickled(b"}G" + struct.pack(">d", 0.5) + tensor()[2:-1] + b"s"),
    "one name for two tensors": pickled(b"}(K\0" + storage() + text("0") + storage() + b"u"),
    "a name of 3000 letters": pickled(b"}" + text("a" * 3000) + storage() + b"s"),
}


# Zip files


def plain_zip(entries: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        for path, data in entries.items():
            file.writestr(zipfile.ZipInfo(path), data, compress_type=method)
    return out.getvalue()


GOOD_PICKLE = tensor()
GOOD = {"a/data.pkl": GOOD_PICKLE, "a/byteorder": b"little", "a/data/0": bytes(24)}
GOOD_ZIP = plain_zip(GOOD)


def changed(data: bytes, old: bytes, new: bytes, count: int = -1) -> bytes:
    assert old in data
    return data.replace(old, new, count)


def field(data: bytes, at: int, form: str, value: int) -> bytes:
    """The zip file with another number in the record of its central directory for `a/data/0`."""
    entry = data.rindex(b"PK\1\2")
    return data[: entry + at] + struct.pack(form, value) + data[entry + at + struct.calcsize(form) :]


def twice() -> bytes:
    """Two entries of one name: a second one is renamed."""
    return plain_zip(GOOD | {"a/data/1": bytes(24)}).replace(b"a/data/1", b"a/data/0")


def torch_zip(**options: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "x.pth")
        write_torch(path, [TensorData("w", "F32", (2, 3), [bytes(24)])], **options)
        return Path(path).read_bytes()


def tar_file() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as file:
        file.addfile(tarfile.TarInfo("sys_info"))
    return out.getvalue()


def end_of(data: bytes, at: int, form: str, value: int) -> bytes:
    """The zip file with another number in its last record."""
    entry = data.rindex(b"PK\5\6")
    return data[: entry + at] + struct.pack(form, value) + data[entry + at + struct.calcsize(form) :]


def without_first_entry(data: bytes) -> bytes:
    """The zip file with a directory that does not list its first entry."""
    start = data.index(b"PK\1\2")
    length = data.index(b"PK\1\2", start + 1) - start
    shorter = data[:start] + data[start + length :]
    count = int.from_bytes(shorter[-14:-12], "little") - 1
    size = int.from_bytes(shorter[-10:-6], "little") - length
    return shorter[:-14] + struct.pack("<2HI", count, count, size) + shorter[-6:]


MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)

FILES: dict[str, bytes] = {
    "not a zip": b"hello, this is a checkpoint" * 10,
    "an empty file": b"",
    "an empty zip": plain_zip({}),
    "a zip of something else": plain_zip({"word/document.xml": b"<xml/>"}),
    "cut off in the middle": GOOD_ZIP[: len(GOOD_ZIP) // 2],
    "cut off by one byte": GOOD_ZIP[:-1],
    "junk after it": GOOD_ZIP + b"junk",
    "junk before it": b"junk" + GOOD_ZIP,
    "a zip before it": GOOD_ZIP + GOOD_ZIP,
    "junk before a 64-bit zip": b"PK\3\4" + torch_zip(),
    "compressed": plain_zip(GOOD, zipfile.ZIP_DEFLATED),
    "a zip bomb": plain_zip(GOOD | {"a/data/1": bytes(10_000_000)}, zipfile.ZIP_DEFLATED),
    "encrypted": field(GOOD_ZIP, 8, "<H", 1),
    "an entry above its folder": plain_zip(GOOD | {"a/../../x": b""}),
    "an entry beside its folder": plain_zip(GOOD | {"../x": b""}),
    "an absolute entry": plain_zip(GOOD | {"/etc/passwd": b""}),
    "an entry with a drive": plain_zip(GOOD | {"C:/x": b""}),
    "an entry with backslashes": plain_zip(GOOD | {"a\\x": b""}).replace(b"a/x", b"a\\x"),
    "an entry in another folder": plain_zip(GOOD | {"b/data/0": bytes(24)}),
    "an entry in no folder": plain_zip(GOOD | {"data.pkl": GOOD_PICKLE}),
    "an entry with a terminal code": plain_zip(GOOD | {"a/\x1b[2J": b""}),
    "an entry with another alphabet": changed(plain_zip(GOOD | {"a/xyz": b""}), b"a/xyz", b"a/\xff\xfe\xfd"),
    "two entries of one name": twice(),
    "no pickle": plain_zip({"a/byteorder": b"little", "a/data/0": bytes(24)}),
    "TorchScript": plain_zip(GOOD | {"a/constants.pkl": b"x", "a/code/a.py": b"x"}),
    "big-endian": plain_zip(GOOD | {"a/byteorder": b"big"}),
    "endian in words": plain_zip(GOOD | {"a/byteorder": b"middle\x1b"}),
    "endian at length": plain_zip(GOOD | {"a/byteorder": b"little" * 10}),
    "aligned to nothing": plain_zip(GOOD | {"a/.storage_alignment": b"0"}),
    "aligned in words": plain_zip(GOOD | {"a/.storage_alignment": b"many"}),
    "a storage that is missing": plain_zip({"a/data.pkl": GOOD_PICKLE, "a/data/1": bytes(24)}),
    "a storage that is short": plain_zip(GOOD | {"a/data/0": bytes(20)}),
    "a storage that is long": plain_zip(GOOD | {"a/data/0": bytes(28)}),
    "a storage key that climbs": plain_zip(
        {"a/data.pkl": tensor(store=storage(key=text("../data.pkl"))), "a/data/0": bytes(24)}
    ),
    "a size past the end": field(field(GOOD_ZIP, 20, "<I", 1 << 30), 24, "<I", 1 << 30),
    "a place past the end": field(GOOD_ZIP, 42, "<I", 1 << 30),
    "two entries in one place": field(GOOD_ZIP, 42, "<I", 0),
    "an entry elsewhere": field(GOOD_ZIP, 42, "<I", GOOD_ZIP.index(b"PK\3\4a"[:4], 4) + 3),
    "an entry that is not listed": without_first_entry(GOOD_ZIP),
    "a size of 64 bits that is not there": field(GOOD_ZIP, 24, "<I", 0xFFFFFFFF),
    "another name in the entry itself": changed(GOOD_ZIP, b"a/data/0", b"a/data/7", 1),
    "an extra field over the data": changed(
        GOOD_ZIP, struct.pack("<2H", 8, 0) + b"a/data/0", struct.pack("<2H", 8, 999) + b"a/data/0"
    ),
    "a damaged pickle": changed(GOOD_ZIP, b"a.weight", b"b.weight"),
    "a pickle that is cut off": plain_zip(GOOD | {"a/data.pkl": GOOD_PICKLE[:20]}),
    "a pickle that calls": plain_zip(GOOD | {"a/data.pkl": CALLS["os.system"]}),
    "more entries than the directory has": end_of(end_of(GOOD_ZIP, 8, "<H", 9), 10, "<H", 9),
    "fewer entries than the directory has": end_of(end_of(GOOD_ZIP, 8, "<H", 1), 10, "<H", 1),
    "one of several parts": end_of(GOOD_ZIP, 4, "<H", 1),
    "a directory past the end": end_of(GOOD_ZIP, 16, "<I", 1 << 30),
    "a directory of 64 bits that disagrees": end_of(torch_zip(), 10, "<H", 1),
    "a directory of 64 bits that is not there": changed(torch_zip(), b"PK\6\6", b"PK\6\0"),
    "torch before 1.6": MAGIC + pickle.dumps(1001, protocol=2),
    "torch before 1.6 in protocol 4": pickle.dumps(0x1950A86A20F9469CFC6C, protocol=4),
    "torch before 0.1.10": tar_file(),
    "a bare pickle": pickle.dumps({"a": 1}, protocol=4),
    "a bare pickle that calls": CALLS["os.system"],
}
