"""What only the data can show: NaN and infinity, zeros, copies that differ, an untrained look.

Each tensor is read once, in pieces that stay in the processor's cache. The magnitude bits of a float
order like its size, so one masked maximum over the bits finds NaN, infinity and all-zero alike; only
tensors that have something are looked at again.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from threading import local
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dovetail.explain.examine import Examination
from dovetail.explain.match import PartMatch
from dovetail.report import Finding, Report, counted, more
from dovetail.store.cast import to_numbers
from dovetail.store.content import are_equal
from dovetail.store.readers import readers
from dovetail.store.source import LocalSource
from dovetail.store.store import Entry, Store

if TYPE_CHECKING:
    from numpy.typing import NDArray

# told bytes done and bytes in all
Progress = Callable[[int, int], None]

# dtype -> unsigned view, mask that drops the sign, smallest bits that are not a finite number
_BITS: dict[str, tuple[Any, int, int]] = {
    "F64": (np.uint64, 0x7FFF_FFFF_FFFF_FFFF, 0x7FF0_0000_0000_0000),
    "F32": (np.uint32, 0x7FFF_FFFF, 0x7F80_0000),
    "F16": (np.uint16, 0x7FFF, 0x7C00),
    "BF16": (np.uint16, 0x7FFF, 0x7F80),
    "F8_E5M2": (np.uint8, 0x7F, 0x7C),
    "F8_E4M3": (np.uint8, 0x7F, 0x7F),
}
_BLOCK = 1 << 20
_SAMPLE = 1 << 14
# std of the normal initialiser: `initializer_range` of every family here (transformers' configs)
_RANGE = 0.02


class Look(NamedTuple):
    """What one tensor's values look like."""

    bad: int
    is_zero: bool
    constant: float | None
    is_fresh: bool
    spread: float


def check_values(examination: Examination, *, progress: Progress | None = None) -> Report:
    """The report with findings about the data. `progress` is told the bytes read and the bytes in all.

    Raises:
        FormatError: a file became shorter while it was read.
    """
    store, one, report = examination.store, examination.explanation, examination.report
    if not store.has_bytes:
        note = Finding(
            code="no-values",
            severity="warning",
            message="the values were not checked: this input holds names and shapes only",
            hint="give the weights themselves to --values",
        )
        return report.with_findings(note)
    begin = perf_counter()
    looks = _look_at_all(store, progress)
    findings = [*_bad(looks), *_zeros(store, looks)]
    ties = report.ties
    if one is not None:
        for role, match in one.roles.items():
            findings += _copies(role, match, store)
            findings += _fresh(role, match, looks)
        ties, tie_findings = _ties(examination)
        findings += tie_findings
    seconds = {**report.seconds, "values": perf_counter() - begin}
    return report.replace(ties=ties, unchecked=(), seconds=seconds).with_findings(*findings)


def in_file_order(store: Store) -> list[str]:
    """Every tensor once, as the files hold them; second names of shared bytes are left out."""
    names = [name for name in store.entries if name not in store.aliases]
    return sorted(names, key=lambda name: (store.entries[name].file, store.entries[name].start))


def _look_at_all(store: Store, progress: Progress | None) -> dict[str, Look]:
    """Every tensor's look, in file order; local files are read by all cores."""
    names, looks = in_file_order(store), {}
    done, total = 0, sum(store.entries[name].bytes for name in names)
    with readers(store) as read:
        for name, look in zip(names, read(partial(look_at, store), names), strict=True):
            looks[name] = look
            done += store.entries[name].bytes
            if progress:
                progress(done, total)
    return looks


class _Scratch(local):
    """Memory that a thread uses again for every block."""

    def __init__(self) -> None:
        self.block = memoryview(bytearray(_BLOCK))
        self.magnitude = np.empty(_BLOCK, dtype=np.uint8)


_scratch = _Scratch()


