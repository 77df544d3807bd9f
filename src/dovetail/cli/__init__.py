"""The command line: one file per verb, the same functions as the library.

Data goes to stdout, talk to stderr. Exit codes: 0 good, 1 findings, 2 wrong usage, 3 our bug.
"""

import errno
import gc
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from io import TextIOWrapper
from typing import NamedTuple

from dovetail import __version__
from dovetail.errors import DovetailError, UsageError, suggestion


class Verb(NamedTuple):
    """A verb of the command line: what it is for, what it gives in one line, and a command to begin with."""

    job: str
    help: str
    example: str


KNOW, CHECK, MOVE, BEGIN, RUN, TEACH = (
    "what is it?",
    "is it whole, and the same?",
    "move it",
    "begin a new one",
    "run it",
    "teach it",
)

# In the order of `dovetail --help`; the module of the same name in this package has the rest.
VERBS = {
    "inspect": Verb(
        KNOW,
        "what a checkpoint is: family, layout, sizes with their evidence (headers only)",
        "dovetail inspect hf://Qwen/Qwen2-VL-2B-Instruct",
    ),
    "ls": Verb(
        KNOW,
        "its tensors: name, canonical name, part, dtype, shape, file; --stats reads the values",
        "dovetail ls CKPT '*.q_proj.weight'",
    ),
    "families": Verb(
        KNOW,
        "what dovetail knows: families, their layouts, and which cannot be told apart",
        "dovetail families",
    ),
    "validate": Verb(
        CHECK,
        "whether a checkpoint is whole; --values reads the data, --report writes JSON and HTML",
        "dovetail validate CKPT --values --report out",
    ),
    "diff": Verb(
        CHECK,
        "two checkpoints tensor by tensor, in whatever layout each is; --values compares the data",
        "dovetail diff BEFORE AFTER --values",
    ),
    "fingerprint": Verb(
        CHECK,
        "which model it is: the same for the same weights in every layout",
        "dovetail fingerprint CKPT",
    ),
    "stamp": Verb(
        CHECK,
        "writes down beside an old checkpoint what its weights cannot tell, and hashes what they can",
        "dovetail stamp CKPT --set text.rope_theta=1000000.0",
    ),
    "convert": Verb(
        MOVE,
        "the same weights in another layout, container, sharding or dtype",
        "dovetail convert CKPT OUT --to litgpt",
    ),
    "split": Verb(
        MOVE,
        "one model over several machines, balanced by bytes; or as LitGPT chunks",
        "dovetail split CKPT OUT --nodes 2",
    ),
    "merge": Verb(
        MOVE,
        "the nodes of a split, or LitGPT chunks, as one model again",
        "dovetail merge NODES OUT",
    ),
    "graft": Verb(
        BEGIN,
        "a new model with the weights of one or more others, and an account of both sides",
        "dovetail graft LM TOWER OUT --config llava_onevision/0.5b --dry-run",
    ),
    "make": Verb(
        BEGIN,
        "a checkpoint of any family at any size, with random weights or (--sparse) none at all",
        "dovetail make qwen2_vl OUT --size 2b --sparse",
    ),
    "generate": Verb(
        RUN,
        "text from a prompt and images, as it comes",
        'dovetail generate CKPT --prompt "What is this?" --image a.jpg',
    ),
    "act": Verb(
        RUN,
        "a chunk of actions from cameras, an instruction and a state",
        "dovetail act CKPT --camera base=a.jpg --state s.npy --instruction TEXT",
    ),
    "verify": Verb(
        RUN,
        "another backend, dtype or checkpoint against the reference, stage by stage",
        "dovetail verify CKPT --backend onnx",
    ),
    "data": Verb(
        TEACH,
        "what a manifest of training data holds, and what is wrong with it; --html shows its samples",
        "dovetail data train.json --check --html out",
    ),
    "train": Verb(
        TEACH,
        "trains parts of a model on a manifest; every save is a checkpoint in its own layout",
        "dovetail train --model CKPT --data train.jsonl --output-dir run --tune projector",
    ),
    "evaluate": Verb(
        TEACH,
        "how many questions of a manifest a checkpoint answers, or how far a policy's actions are off",
        "dovetail evaluate CKPT --data val.json --html out",
    ),
}

