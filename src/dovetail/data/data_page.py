"""The report of a manifest as a page for the terminal."""

from collections.abc import Iterable, Mapping

from dovetail.data.inspected import DataReport, turn_words
from dovetail.data.sample import Sample
from dovetail.render.page import Line, Page, Table
from dovetail.report import counted

_MOST_SOURCES = 32
_MOST = 8  # entries of a list of counts
_MOST_LETTERS = 400  # of a turn
_MOST_LISTED = 10


def data_page(report: DataReport) -> Page:
    """What is in a manifest, and what is wrong."""
    sources = report.manifest.sources
    page: Page = [
        Line(f"{report.manifest.path}: {counted(len(report.manifest), 'sample')}", "title"),
        Line(f"images from {report.image_root or 'beside the manifest'}", "dim"),
        Line(""),
        source_table(report),
        Line(""),
        fact_table(report),
    ]
    if len(sources) > 1:
        page.insert(1, Line(f"{len(sources)} sources", "dim"))
    for i, sample in enumerate(report.samples):
        page += [Line(""), *sample_lines(sample, i)]
    return [*page, *finding_lines(report), Line(""), verdict_line(report)]


def source_table(report: DataReport) -> Table:
    """The files, and what is taken of each."""
    every = report.manifest.sources
    rows = [one.as_json() for one in every[:_MOST_SOURCES]]
    left = [("", f"and {len(every) - len(rows)} more", "", "", "")] if len(every) > len(rows) else []
    return Table(
        ("file", "form", ">records", "sampling", ">taken"),
        tuple(
            (one["path"], one["form"], f"{one['records']:,}", one["sampling_strategy"], f"{one['taken']:,}")
            for one in rows
        )
        + tuple(left),
    )


def fact_table(report: DataReport) -> Table:
    """What was counted."""
    rows = [
        ("fields", _counts(report.fields)),
        ("turns in each", _numbers(report.turns)),
        ("images in each", _numbers(report.images_per_sample)),
    ]
    if set(report.videos_per_sample) - {0}:
        rows.append(("videos in each", _numbers(report.videos_per_sample)))
    if report.kinds:
        rows.append(("kinds", _counts(report.kinds)))
    for role, one in report.texts.items():
        rows.append(
            (
                role,
                f"{counted(one.turns, 'turn')} of about {one.mean:.0f} characters, at most {one.longest:,}",
            )
        )
    if report.images is None:
        rows.append(("image files", "not looked at; --check decodes every one"))
    else:
        found = report.images
        sizes = dict.fromkeys(filter(None, (found.smallest, found.median, found.largest)))
        said = f"; {' ... '.join(f'{h} x {w}' for h, w in sizes)}" if sizes else ""
        rows.append(
            (
                "image files",
                f"{found.whole:,} whole, {found.missing:,} missing, {found.broken:,} broken{said}",
            )
        )
    return Table(("of each sample", "what there is (in how many samples)"), tuple(rows))


def sample_lines(sample: Sample, number: int) -> Page:
    """A sample as lines."""
    about = ", ".join(filter(None, (sample.place, sample.id and f"id {sample.id}", sample.kind)))
    page: Page = [Line(f"sample {number} ({about})", "title")]
    for turn in sample.turns:
        page.append(Line(f"  {turn.role:<9}  {shortened(turn_words(turn))}"))
    return page


def finding_lines(report: DataReport) -> Page:
    """What is wrong, and the first samples that have it."""
    page: Page = []
    for finding in report.findings:
        page += [Line(""), Line(f"{finding.severity}: {finding.message}", finding.severity)]
        others = [one for one in report.refusals.listed if one.code == finding.code][1:_MOST_LISTED]
        page += [Line(f"  {one.place}: {shortened(one.message)}") for one in others]
        if (left := report.refusals.counts[finding.code] - 1 - len(others)) > 0:
            page.append(Line(f"  and {left:,} more; --json lists them"))
        page.append(Line(f"  hint: {finding.hint}"))
    return page


def verdict_line(report: DataReport) -> Line:
    """The last line."""
    if report.is_good:
        unchecked = "" if report.images else "; whether its images can be read was not checked (--check)"
        return Line(f"good: every record is a sample{unchecked}", "good")
    return Line(
        f"{len(report.refusals):,} of {counted(len(report.manifest), 'sample')} cannot be used", "error"
    )


def shortened(text: str) -> str:
    """A text in one line that is not too long; a line break is shown as it is written in JSON."""
    line = text.replace("\n", "\\n")
    return line if len(line) <= _MOST_LETTERS else f"{line[:_MOST_LETTERS]}… ({len(text):,} characters)"


def _counts(counts: Mapping[str, int]) -> str:
    return _joined(f"{name} ({count:,})" for name, count in counts.items())


def _numbers(counts: Mapping[int, int]) -> str:
    return _joined(f"{number} ({counts[number]:,})" for number in sorted(counts))


def _joined(words: Iterable[str]) -> str:
    every = [*words]
    return (
        ", ".join(every[:_MOST]) + (f" and {len(every) - _MOST} more" if len(every) > _MOST else "") or "none"
    )