def look_at(store: Store, name: str) -> Look:
    """Reads one tensor."""
    entry = store.entries[name]
    kind = _BITS.get(entry.dtype)
    if kind is None or entry.elements == 0:
        return Look(0, False, None, False, math.nan)
    view, mask, limit = kind
    top, first, bad = 0, None, 0
    scratch = _scratch.magnitude.view(view)
    for block in _blocks(store, name):
        bits = np.frombuffer(block, dtype=view)
        if first is None:
            first = bits[:_SAMPLE].copy() if bits.size > _SAMPLE else bits.copy()
        magnitude = np.bitwise_and(bits, view(mask), out=scratch[: bits.size])
        largest = int(magnitude.max())
        top = max(top, largest)
        if largest >= limit:
            bad += int((magnitude >= limit).sum())
    assert first is not None
    sample = to_numbers(first, entry.dtype).astype(np.float32, copy=False)
    is_constant = entry.elements <= _SAMPLE and bool((sample == sample[0]).all())
    spread = float(sample.std()) if not bad else math.nan
    is_fresh = len(entry.shape or ()) >= 2 and not bad and _is_fresh(sample, entry, spread)
    return Look(bad, top == 0, float(sample[0]) if is_constant else None, is_fresh, spread)


def _blocks(store: Store, name: str) -> Iterator[Any]:
    """The bytes of a tensor in cache-sized pieces; a local file is read into one reused buffer."""
    entry = store.entries[name]
    source = store.source(entry.file)
    if not isinstance(source, LocalSource) or entry.strides is not None:
        yield from store.blocks(name, _BLOCK)
        return
    for offset in range(entry.start, entry.end, _BLOCK):
        piece = _scratch.block[: min(_BLOCK, entry.end - offset)]
        if source.read_into(offset, piece) != len(piece):
            source.exactly(offset, len(piece), f"tensor `{name}`")
        yield piece


def _is_fresh(sample: "NDArray[np.float32]", entry: Entry, spread: float) -> bool:
    """Whether a matrix has the exact distribution of an initialiser.

    Normal with std 0.02 (transformers' `initializer_range`), or uniform within 1/sqrt(fan_in) (torch's
    default for nn.Linear and nn.Conv). Trained matrices keep neither the spread nor the shape.
    """
    count = sample.size
    if count < 256 or not math.isfinite(spread) or spread == 0:
        return False
    tolerance = 4 / math.sqrt(2 * count)
    shape = entry.shape or ()
    bound = 1 / math.sqrt(max(1, math.prod(shape[1:])))
    if abs(spread / (bound / math.sqrt(3)) - 1) < tolerance and float(np.abs(sample).max()) <= bound * 1.004:
        return True
    if abs(spread / _RANGE - 1) > tolerance:
        return False
    squares = np.square(sample - sample.mean())
    kurtosis = float(np.square(squares).mean()) / spread**4
    return abs(kurtosis - 3) < 6 * math.sqrt(24 / count) or abs(kurtosis - 2.65) < 0.35


def _bad(looks: Mapping[str, Look]) -> Iterator[Finding]:
    names = tuple(name for name, look in looks.items() if look.bad)
    if names:
        count = sum(looks[name].bad for name in names)
        yield Finding(
            code="nan",
            severity="error",
            message=f"`{names[0]}`{more(len(names) - 1)}: {counted(count, 'value')} NaN or infinite",
            tensors=names,
            hint="training diverged or the file was damaged; go back to an earlier checkpoint",
        )


def _zeros(store: Store, looks: Mapping[str, Look]) -> Iterator[Finding]:
    names = tuple(n for n, look in looks.items() if look.is_zero and len(store.entries[n].shape or ()) > 1)
    if names:
        every = (
            " every matrix of the file is"
            if len(names) > 3
            and all(looks[n].is_zero for n in looks if len(store.entries[n].shape or ()) > 1)
            else ""
        )
        yield Finding(
            code="zeros",
            severity="warning",
            message=f"{every.strip() or f'`{names[0]}`{more(len(names) - 1)} is'} all zero",
            tensors=names,
            hint="a tensor that was never written, or a placeholder made with `dovetail make --sparse`",
        )