# What the extra `torch` installs, by the names that are imported.
TORCH_EXTRA = ("torch", "einops", "jaxtyping", "PIL", "tokenizers", "jinja2")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; gives the exit code."""
    from dovetail.cli.output import say

    gc.disable()  # a header verb lives for milliseconds and makes no garbage worth collecting
    words = list(sys.argv[1:] if arguments is None else arguments)
    is_json = "--json" in words
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal without UTF-8, a file name that is not UTF-8
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run(words)
        sys.stdout.flush()
        return code
    except DovetailError as error:
        return _fail(error, is_json=is_json)
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except KeyboardInterrupt as interruption:
        for line in ("interrupted", *getattr(interruption, "__notes__", ())):
            say(line)
        return 130
    except Exception as error:  # noqa: BLE001 - the outermost frame: whatever else happens is our bug
        return _fail(_understood(error) or _bug(error), is_json=is_json)


def _run(words: list[str]) -> int:
    """Finds the verb and does what it does."""
    verb, *rest = words or [""]
    if verb == "help" and rest:
        verb, rest = rest[0], ["--help"]
    if verb in ("-V", "--version"):
        print(f"dovetail {__version__}")
        return 0
    if verb in ("", "-h", "--help", "help"):
        from dovetail.cli.overview import overview
        from dovetail.render.terminal import show

        show(overview(), sys.stdout if verb else sys.stderr)
        return 0 if verb else 2
    if verb not in VERBS:
        raise _unknown(verb, rest)
    from dovetail.cli.parser import Parser

    parser = Parser(verb, VERBS[verb].help, VERBS[verb].example)
    import_module(f"dovetail.cli.{verb}").configure(parser)
    options = parser.parse_args(rest)
    code: int = options.run(options)
    return code


def _unknown(verb: str, rest: list[str]) -> UsageError:
    """What to say of a word that is no verb."""
    if verb.startswith("-"):
        there = next((word for word in rest if word in VERBS), None)
        hint = (
            f"options stand behind the verb: dovetail {there} … {verb}" if there else "the verb comes first"
        )
        return UsageError(f"`{verb}` is no verb", hint=f"{hint}; `dovetail --help` lists all verbs")
    from dovetail.store.open import shown_path

    hint = suggestion(verb, VERBS, f"the verbs: {', '.join(VERBS)}")
    return UsageError(f"there is no verb `{shown_path(verb)}`", hint=hint)


def _fail(error: DovetailError, *, is_json: bool) -> int:
    """Says what went wrong: to people on stderr, and as JSON on stdout if that was asked for."""
    from dovetail.cli.output import print_json, say_error

    if is_json:
        with suppress(OSError, ValueError):  # whoever read it has gone, or there is no room
            print_json({"error": error.as_json()})
            sys.stdout.flush()
    say_error(error)
    return error.exit_code


def _understood(error: Exception) -> DovetailError | None:
    """An error of the surroundings in our words."""
    if isinstance(error, ModuleNotFoundError) and error.name in TORCH_EXTRA:
        return UsageError(f"this needs {error.name}", hint="pip install 'dovetail-weights[torch]'")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        from dovetail.errors import WriteError

        with suppress(OSError):
            sys.stdout.close()  # or the interpreter tries once more
        return WriteError("the output cannot be written: no space left on device", hint="make room there")
    return None


def _bug(error: Exception) -> DovetailError:
    """What else happens is a bug of ours; the traceback goes to stderr."""
    import traceback

    from dovetail.cli.output import say
    from dovetail.errors import InternalError

    for line in "".join(traceback.format_exception(error)).splitlines():
        say(line)
    hint = f"this is a bug in dovetail {__version__}; please report it with the command and the lines above"
    return InternalError(f"{type(error).__name__}: {error}", hint=hint)
