"""What is learned from: the samples of a manifest as rows, each looked at before the first step."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from dovetail.data.batches import Batches
from dovetail.data.certificate import LabelCertificate, certificate
from dovetail.data.labels import Labelled, Labeller
from dovetail.data.manifest import Manifest, open_manifest
from dovetail.data.refusals import OnError
from dovetail.errors import UsageError
from dovetail.train.recipe import Path

Progress = Callable[[int, int], None]


class Rows(Sequence[Labelled]):
    """The labelled rows of a manifest, made when they are asked for. It may be sent to workers."""

    def __init__(self, labeller: Labeller, samples: Manifest) -> None:
        self.labeller, self.samples = labeller, samples

    def __len__(self) -> int:
        return len(self.samples)

    @overload
    def __getitem__(self, i: int) -> Labelled: ...
    @overload
    def __getitem__(self, i: slice) -> "Rows": ...
    def __getitem__(self, i: int | slice) -> "Labelled | Rows":
        if isinstance(i, slice):
            return Rows(self.labeller, self.samples[i])
        return self.labeller.labelled(self.samples[i])


@dataclass(frozen=True, slots=True, kw_only=True)
class Lessons:
    """Rows, what makes batches of them, and the certificate of their labels."""

    rows: Rows
    batches: Batches
    certificate: LabelCertificate
    fingerprint: str

    def labels(self) -> dict[str, Any]:
        """What decides the losses beside the data."""
        found = self.certificate
        return {"source": found.source, "learn": found.learn, "left_out": len(found.refused)}

    def side_files(self, record: Mapping[str, Any]) -> Mapping[str, bytes]:
        """What lies beside every save: nothing of these data."""
        return {}

    def prepare(self, model: Any) -> None:
        """Changes nothing of a model that learns from conversations."""


def opened_samples(path: Path, *, image_root: Path | None, most: int | None, seed: int) -> Manifest:
    """The samples of a manifest, the first `most` of them.

    Raises:
        UsageError: nothing is there, or so many are none.
        DataError: it is no manifest.
    """
    if most is not None and most < 1:
        raise UsageError(f"{most} samples are none to learn from", hint="give --max-samples 1 or more")
    root = None if image_root is None else str(image_root)
    samples = open_manifest(path, image_root=root, seed=seed)
    return samples if most is None else samples[:most]


def read_lessons(
    labeller: Labeller,
    samples: Manifest,
    *,
    max_length: int | None,
    on_error: OnError,
    progress: Progress | None = None,
) -> Lessons:
    """The lessons of samples, each of which has been labelled and measured.

    Raises:
        DataError: a sample cannot be learned or is too long, unless such are left out.
    """
    batches = Batches(labeller.inputs, max_length=max_length)
    total = len(samples)
    found = certificate(
        labeller,
        samples,
        batches=batches,
        on_error=on_error,
        progress=None if progress is None else lambda done: progress(done, total),
    )
    kept = samples if len(found.numbers) == total else samples.select(found.numbers)
    return Lessons(
        rows=Rows(labeller, kept), batches=batches, certificate=found, fingerprint=kept.fingerprint
    )
