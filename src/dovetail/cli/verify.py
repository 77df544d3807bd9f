"""`dovetail verify [CKPT] --backend NAME`."""

import argparse
import sys
from typing import Any

from dovetail.cli.included import add_checkpoint, checkpoint_of
from dovetail.cli.writing import add_reading_options, add_size_option, assignments


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the verb."""
    add_checkpoint(parser)
    parser.add_argument(
        "--backend",
        default="eager",
        metavar="NAME",
        help="eager (default), inductor, onnx, openvino, or package.module:Class",
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
    parser.add_argument("--seed", type=int, default=0, help="seed of the made-up inputs (default 0)")
    _add_inputs(parser)
    add_reading_options(parser)
    add_size_option(parser)
    parser.add_argument("--json", action="store_true", help="the result as JSON")
    parser.add_argument("--report", metavar="DIR", help="write verify.json and verify.html there")
    parser.set_defaults(run=run)


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    """The options that take the place of made-up inputs."""
    group = parser.add_argument_group("inputs, instead of made-up ones")
    what = group.add_mutually_exclusive_group()
    what.add_argument(
        "--prompt",
        "--instruction",
        metavar="TEXT",
        help="text; what a policy is to do; - reads it from stdin",
    )
    what.add_argument("--tokens", metavar="IDS", help="the same as token ids: 1,2,3")
    group.add_argument("--image", metavar="FILE", action="append", default=[], help="may be repeated")
    group.add_argument(
        "--camera", metavar="NAME=FILE", action="append", default=[], help="an image; one for each camera"
    )
    group.add_argument("--state", metavar="NUMBERS", help="the robot's: a .npy file, or 0.1,0.2,…")
    group.add_argument("--noise", metavar="FILE", help="what actions begin from, a .npy file: steps x width")
    group.add_argument("--time", metavar="T", type=float, help="from 0, actions, to 1, noise (default 0.7)")
    group.add_argument(
        "--resolution", metavar="N", type=int, help="images of N x N pixels, whatever the tower was made for"
    )
    group.add_argument(
        "--interpolation",
        metavar="NAME",
        help="how its positions are interpolated then: bicubic (transformers) or bicubic-antialias (timm)",
    )


def run(options: argparse.Namespace) -> int:
    """Prints every stage; 1 if one of them is not as the reference has it."""
    from dovetail.cli.output import StageBar, command_line, print_json, say
    from dovetail.dtypes import dtype_of
    from dovetail.loading.load import load
    from dovetail.parity.backends import backend
    from dovetail.parity.given import chosen_inputs, resolution
    from dovetail.parity.verify import verify

    usual = "bfloat16" if options.backend == "eager" and not options.against else "float32"
    dtype = dtype_of(options.dtype or usual).torch
    other = backend(options.backend, dtype=dtype, device=options.device)
    given = _given(options)
    checkpoint = checkpoint_of(options)
    said = {"as_": options.as_, "trust": options.trust, "size": options.size}
    settings = assignments(options.given)
    wanted = resolution(checkpoint, options.resolution, options.interpolation, given=settings, **said)
    said["settings"] = {**settings, **wanted.settings}
    reference: Any = load(checkpoint, dtype="float32", **said)
    candidate: Any = load(options.against, dtype="float32", **said) if options.against else None
    names = [one.report.path for one in (reference, candidate or reference)]
    if candidate is not None:
        _check_alike(reference, candidate)
    chosen = chosen_inputs(reference, checkpoint, given)
    with StageBar("stages") as progress:
        found = verify(
            reference,
            other,
            against=candidate,
            inputs=chosen.inputs,
            dtype=dtype,
            names=(names[0], names[1]),
            notes=(*wanted.notes, *chosen.notes),
            progress=progress,
        )
    values = found.as_json()
    if options.report:
        from dovetail.render.html_verify import write_verification

        command = command_line(sys.argv[1:])
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


def _given(options: argparse.Namespace) -> Any:
    """What the user gives, read before any model is."""
    from dovetail.cli.act import cameras, numbers
    from dovetail.cli.generate import token_ids
    from dovetail.inputs.image_file import read_image
    from dovetail.parity.given import Given

    prompt = options.prompt if options.tokens is None else token_ids(options.tokens)
    return Given(
        prompt=sys.stdin.read().removesuffix("\n") if prompt == "-" else prompt,
        images=[read_image(path) for path in options.image],
        cameras=cameras(options.camera) if options.camera else None,
        state=numbers(options.state) if options.state is not None else None,
        noise=numbers(options.noise) if options.noise is not None else None,
        time=options.time,
        seed=options.seed,
    )
