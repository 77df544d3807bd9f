"""The command line: one file per verb, the same functions as the library.

Data goes to stdout, talk to stderr. Exit codes: 0 good, 1 findings, 2 wrong usage, 3 our bug.
"""

import argparse
import errno
import gc
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper

from dovetail import __version__
from dovetail.errors import DovetailError, printable

# verb -> one line for `dovetail --help`; the module of the same name in this package has the rest
VERBS = {
    "inspect": "what a checkpoint is: family, layout, sizes with their evidence (headers only)",
    "validate": "whether a checkpoint is whole; --values reads the data, --report writes JSON and HTML",
    "families": "what dovetail knows: families, their layouts, and which cannot be told apart",
    "convert": "the same weights in another layout, container, sharding or dtype",
    "split": "one model over several machines, balanced by bytes; or as LitGPT chunks",
    "stamp": "writes down beside an old checkpoint what its weights cannot tell, and hashes what they can",
    "diff": "two checkpoints tensor by tensor, in whatever layout each is; --values compares the data",
    "fingerprint": "which model it is: the same for the same weights in every layout",
    "merge": "the nodes of a split, or LitGPT chunks, as one model again",
    "graft": "a new model with the weights of one or more others, and an account of both sides",
    "generate": "text from a prompt and images, as it comes",
    "act": "a chunk of actions from cameras, an instruction and a state",
    "verify": "another backend, dtype or checkpoint against the reference, stage by stage",
    "make": "a checkpoint of any family at any size, with random weights or (--sparse) none at all",
}

# What the extra `torch` installs, by the names that are imported.
TORCH_EXTRA = ("torch", "einops", "jaxtyping", "PIL", "tokenizers", "jinja2")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; gives the exit code."""
    gc.disable()  # a header verb lives for milliseconds and makes no garbage worth collecting
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a terminal without UTF-8, a file name that is not UTF-8
            stream.reconfigure(errors="backslashreplace")
    parser, command = _parsers(words[0] if words else None)
    options, unknown = parser.parse_known_args(words)
    if unknown:
        command.error(f"unrecognized arguments: {printable(' '.join(unknown))}")
    if "run" not in options:
        parser.print_help(sys.stderr)
        return 2
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except DovetailError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except KeyboardInterrupt as interruption:
        print("interrupted", *getattr(interruption, "__notes__", ()), sep="\n", file=sys.stderr)
        return 130
    except Exception as error:  # noqa: BLE001 - the outermost frame: whatever else happens is our bug
        if isinstance(error, ModuleNotFoundError) and error.name in TORCH_EXTRA:
            print(
                f"error: this needs {error.name}\n\nhint: pip install 'dovetail-weights[torch]'",
                file=sys.stderr,
            )
            return 2
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            from contextlib import suppress

            with suppress(OSError):
                sys.stdout.close()  # or the interpreter tries once more
            print("error: the output cannot be written: no space left on device", file=sys.stderr)
            return 1
        import traceback

        print("\n".join(map(printable, traceback.format_exc().splitlines())), file=sys.stderr)
        print(
            f"\nthis is a bug in dovetail {__version__}; please report it with the lines above",
            file=sys.stderr,
        )
        return 3


def _parsers(verb: str | None) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser]:
    """The parser and that of the verb; only the verb that is asked for is imported."""
    parser = argparse.ArgumentParser(
        prog="dovetail",
        description="The tool for the weights of vision-language(-action) models.",
        epilog="exit codes: 0 good, 1 findings, 2 wrong usage, 3 our bug",
    )
    parser.add_argument("--version", action="version", version=f"dovetail {__version__}")
    commands = parser.add_subparsers(title="verbs", metavar="VERB")
    asked = parser
    for name, help in VERBS.items():
        command = commands.add_parser(name, help=help, description=help[0].upper() + help[1:] + ".")
        if name == verb:
            asked = command
            import_module(f"dovetail.cli.{name}").configure(command)
    return parser, asked
