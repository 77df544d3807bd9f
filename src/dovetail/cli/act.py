"""`dovetail act [CKPT] --camera NAME=FILE … --instruction TEXT --state NUMBERS`."""

import argparse
import os
from contextlib import closing
from typing import TYPE_CHECKING, Any

from dovetail.cli.included import PATHS, add_checkpoint, checkpoint_of
from dovetail.cli.writing import add_reading_options, assignments

if TYPE_CHECKING:
    from dovetail.run.act import Chunk

_MAX_NUMBERS = 64 << 20  # bytes of a file of state or noise


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    add_checkpoint(parser, PATHS)
    parser.add_argument(
        "--camera", metavar="NAME=FILE", action="append", default=[], help="an image; one for each camera"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--instruction", metavar="TEXT", help="what to do")
    what.add_argument("--tokens", metavar="IDS", help="the instruction as token ids: 2,1234,108")
    parser.add_argument("--state", metavar="NUMBERS", help="the robot's: a .npy file, or 0.1,0.2,…")
    parser.add_argument("--steps", metavar="N", type=int, default=10, help="Euler steps (default 10)")
    begin = parser.add_mutually_exclusive_group()
    begin.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")
    begin.add_argument("--noise", metavar="FILE", help="the noise itself, a .npy file: steps x width")
    parser.add_argument("--tokenizer", metavar="PATH", help="a folder with PaliGemma's, if CKPT has none")
    parser.add_argument("--statistics", metavar="FILE", help="a norm_stats.json instead of what CKPT has")
    parser.add_argument("--plot", metavar="OUT.png", help="draw the chunk (needs matplotlib)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, …")
    parser.add_argument("--dtype", metavar="DTYPE", help="bfloat16, float16, float32; as stored by default")
    add_reading_options(parser)
    parser.add_argument("--json", action="store_true", help="the chunk and its notes as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the chunk, and what there is to know about it on stderr."""
    from dovetail.cli.generate import token_ids
    from dovetail.cli.output import say
    from dovetail.run.act import Actor

    if options.plot:
        from dovetail.render.chunk_plot import check_plot

        check_plot(options.plot)  # before what may take a while
    images = cameras(options.camera)
    state = numbers(options.state) if options.state is not None else None
    noise = numbers(options.noise) if options.noise is not None else None
    actor = Actor.load(
        checkpoint_of(options, PATHS),
        tokenizer=options.tokenizer,
        statistics=options.statistics,
        device=options.device,
        dtype=options.dtype,
        settings=assignments(options.given),
        as_=options.as_,
        trust=options.trust,
    )
    told = options.instruction if options.tokens is None else token_ids(options.tokens)
    chunk = actor.act(images, told, state, num_steps=options.steps, noise=noise, seed=options.seed)
    show(chunk, is_json=options.json)
    if options.plot:
        from dovetail.render.chunk_plot import write_plot

        write_plot(chunk.actions, options.plot, title=options.instruction or "")
        say(f"wrote {options.plot}")
    return 0


def show(chunk: "Chunk", *, is_json: bool) -> None:
    """The actions to stdout, a row for each step; the notes to stderr unless they are in the JSON."""
    from dovetail.cli.output import print_json, say

    if is_json:
        print_json(chunk.as_json())
        return
    from dovetail.render.page import Table
    from dovetail.render.terminal import show as show_page

    say(f"statistics: {chunk.statistics or 'none'}")
    for note in chunk.notes:
        say(f"note: {note}")
    width = chunk.actions.shape[1]
    rows = tuple((str(i), *(f"{value:.4f}" for value in row)) for i, row in enumerate(chunk.actions.tolist()))
    show_page([Table((">step", *(f">{i}" for i in range(width))), rows)])


def cameras(texts: list[str]) -> dict[str, Any]:
    """The images of repeated `--camera NAME=FILE`.

    Raises:
        UsageError: one has no name, a name comes twice, or a file is no image.
    """
    from dovetail.errors import UsageError
    from dovetail.inputs.image_file import read_image

    found: dict[str, Any] = {}
    for text in texts:
        name, sign, path = text.partition("=")
        if not sign or not name or not path:
            raise UsageError(f"`--camera {text}` is no camera", hint="--camera NAME=FILE")
        if name in found:
            raise UsageError(f"camera `{name}` is given twice", hint="each camera has one image")
        found[name] = read_image(path)
    return found


def numbers(text: str) -> Any:
    """The array of a .npy file, or the numbers of `0.1,0.2`.

    Raises:
        UsageError: it is neither.
    """
    from io import BytesIO

    import numpy as np

    from dovetail.errors import DovetailError, UsageError
    from dovetail.store.folder import whole
    from dovetail.store.source import LocalSource

    if text.endswith(".npy") and not os.path.exists(text):
        raise UsageError(f"there is no file `{text}`", hint="give the path of a .npy file")
    try:
        if not text.endswith(".npy"):
            return np.array([float(word) for word in text.replace(",", " ").split()])
        with closing(LocalSource(text)) as source:
            array = np.load(BytesIO(whole(source, _MAX_NUMBERS)), allow_pickle=False)
        return np.asarray(array, dtype=np.float64)
    except DovetailError as error:  # no ordinary file, or one that is too long
        why = error.message
    except (OSError, ValueError, TypeError, EOFError, MemoryError, OverflowError) as error:
        why = str(error) or type(error).__name__
    raise UsageError(f"`{text}` holds no numbers: {why}", hint="a .npy file of numbers, or 0.1,0.2,…")
