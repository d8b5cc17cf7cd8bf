"""The one way from files to images: look at every file, decode every image once, say what was found.

Two passes over the files: the headers say which size and how many channels the set has, then every image is decoded
into its place. So memory holds the result and a few images in flight, never the originals. A file that turns out to
be bad is left out as if it had never been there: where it had a say in the size or the channels, the choice is made
again without it.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from alphabar.base.errors import DataError, printable
from alphabar.base.pixels import Units
from alphabar.data.batch import Images
from alphabar.data.decode import Header, Picture, decode_all, examine, quiet_decoders
from alphabar.data.fit import FITS, common_size
from alphabar.data.labels import Labels, read_labels
from alphabar.data.memory import allocate
from alphabar.data.pages import PAGES
from alphabar.data.reading import Reading
from alphabar.data.sniff import FORMATS, HEAD_BYTES, IMAGE_SUFFIXES, Content, sniff
from alphabar.data.store import Store
from alphabar.data.survey import Bad, Survey, Unusable
from alphabar.data.text import count, reason
from alphabar.data.values import SIXTEEN_BITS, NeedsRange, units_of
from alphabar.data.walk import Walk, suffix
from alphabar.data.workers import in_order

__all__ = ["SECONDS_PER_IMAGE", "scan"]

MAX_FILE_BYTES = 2**30
IN_FLIGHT_BYTES = 2**28
SECONDS_PER_IMAGE = 10.0
GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True)
class _Candidate:
    path: str
    content: Content
    header: Header

    @property
    def size(self) -> tuple[int, int]:
        return self.header.height, self.header.width


@dataclass(frozen=True)
class _Other:
    """A file that neither is nor claims to be an image."""

    path: str


class _Vanished(Exception):
    """A file of the listing is gone."""


@dataclass(frozen=True)
class _Facts:
    """What is kept of an image once its pixels are in place."""

    notes: tuple[str, ...]
    stored: str
    found: tuple[float, float] | None
    span: tuple[float, float] | None
    reduced: bool
    grey: bool
    digest: bytes
    constant: bool


# an image in its place's size
_Fitted = tuple[npt.NDArray[np.uint8], _Facts]


@dataclass
class _Placed:
    """All good images of one try: ``pixels`` has a row for each of ``rows`` (number of the file, what is known)."""

    pixels: npt.NDArray[np.uint8]
    rows: list[tuple[int, _Facts]] = field(default_factory=list)
    bad: dict[int, Bad] = field(default_factory=dict)


@dataclass(frozen=True)
class _Plan:
    """(C, H, W) of the set, and how images of other sizes come to it ("" where there are none)."""

    shape: tuple[int, int, int]
    note: str = ""


def scan(store: Store, found: Walk, reading: Reading) -> Images:
    """All images of ``store`` in the order of its listing ``found``, with their :class:`Survey`.

    Grey where all are grey, RGB where they mix, N channels where all have N. Raises :class:`Unusable` if more than
    5 % of the files are bad, :class:`DataError` where there is no image or a file vanishes.
    """
    with quiet_decoders():
        try:
            return _scan(store, found, reading)
        except _Vanished as gone:
            raise DataError(
                f"{store.where}: {gone} was there when the files were listed and is gone; put it back, or run the "
                "same command again without it"
            ) from None


def _scan(store: Store, found: Walk, reading: Reading) -> Images:
    bad = [Bad(*item) for item in found.bad]
    candidates, others = _look_at_all(store, found, reading, bad)
    labels = read_labels(store, found, [item.path for item in candidates])
    bad += labels.bad
    candidates = [item for item in candidates if labels.covers(item.path)]
    if not candidates and not bad:
        raise DataError(_nothing(store, found, others))
    while True:
        plan, good, unfit = _plan(candidates, reading)
        placed = _decode_all(store, good, plan, reading)
        broken = {item.path for item in placed.bad.values()}
        bad += placed.bad.values()
        candidates = [item for item in candidates if item.path not in broken]
        # a bad file must not decide how the good ones are read
        again = _plan(candidates, reading)
        if not broken or again[:2] == (plan, [item for item in good if item.path not in broken]):
            break
    bad = sorted([*bad, *unfit], key=lambda item: os.fsencode(item.path))
    rows = [(good[n], facts) for n, facts in placed.rows]
    if not rows:
        raise Unusable(store.where, Survey(bad=tuple(bad)), _ignored(found, others))
    return _images(store, placed.pixels, rows, plan, labels, bad, _ignored(found, others))


def _images(
    store: Store,
    pixels: npt.NDArray[np.uint8],
    rows: list[tuple[_Candidate, _Facts]],
    plan: _Plan,
    labels: Labels,
    bad: list[Bad],
    ignored: list[str],
) -> Images:
    notes = Counter[str]()
    grey = sum(facts.grey for _, facts in rows)
    if plan.shape[0] == 3 and grey == len(rows):
        pixels = _first_channel(pixels)
    elif plan.shape[0] == 3:
        notes["in grey converted to RGB, as others are in colour"] = grey
    if plan.note:
        notes[plan.note] = sum(item.size != plan.shape[1:] for item, _ in rows)
    numbers, class_names = labels.of([item.path for item, _ in rows])
    survey = _survey(rows, bad, numbers, class_names)
    lines = [*labels.notes, *_notes(rows, survey, notes), *ignored]
    images = Images(
        pixels,
        numbers,
        class_names,
        store.name,
        store.spec,
        tuple(lines),
        reduced=any(facts.reduced for _, facts in rows),
        units=_units(rows),
        survey=survey,
    )
    if survey.too_many_bad:
        raise Unusable(store.where, survey, lines, images)
    return images


def _first_channel(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    narrow = allocate((len(pixels), 1, *pixels.shape[2:]))
    narrow[:] = pixels[:, :1]
    return narrow


def _watched(what: str, reading: Reading, total: int, results: Iterator[T]) -> Iterator[T]:
    for done, result in enumerate(results, 1):
        yield result
        if done % 64 == 0 or done == total:
            reading.watch(done, total, what)


def _look_at_all(store: Store, found: Walk, reading: Reading, bad: list[Bad]) -> tuple[list[_Candidate], list[str]]:
    """(images, other files); what claims to be an image and is none joins ``bad``."""
    looks = in_order(
        lambda path: _look(store, path, reading),
        found.files,
        limit=SECONDS_PER_IMAGE,
        late=lambda path: Bad(path, _late("its header takes")),
    )
    outcomes = list(_watched("examined", reading, len(found.files), looks))
    arrays_too = not any(isinstance(one, _Candidate) and one.content.format != "NPY" for one in outcomes)
    candidates, others = [], []
    for path, outcome in zip(found.files, outcomes, strict=True):
        is_array = suffix(path) == ".npy" or (isinstance(outcome, _Candidate) and outcome.content.format == "NPY")
        if isinstance(outcome, _Other) or (is_array and not arrays_too):
            others.append(path)
        elif isinstance(outcome, Bad):
            bad.append(outcome)
        else:
            candidates.append(outcome)
    return candidates, others


def _late(what: str) -> str:
    return f"{what} more than {SECONDS_PER_IMAGE:.0f} s to decode; save it again in a plain form"


def _look(store: Store, path: str, reading: Reading) -> _Candidate | Bad | _Other:
    try:
        with store.open(path) as file:
            head = file.read(HEAD_BYTES)
            content = sniff(head)
            if not content.format:
                claims = content.raster or suffix(path) in IMAGE_SUFFIXES
                return Bad(path, content.words) if claims else _Other(path)
            file.seek(0)
            return _Candidate(path, content, examine(file, content, reading))
    except Exception as error:
        return _bad(path, error)


def _bad(path: str, error: Exception) -> Bad:
    """What a failure to read ``path`` means. Raises :class:`_Vanished` for a file that is no longer there."""
    if isinstance(error, NeedsRange):
        return Bad(path, str(error), error.low, error.high)
    if isinstance(error, DataError):
        return Bad(path, str(error))
    if isinstance(error, OSError):
        if error.errno in GONE:
            raise _Vanished(printable(path)) from error
        return Bad(path, reason(error))
    raise error


def _plan(candidates: list[_Candidate], reading: Reading) -> tuple[_Plan, list[_Candidate], list[Bad]]:
    """The shape of the set, the images that fit it, and those that do not."""
    if not candidates:
        return _Plan((1, 1, 1)), [], []
    channels = _channels(candidates, reading)
    fitting, unfit = [], []
    for item in candidates:
        own = PAGES[reading.pages].channels(item.header.channels, item.header.pages)
        if own == channels or {own, channels} == {1, 3}:
            fitting.append(item)
        else:
            unfit.append(Bad(item.path, f"{count(own, 'channel')}, most images have {channels}"))
    sizes = {item.size for item in fitting}
    if reading.size is None and len(sizes) == 1:
        return _Plan((channels, *sizes.pop())), fitting, unfit
    size = reading.size if reading.size is not None else common_size([min(item.size) for item in fitting])
    fit = FITS[reading.fit]
    advice = ", the least that is chosen for mixed sizes; data.size=N asks for another" if reading.size is None else ""
    large = []
    for item in fitting:
        if min(item.size) >= fit.least(size):
            large.append(item)
        else:
            unfit.append(Bad(item.path, f"{item.size[0]}x{item.size[1]} is smaller than {size}x{size}{advice}"))
    return _Plan((channels, size, size), f"of other sizes brought to {size}x{size} ({fit.words})"), large, unfit


def _channels(candidates: list[_Candidate], reading: Reading) -> int:
    counts = Counter(PAGES[reading.pages].channels(item.header.channels, item.header.pages) for item in candidates)
    if set(counts) <= {1, 3}:
        return max(counts)
    return max(counts, key=lambda channels: (counts[channels], channels))


def _decode_all(store: Store, good: list[_Candidate], plan: _Plan, reading: Reading) -> _Placed:
    pages = PAGES[reading.pages]
    placed = _Placed(allocate((sum(pages.images(item.header.pages) for item in good), *plan.shape)))
    results = in_order(
        lambda item: _decode(store, item, plan, reading),
        good,
        limit=SECONDS_PER_IMAGE,
        late=lambda item: Bad(item.path, _late("it takes")),
        ahead=max(4, min(64, IN_FLIGHT_BYTES // max(1, math.prod(plan.shape)))),
    )
    for n, outcome in enumerate(_watched("decoded", reading, len(good), results)):
        if isinstance(outcome, Bad):
            placed.bad[n] = outcome
            continue
        for pixels, facts in outcome:
            placed.pixels[len(placed.rows)] = pixels
            placed.rows.append((n, facts))
    placed.pixels = placed.pixels[: len(placed.rows)]
    return placed


def _decode(store: Store, item: _Candidate, plan: _Plan, reading: Reading) -> list[_Fitted] | Bad:
    try:
        with store.open(item.path) as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise DataError(f"a file of more than {MAX_FILE_BYTES // 2**20} MiB")
        smaller = item.size != plan.shape[1:]
        pictures = decode_all(data, item.content, reading, max(plan.shape[1:]) if smaller else None)
        if pictures[0].size != item.size or len(pictures) != PAGES[reading.pages].images(item.header.pages):
            raise DataError("its size is not that of its header, or the file changed while it was read")
        return [_fitted(picture, plan, reading) for picture in pictures]
    except Exception as error:
        return _bad(item.path, error)


def _fitted(picture: Picture, plan: _Plan, reading: Reading) -> _Fitted:
    channels, height, width = plan.shape
    pixels = picture.pixels
    if pixels.shape[:2] != (height, width):
        pixels = FITS[reading.fit].place(pixels, height, width, reading.background)
    own = 1 if pixels.ndim == 2 else pixels.shape[2]
    if own != channels and own != 1:
        raise DataError(f"{own} channels under a header of {channels}")
    out = np.broadcast_to(pixels if pixels.ndim == 2 else pixels.transpose(2, 0, 1), (channels, height, width))
    out = np.ascontiguousarray(out)
    digest = hashlib.blake2b(out.data, digest_size=16).digest()
    constant = bool(out.min() == out.max()) and out[0].size > 1
    return out, _Facts(
        picture.notes, picture.stored, picture.found, picture.span, picture.reduced, own == 1, digest, constant
    )


def _survey(
    rows: list[tuple[_Candidate, _Facts]],
    bad: list[Bad],
    numbers: npt.NDArray[np.int64] | None,
    class_names: tuple[str, ...],
) -> Survey:
    files = {item.path: item for item, _ in rows}
    sizes = Counter(item.size for item in files.values())
    usual = max(sizes, key=lambda size: (sizes[size], size))
    first: dict[bytes, str] = {}
    repeats = []
    for item, facts in rows:
        earlier = first.setdefault(facts.digest, item.path)
        if earlier != item.path:
            repeats.append((item.path, earlier))
    found = [facts.found for _, facts in rows if facts.found]
    classes = Counter(class_names[number] for number in numbers.tolist()) if numbers is not None else Counter[str]()
    return Survey(
        files=tuple(item.path for item, _ in rows),
        bad=tuple(bad),
        formats=Counter(item.content.format for item in files.values()),
        modes=Counter(item.header.mode for item in files.values()),
        sizes=Counter({f"{height}x{width}": n for (height, width), n in sizes.items()}),
        classes=classes,
        repeats=tuple(repeats),
        constant=tuple(item.path for item, facts in rows if facts.constant),
        off_size=tuple((path, f"{item.size[0]}x{item.size[1]}") for path, item in files.items() if item.size != usual),
        values=(min(low for low, _ in found), max(high for _, high in found)) if found else None,
    )


def _units(rows: list[tuple[_Candidate, _Facts]]) -> Units | None:
    """What 0 and 255 mean where every image was scaled from other values, else None."""
    spans = {facts.span for _, facts in rows}
    if None in spans or len(spans) != 1:
        return None
    (span,) = spans
    assert span is not None
    return units_of({facts.stored for _, facts in rows}, span)


def _notes(rows: list[tuple[_Candidate, _Facts]], survey: Survey, notes: Counter[str]) -> list[str]:
    for _, facts in rows:
        notes.update(facts.notes)
    notes["under the extension of another format, decoded by content"] = sum(
        IMAGE_SUFFIXES.get(suffix(item.path), "NPY") != item.content.format for item, _ in rows
    )
    notes["of one single value (constant)"] = len(survey.constant)
    notes["repeating another image exactly"] = len(rows) - len({facts.digest for _, facts in rows})
    lines = [f"{count(n, 'image')} {text}" for text, n in sorted(notes.items()) if n]
    if survey.values and survey.values[1] < SIXTEEN_BITS[1] / 4 and {facts.span for _, facts in rows} == {SIXTEEN_BITS}:
        low, high = survey.values
        lines.append(
            f"16-bit values go from {low:g} to {high:g} only, so the images are dark; "
            f"data.value_range=[{low:g},{high:g}] uses all levels"
        )
    return lines


def _ignored(found: Walk, others: list[str]) -> list[str]:
    lines = list(found.notes)
    lines += [f"{count(n, 'entry', 'entries')} ignored: {why}" for why, n in sorted(found.ignored.items())]
    others = [path for path in others if path not in found.used]
    if others:
        lines.append(f"{count(len(others), 'other file')} ignored (such as {printable(others[0])})")
    return lines


def _nothing(store: Store, found: Walk, others: list[str]) -> str:
    seen = "; ".join(_ignored(found, others)) or "there are no files"
    return (
        f"{store.where}: no images found (looked for {', '.join(FORMATS)} and NPY; {seen}); "
        "give the folder that holds the images"
    )
