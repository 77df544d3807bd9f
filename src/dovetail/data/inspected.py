"""What is in a manifest: counts, fields, turns, images, and what is wrong; with its first samples."""

import os
from array import array
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from dovetail.data.examined import Examined, Progress, examined
from dovetail.data.manifest import Manifest, open_manifest
from dovetail.data.refusals import Refusals
from dovetail.data.sample import Picture, Sample, Turn, Video
from dovetail.report import Finding, counted

SCHEMA = 1
_MOST_KINDS = 1000  # a field that is no kind but a text of its own in each record


class Texts(NamedTuple):
    """The texts of one role: how many, and their length in characters."""

    turns: int
    mean: float
    longest: int


class Images(NamedTuple):
    """The images that were decoded: how many, and how large; height x width of the median by area."""

    whole: int
    missing: int
    broken: int
    smallest: tuple[int, int] | None
    median: tuple[int, int] | None
    largest: tuple[int, int] | None


class DataReport(NamedTuple):
    """What a manifest holds. `images` is None where they were not looked at."""

    manifest: Manifest
    image_root: str | None
    fields: Mapping[str, int]
    turns: Mapping[int, int]
    images_per_sample: Mapping[int, int]
    videos_per_sample: Mapping[int, int]
    kinds: Mapping[str, int]
    texts: Mapping[str, Texts]
    images: Images | None
    refusals: Refusals
    samples: tuple[Sample, ...]

    @property
    def num_usable(self) -> int:
        """The samples that nothing was found against."""
        return len(self.manifest) - len(self.refusals)

    @property
    def is_good(self) -> bool:
        """Whether nothing was found against any sample."""
        return not len(self.refusals)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong, one finding for each kind of fault."""
        return tuple(_findings(self.refusals, len(self.manifest)))

    def as_json(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {
            "schema": SCHEMA,
            "manifest": self.manifest.path,
            "image_root": self.image_root,
            "fingerprint": self.manifest.fingerprint,
            "sources": [source.as_json() for source in self.manifest.sources],
            "samples": len(self.manifest),
            "usable": self.num_usable,
            "fields": dict(self.fields),
            "turns": _by_number(self.turns),
            "images_per_sample": _by_number(self.images_per_sample),
            "videos_per_sample": _by_number(self.videos_per_sample),
            "kinds": dict(self.kinds),
            "texts": {role: one._asdict() for role, one in self.texts.items()},
            "images": None if self.images is None else self.images._asdict(),
            "findings": [finding.as_json() for finding in self.findings],
            **self.refusals.as_json(),
            "first": [sample_json(sample) for sample in self.samples],
        }


def inspect_data(
    manifest: str | os.PathLike[str] | Manifest,
    *,
    image_root: str | None = None,
    seed: int = 0,
    check: bool = False,
    samples: int = 3,
    progress: Progress | None = None,
) -> DataReport:
    """What a manifest holds, and what is wrong with its records. Every record is read once.

    `check` decodes every image too. `samples` are how many of the first to keep. `progress` is told the
    records done and the records in all. `image_root` and `seed` are those of `open_manifest`.

    Raises:
        UsageError: nothing is there.
        DataError: the manifest cannot be read at all; faults of single records are findings.
    """
    given = (
        manifest
        if isinstance(manifest, Manifest)
        else open_manifest(manifest, image_root=image_root, seed=seed)
    )
    counts = _Counts(samples)
    for one in examined(given, images=check, progress=progress):
        counts.add(one)
    return counts.report(given, image_root, with_images=check)


class _Counts:
    """What is counted while the records go by."""

    def __init__(self, samples: int) -> None:
        self._most = samples
        self._first: list[Sample] = []
        self._fields, self._kinds = Counter[str](), Counter[str]()
        self._turns, self._images, self._videos = Counter[int](), Counter[int](), Counter[int]()
        self._texts: dict[str, list[int]] = {}
        self._heights, self._widths = array("i"), array("i")
        self._missing = self._broken = 0
        self._refusals = Refusals("skip")

    def add(self, one: Examined) -> None:
        """Counts a record."""
        self._fields.update(one.fields.keys())
        for look in one.looks:
            if look.size is not None:
                self._heights.append(look.size[0])
                self._widths.append(look.size[1])
            elif look.is_missing:
                self._missing += 1
            else:
                self._broken += 1
        if one.error is not None:
            self._refusals.add(one.number, one.place, one.code, one.error)
        if one.sample is not None:
            self._add_sample(one.sample)

    def _add_sample(self, sample: Sample) -> None:
        if len(self._first) < self._most:
            self._first.append(sample)
        seen = [*sample.seen()]
        self._turns[len(sample.turns)] += 1
        self._images[sum(isinstance(one, Picture) for one in seen)] += 1
        self._videos[sum(isinstance(one, Video) for one in seen)] += 1
        if sample.kind is not None and (sample.kind in self._kinds or len(self._kinds) < _MOST_KINDS):
            self._kinds[sample.kind] += 1
        for turn in sample.turns:
            tally = self._texts.setdefault(turn.role, [0, 0, 0])
            length = len(turn.text)
            tally[0] += 1
            tally[1] += length
            tally[2] = max(tally[2], length)

    def report(self, manifest: Manifest, image_root: str | None, *, with_images: bool) -> DataReport:
        """The report of all that was counted."""
        return DataReport(
            manifest=manifest,
            image_root=image_root,
            fields=dict(self._fields.most_common()),
            turns=self._turns,
            images_per_sample=self._images,
            videos_per_sample=self._videos,
            kinds=dict(self._kinds.most_common()),
            texts={role: Texts(n, total / n, longest) for role, (n, total, longest) in self._texts.items()},
            images=self._sizes() if with_images else None,
            refusals=self._refusals,
            samples=tuple(self._first),
        )

    def _sizes(self) -> Images:
        heights, widths = np.array(self._heights, np.int64), np.array(self._widths, np.int64)
        order = np.argsort(heights * widths, kind="stable")
        places = [order[0], order[(len(order) - 1) // 2], order[-1]] if len(order) else []
        sizes = [(int(heights[i]), int(widths[i])) for i in places]
        smallest, median, largest = sizes or (None, None, None)
        return Images(len(order), self._missing, self._broken, smallest, median, largest)


def _findings(refusals: Refusals, total: int) -> list[Finding]:
    """One finding for each kind of fault, with the first sample that has it."""
    found = []
    for code, count in refusals.counts.items():
        first = next(one for one in refusals.listed if one.code == code)
        of = f"{count:,} of {counted(total, 'sample')}"
        shown = f"{first.place}: {first.message}"
        if code == "broken-record":
            found.append(
                Finding(
                    code="broken-record",
                    severity="error",
                    message=f"{of} cannot be made of the record; first {shown}",
                    hint="correct the records, or train with --on-error skip, which lists what it skips",
                )
            )
        elif code == "missing-image":
            found.append(
                Finding(
                    code="missing-image",
                    severity="error",
                    message=f"{of} with an image that is not there; first {shown}",
                    hint="give the folder that names are relative to as --image-root, or fetch the images",
                )
            )
        else:
            found.append(
                Finding(
                    code="broken-image",
                    severity="error",
                    message=f"{of} with an image that cannot be read; first {shown}",
                    hint="fetch the images again, or train with --on-error skip, which lists what it skips",
                )
            )
    return found


def sample_json(sample: Sample) -> dict[str, Any]:
    """A sample as plain JSON values, images by name."""
    return {
        "source": sample.source,
        "record": sample.number,
        "id": sample.id,
        "kind": sample.kind,
        "turns": [{"role": turn.role, "content": [*map(_piece, turn.pieces)]} for turn in sample.turns],
    }


def _piece(piece: str | Picture | Video) -> Any:
    if isinstance(piece, str):
        return piece
    return (
        {"image": piece.name} if isinstance(piece, Picture) else {"video": [one.name for one in piece.frames]}
    )


def turn_words(turn: Turn) -> str:
    """What is said in a turn, with a word at the place of each image and video."""
    words = []
    for piece in turn.pieces:
        if isinstance(piece, Picture):
            words.append(f"[image {piece.name}]")
        elif isinstance(piece, Video):
            words.append(f"[video of {counted(len(piece.frames), 'frame')} from {piece.frames[0].name}]")
        else:
            words.append(piece)
    return "".join(words)


def _by_number(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(number): counts[number] for number in sorted(counts)}
