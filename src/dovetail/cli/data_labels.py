"""`dovetail data MANIFEST --labels --model CKPT`: what a model would learn of each sample."""

import argparse
from typing import TYPE_CHECKING

from dovetail.cli.writing import add_reading_options, assignments
from dovetail.errors import UsageError

if TYPE_CHECKING:
    from dovetail.data.certificate import LabelCertificate
    from dovetail.data.labels import Labeller
    from dovetail.data.manifest import Manifest


def add_label_options(parser: argparse.ArgumentParser) -> None:
    """Adds what says whose labels are shown."""
    parser.add_argument(
        "--labels", action="store_true", help="show the tokens of samples and what of them --model learns"
    )
    parser.add_argument(
        "--model", metavar="CKPT", help="whose tokenizer and chat template make labels; no weight is read"
    )
    parser.add_argument(
        "--learn",
        choices=("all", "last"),
        default="all",
        help="learn all answers of a conversation (default) or the last one only",
    )
    parser.add_argument(
        "--max-length", metavar="N", type=int, help="the most tokens of a sample, those of images included"
    )
    add_reading_options(parser)


def asked_labeller(options: argparse.Namespace) -> "Labeller | None":
    """Whose labels are shown, None if none are asked for.

    Raises:
        UsageError: nothing says whose labels, or they were not asked for.
        CheckpointError: a file beside the weights is broken.
    """
    if options.labels != (options.model is not None):
        given, wanted = ("--labels", "--model CKPT") if options.labels else ("--model", "--labels")
        raise UsageError(f"`{given}` goes with `{wanted}`", hint="labels are what a model learns of samples")
    if not options.labels:
        return None
    from dovetail.data.labels import read_labeller

    settings = assignments(options.given)
    return read_labeller(
        options.model, settings=settings, as_=options.as_, trust=options.trust, learn=options.learn
    )


def labels_of(
    labeller: "Labeller", samples: "Manifest", *, max_length: int | None, shown: int
) -> "LabelCertificate":
    """The label certificate of a manifest; samples that cannot be learned are listed in it.

    Raises:
        DataError: no sample can be learned.
    """
    from dovetail.cli.output import StageBar
    from dovetail.data.batches import Batches
    from dovetail.data.certificate import certificate

    batches = Batches(labeller.inputs, max_length=max_length)
    with StageBar("labels") as progress:
        return certificate(
            labeller,
            samples,
            batches=batches,
            on_error="skip",
            shown=shown,
            progress=lambda done: progress(done, len(samples)),
        )
