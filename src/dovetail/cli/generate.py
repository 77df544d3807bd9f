"""`dovetail generate [CKPT] --prompt TEXT [--image FILE …]`."""

import argparse
import sys

from dovetail.cli.included import add_checkpoint, checkpoint_of
from dovetail.cli.writing import add_reading_options, assignments


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    add_checkpoint(parser)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", metavar="TEXT", help="what to answer; - reads it from stdin")
    what.add_argument("--tokens", metavar="IDS", help="token ids instead of text: 1,2,3")
    parser.add_argument("--raw", action="store_true", help="the prompt as it is: no chat template, no frame")
    parser.add_argument("--image", metavar="FILE", action="append", default=[], help="may be repeated")
    parser.add_argument("--max-new-tokens", metavar="N", type=int, default=128, help="default 128")
    parser.add_argument(
        "--temperature", metavar="T", type=float, default=0.0, help="0 (default) takes the most likely token"
    )
    parser.add_argument(
        "--top-k", metavar="K", type=int, default=0, help="draw from the K most likely; 0: all"
    )
    parser.add_argument(
        "--top-p", metavar="P", type=float, default=1.0, help="draw from the likeliest that make P"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the draws (default 0)")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, …")
    parser.add_argument("--dtype", metavar="DTYPE", help="bfloat16, float16, float32; as stored by default")
    parser.add_argument(
        "--weights",
        choices=("auto", "stored", "packed", "int8"),
        default="auto",
        help="as stored, packed once for this processor, or cut to 8 bits, which is lossy; auto (default) "
        "packs where that saves more time than it takes",
    )
    add_reading_options(parser)
    parser.add_argument("--json", action="store_true", help="tokens, text and counts as JSON, at the end")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints the answer as it comes."""
    from dovetail.cli.output import print_json, print_text, say
    from dovetail.inputs.image_file import read_image
    from dovetail.run.generate import Generator
    from dovetail.run.sampling import Sampling

    sampling = Sampling(
        temperature=options.temperature, top_k=options.top_k, top_p=options.top_p, seed=options.seed
    )
    images = [read_image(path) for path in options.image]
    generator = Generator.load(
        checkpoint_of(options),
        device=options.device,
        dtype=options.dtype,
        settings=assignments(options.given),
        as_=options.as_,
        trust=options.trust,
        weights=options.weights,
        new_tokens=options.max_new_tokens,
    )
    if images:
        for name, value in generator.assumptions.items():
            say(f"note: {name} = {value.value} ({value.evidence}): no file says it")
    prompt = _prompt(options)
    settings = {
        "max_new_tokens": options.max_new_tokens,
        "sampling": sampling,
        "is_raw": options.raw,
    }
    if options.json:
        answer = generator.answer(prompt, images, **settings)
        print_json(
            {
                "text": answer.text,
                "tokens": answer.tokens,
                "prompt_tokens": answer.prompt_tokens,
                "stopped": answer.has_stopped,
            }
        )
        return 0
    for piece in generator.stream(prompt, images, **settings):
        print_text(piece)
    print()
    return 0


def _prompt(options: argparse.Namespace) -> str | list[int]:
    """Text or ids; a text of stdin without the line break that ends it."""
    if options.tokens is not None:
        return token_ids(options.tokens)
    return sys.stdin.read().removesuffix("\n") if options.prompt == "-" else str(options.prompt)


def token_ids(text: str) -> list[int]:
    """The ids of `1,2,3`.

    Raises:
        UsageError: it is something else.
    """
    from dovetail.errors import UsageError

    words = text.replace(",", " ").split()
    if not words or not all(word.removeprefix("-").isdecimal() for word in words):
        raise UsageError(f"`--tokens {text}` is no list of token ids", hint="for example --tokens 1,2,3")
    return [int(word) for word in words]