def _copies(role: str, match: PartMatch, store: Store) -> Iterator[Finding]:
    differing = [(copy, name) for copy, name in match.duplicates if not are_equal(store, copy, name)]
    if differing:
        copy, name = differing[0]
        yield Finding(
            code="duplicate-differs",
            severity="error",
            part=role,
            message=f"`{copy}`{more(len(differing) - 1)} should be the same tensor as `{name}` and is not",
            tensors=tuple(copy for copy, _ in differing),
            hint="which of the two a loader takes is chance; find out which one was trained",
        )


def _ties(examination: Examination) -> tuple[tuple[Any, ...], list[Finding]]:
    """Compares each stored tied tensor with the one it may share."""
    one, store, ties, findings = examination.explanation, examination.store, [], []
    assert one is not None
    for tie in examination.report.ties:
        if not tie.is_stored:
            ties.append(tie)
            continue
        text, _, leaf = tie.leaf.partition(".")
        a = _stored_name(one.roles[tie.role], None)
        b = _stored_name(one.roles[text], leaf)
        equal = are_equal(store, a, b) if a and b else None
        ties.append(tie._replace(are_equal=equal))
        if equal is False and tie.flag is True:
            findings.append(
                Finding(
                    code="tie-flag",
                    severity="warning",
                    part=tie.role,
                    message=f"`{a}` differs from `{b}` although the config says tie_word_embeddings = true",
                    tensors=(a,) if a else (),
                    hint="a loader that believes the flag drops the stored tensor; set the flag to false",
                )
            )
    return tuple(ties), findings


def _stored_name(match: PartMatch, leaf: str | None) -> str | None:
    for row in match.rows:
        if leaf is None or leaf in row.row.leaves:
            return next(iter(row.tensors.values()))
    return None


def _fresh(role: str, match: PartMatch, looks: Mapping[str, Look]) -> Iterator[Finding]:
    """A part whose norms are all ones (or zeros, Gemma) and whose matrices have an initialiser's spread."""
    names = [name for row in match.rows for name in row.tensors.values() if name in looks]
    fresh = [name for name in names if looks[name].is_fresh]
    matrices = [name for name in names if not math.isnan(looks[name].spread) and looks[name].constant is None]
    vectors = [name for row in match.rows if _is_norm(row.row.leaves[0]) for name in row.tensors.values()]
    constant = [name for name in vectors if looks[name].constant in (0.0, 1.0)]
    if matrices and len(fresh) * 10 >= len(matrices) * 9 and len(constant) == len(vectors):
        norms = f"{len(constant)} of {len(vectors)} norms are untouched, " if vectors else ""
        spread = looks[fresh[0]].spread
        yield Finding(
            code="fresh-init",
            severity="warning",
            part=role,
            message=f"{role} looks freshly initialised: {norms}{len(fresh)} of {len(matrices)} matrices "
            f"have the spread of an initialiser (`{fresh[0]}`: {spread:.4f})",
            tensors=tuple(fresh),
            hint="a loader may have left this part random before it was saved; compare it with the original",
        )
        return
    yield from _fresh_outliers(role, match, looks)


def _fresh_outliers(role: str, match: PartMatch, looks: Mapping[str, Look]) -> Iterator[Finding]:
    """Single tensors of a stack with an initialiser's spread among trained ones."""
    odd = []
    for row in match.rows:
        names = [name for name in row.tensors.values() if name in looks]
        fresh = [name for name in names if looks[name].is_fresh]
        others = [looks[name].spread for name in names if not looks[name].is_fresh]
        if fresh and len(names) >= 3 and len(fresh) * 4 <= len(names):
            typical = sorted(others)[len(others) // 2]
            odd += [name for name in fresh if abs(looks[name].spread / typical - 1) > 0.1]
    if odd:
        yield Finding(
            code="fresh-init",
            severity="warning",
            part=role,
            message=f"`{odd[0]}`{more(len(odd) - 1)} looks freshly initialised among trained layers",
            tensors=tuple(odd),
            hint="a loader may have left it random before this was saved; compare it with the original",
        )


def _is_norm(leaf: str) -> bool:
    return "norm" in leaf and leaf.endswith("weight")
