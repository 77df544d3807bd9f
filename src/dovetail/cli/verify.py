"""`dovetail verify CKPT --backend NAME`."""

import argparse
import shlex
import sys
from typing import Any

from dovetail.cli.inspect import CHECKPOINT
from dovetail.cli.writing import add_reading_options, add_size_option, assignments


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    parser.add_argument("checkpoint", metavar="CKPT", help=CHECKPOINT)
    parser.add_argument(
        "--backend", default="eager", metavar="NAME", help="eager (default), inductor, onnx, openvino"
    )
    parser.add_argument(
        "--dtype",
        default=None,
        metavar="DTYPE",
        help="float32, bfloat16, float16; float32 unless eager: bfloat16",
    )
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, …: where the candidate runs")
    parser.add_argument(
        "--against", metavar="CKPT2", help="hold another checkpoint of the same sizes against this one"
    )
    parser.add_argument(
        "--image", metavar="FILE", action="append", default=[], help="instead of a made-up one"
    )
    parser.add_argument("--tokens", metavar="IDS", help="token ids instead of made-up ones: 1,2,3")
    parser.add_argument("--seed", type=int, default=0, help="seed of the made-up inputs (default 0)")
    add_reading_options(parser)
    add_size_option(parser)
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    parser.add_argument("--report", metavar="DIR", help="write verify.json and verify.html there")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Prints every stage; 1 if one of them is not as the reference has it."""
    from dovetail.cli.output import StageBar, print_json, say
    from dovetail.dtypes import dtype_of
    from dovetail.loading.load import load
    from dovetail.parity.backends import backend
    from dovetail.parity.verify import verify

    usual = "bfloat16" if options.backend == "eager" and not options.against else "float32"
    dtype = dtype_of(options.dtype or usual).torch
    other = backend(options.backend, dtype=dtype, device=options.device)
    said = {
        "settings": assignments(options.given),
        "as_": options.as_,
        "trust": options.trust,
        "size": options.size,
    }
    reference: Any = load(options.checkpoint, dtype="float32", **said)
    candidate: Any = load(options.against, dtype="float32", **said) if options.against else None
    names = [one.report.path for one in (reference, candidate or reference)]
    if candidate is not None:
        _check_alike(reference, candidate)
    with StageBar("stages") as progress:
        found = verify(
            reference,
            other,
            against=candidate,
            inputs=_inputs(reference, options),
            dtype=dtype,
            names=(names[0], names[1]),
            progress=progress,
        )
    values = found.as_json()
    if options.report:
        from dovetail.render.html_verify import write_verification

        command = shlex.join(["dovetail", *sys.argv[1:]])
        say(f"wrote {' and '.join(write_verification(values, options.report, command=command))}")
    if options.json:
        print_json(values)
    else:
        from dovetail.render.terminal import show
        from dovetail.render.verify_page import verify_page

        show(verify_page(values))
    return 0 if found.first_divergent is None else 1


def _check_alike(reference: Any, candidate: Any) -> None:
    """Two checkpoints are compared stage by stage only if they have the same stages.

    Raises:
        UsageError: they are of other families or sizes.
    """
    from dovetail.errors import UsageError, listed

    families = reference.report.family, candidate.report.family
    if families[0] != families[1]:
        raise UsageError(
            "the two checkpoints are of different families",
            reference=f"{reference.report.path}: {families[0]}",
            candidate=f"{candidate.report.path}: {families[1]}",
            hint="`dovetail inspect` says what each is",
        )
    shapes, others = (
        {name: tuple(one.shape) for name, one in model.named_parameters()} for model in (reference, candidate)
    )
    odd = [name for name in dict.fromkeys((*shapes, *others)) if shapes.get(name) != others.get(name)]
    if odd:
        raise UsageError(
            f"the two checkpoints have different sizes: {listed(odd, 3)}",
            reference=f"{reference.report.path}: {shapes.get(odd[0], 'not there')}",
            candidate=f"{candidate.report.path}: {others.get(odd[0], 'not there')}",
            hint="`dovetail diff` compares them tensor by tensor",
        )


def _inputs(model: Any, options: argparse.Namespace) -> dict[str, Any]:
    """What the user gives, or an example."""
    from dovetail.parity.example import example_inputs

    if options.tokens is None and not options.image:
        return example_inputs(model, seed=options.seed)
    from dovetail.cli.generate import token_ids
    from dovetail.errors import UsageError
    from dovetail.inputs.image_file import read_image
    from dovetail.models.language import LanguageModel

    if not isinstance(model, LanguageModel) or options.tokens is None:
        raise UsageError(
            "--image goes with --tokens, for a model that reads both",
            hint="give ids with one image token for each image: --tokens 1,IMAGE,2",
        )
    images = [read_image(path) for path in options.image]
    return model.prepare([token_ids(options.tokens)], [images] if images else ())
