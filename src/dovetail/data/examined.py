"""The samples of a manifest one after the other, each with what is wrong with it; images in parallel.

Memory stays flat: as many images are decoded at once as there are cores, and none is kept.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from dovetail.data.manifest import Manifest
from dovetail.data.record import in_record
from dovetail.data.refusals import OnError, Refusals
from dovetail.data.sample import Picture, Sample
from dovetail.errors import DataError, DovetailError

Progress = Callable[[int, int], None]
_MOST_KNOWN = 1 << 20  # images whose size is remembered: many conversations may be about one
_AHEAD = 64  # samples whose images are being decoded


class Look(NamedTuple):
    """An image that was decoded: its height and width, or why not."""

    name: str
    size: tuple[int, int] | None
    error: DovetailError | None = None
    is_missing: bool = False


class Examined(NamedTuple):
    """A record: what is written in it, the sample that it makes, its images if they were looked at."""

    number: int
    place: str
    fields: Mapping[str, Any]
    sample: Sample | None
    looks: tuple[Look, ...] = ()
    error: DovetailError | None = None

    @property
    def code(self) -> str:
        """A word for what is wrong."""
        if self.sample is None:
            return "broken-record"
        bad = [look for look in self.looks if look.error is not None]
        return "refused-sample" if not bad else "missing-image" if bad[0].is_missing else "broken-image"


def examined(
    manifest: Manifest,
    *,
    images: bool = False,
    check: Callable[[Sample], object] | None = None,
    progress: Progress | None = None,
) -> Iterator[Examined]:
    """Every record in order. `images` decodes every image; `check` raises what it has against a sample."""
    if not images:
        for i in range(len(manifest)):
            yield _examined(manifest, i, check)
            if progress:
                progress(i + 1, len(manifest))
        return
    known: dict[int, tuple[int, int]] = {}
    waiting: deque[tuple[Examined, list[Future[Look]]]] = deque()
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        try:
            for i in range(len(manifest)):
                found = _examined(manifest, i, check)
                waiting.append((found, [pool.submit(look, one, known) for one in pictures(found.sample)]))
                if len(waiting) > _AHEAD:
                    yield _looked(*waiting.popleft())
                if progress:
                    progress(i + 1 - len(waiting), len(manifest))
            while waiting:
                yield _looked(*waiting.popleft())
            if progress:
                progress(len(manifest), len(manifest))
        finally:
            pool.shutdown(cancel_futures=True)


def usable(
    manifest: Manifest,
    *,
    on_error: OnError = "stop",
    images: bool = False,
    check: Callable[[Sample], object] | None = None,
    progress: Progress | None = None,
) -> tuple[Manifest, Refusals]:
    """The samples that can be used, in their order, and those that cannot.

    Raises:
        DovetailError: a sample cannot be used, and `on_error` is not `skip`.
        DataError: none can be used.
    """
    refusals = Refusals(on_error)
    for one in examined(manifest, images=images, check=check, progress=progress):
        if one.error is not None:
            refusals.add(one.number, one.place, one.code, one.error)
    if not len(refusals):
        return manifest, refusals
    if len(refusals) == len(manifest):
        first = refusals.listed[0]
        raise DataError(
            f"no sample of `{manifest.path}` can be used", first=f"{first.place}: {first.message}"
        )
    gone = {*refusals.numbers}
    return manifest.select([i for i in range(len(manifest)) if i not in gone]), refusals


def pictures(sample: Sample | None) -> Iterator[Picture]:
    """The images of a sample, and the frames of its videos."""
    for one in sample.seen() if sample else ():
        yield from (one,) if isinstance(one, Picture) else one.frames


def look(picture: Picture, known: dict[int, tuple[int, int]] | None = None) -> Look:
    """Decodes an image, unless its size is `known`."""
    key = hash(picture)
    if known is not None and key in known:
        return Look(picture.name, known[key])
    try:
        height, width, _ = picture.pixels().shape
    except DovetailError as error:
        is_file = picture.inside is None and picture.content is None
        return Look(picture.name, None, error, is_file and not os.path.lexists(picture.name))
    if known is not None and len(known) < _MOST_KNOWN:
        known[key] = height, width
    return Look(picture.name, (height, width))


def _examined(manifest: Manifest, i: int, check: Callable[[Sample], object] | None) -> Examined:
    source, number = manifest.place(i)
    place = f"{source.records.path}, record {number}"
    fields: Mapping[str, Any] = {}
    sample = None
    try:
        fields = source.records.fields(number)
        sample = source.records.sample_of(fields, number)
        if check:
            check(sample)
    except DovetailError as error:
        return Examined(i, place, fields, sample, (), error)
    return Examined(i, place, fields, sample)


def _looked(found: Examined, futures: list[Future[Look]]) -> Examined:
    looks = tuple(future.result() for future in futures)
    bad = [one for one in looks if one.error is not None]
    if found.error is not None or not bad or found.sample is None or bad[0].error is None:
        return found._replace(looks=looks)
    error = bad[0].error
    about = DataError(error.message, **error.details, hint=error.hint)
    return found._replace(looks=looks, error=in_record(about, found.sample.source, found.sample.number))
