"""What the value model learns: which templates have numbers worth judging, what is usual for them, and how well a network foretells them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from models.deeplog import FIRST_TEMPLATE
from models.detectors.contract import Bools, Corpus, Float32, Int64, UInt64
from models.detectors.quantities import quantities, units_of
from models.detectors.rows import mix
from models.detectors.value_columns import (
    ABSENT,
    CLIP,
    COLUMNS,
    CONTINUOUS,
    HELD_RATIO,
    VALUES,
    Column,
    Columns,
    time_column,
    value_column,
)
from models.detectors.value_network import WIDTH, Predictor, Tape, Task, fit
from models.errors import DataSetError

Float64 = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

_MAX_NUMBERS: Final = 32  # in a line; a line with more is a dump
_RUN: Final = 1000  # lines of a template taken together where not all are taken
_SAMPLE: Final = 50  # messages whose units are looked at
_USUAL_RATIO: Final = 0.5  # of a template's lines must have the same number of numbers
_ERRORS: Final = 4_000  # windows of a template whose errors are looked at, held out and fitted on each
_LEAST_SIGMA: Final = 0.1  # of a column's spread: where the network foretells to the digit, a digit is no news
_GAP_REACH: Final = 4.0  # standard deviations at which the longest gap learned lies: nights and halts are normal


@dataclass(frozen=True, slots=True)
class Templates:
    """Where the numbers of each template with a value model are.

    Shapes: `code int32[T]`; `count int32[T]` numbers in its usual message; `place int32[T, VALUES]` of each value among them, -1 for none.
    """

    code: npt.NDArray[np.int32]
    count: npt.NDArray[np.int32]
    place: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class _Lines:
    """Lines of candidate templates, in source order: `values` of all lines end to end, `start` of each line's, `count` of them.

    `run` numbers the stretches of neighbouring lines taken.
    """

    code: npt.NDArray[np.int32]
    service: UInt64
    now: Int64
    run: Int64
    values: Float64
    start: Places
    count: Places
    samples: Mapping[int, list[str]]

    def matrix(self, lines: Places, count: int) -> Float64:
        """The numbers of lines that have `count` of them; `[n, count]`."""
        found: Float64 = self.values[self.start[lines][:, None] + np.arange(count)]
        return found


class _Described(NamedTuple):
    """A template worth a model: its numbers in a usual message, the places of those judged, their columns, and its lines.

    Shapes: `lines intp[n]`, `raw float64[n, COLUMNS]`.
    """

    code: int
    usual: int
    places: list[int]
    columns: list[Column]
    lines: Places
    raw: Float64


@dataclass(frozen=True, slots=True)
class Chosen:
    """The templates chosen, and their lines by (service, template), in source order inside.

    Shapes: `model intp[M]`, `keys uint64[M]`, `raw float64[M, COLUMNS]` (NaN gap where no line is before), `is_held bool[M]`.
    """

    templates: Templates
    columns: Columns
    model: Places
    keys: UInt64
    raw: Float64
    is_held: Bools


def choose(corpus: Corpus, min_values: int, max_templates: int, max_lines: int, tail: float) -> Chosen:
    """The most frequent templates that have numbers worth judging.

    Raises: DataSetError if there is none.
    """
    lines = _gather(corpus, min_values, 2 * max_templates, max_lines)
    found: list[_Described] = []
    codes, counts = np.unique(lines.code, return_counts=True)
    for code in codes[np.lexsort((codes, -counts))].tolist():
        if len(found) == max_templates:
            break
        described = _describe(lines, code, min_values, tail)
        if described is not None:
            found.append(described)
    if not found:
        raise DataSetError(
            f"The value model needs a template with at least {min_values} lines whose numbers vary and measure something; "
            f"of those with as many lines ({len(codes)}) none has such numbers in most of them."
        )
    templates = Templates(
        code=np.array([one.code for one in found], np.int32),
        count=np.array([one.usual for one in found], np.int32),
        place=np.array([one.places + [-1] * (VALUES - len(one.places)) for one in found], np.int32),
    )
    sizes = [len(one.lines) for one in found]
    at = np.concatenate([one.lines for one in found])
    model = np.repeat(np.arange(len(found)), sizes)
    raw = np.concatenate([one.raw for one in found])
    is_held = np.concatenate([np.arange(size) >= int(size * (1 - HELD_RATIO)) for size in sizes])
    keys = mix(lines.service[at], lines.code[at])
    order = np.lexsort((at, keys))
    return Chosen(
        templates, Columns.of([one.columns for one in found]), model[order], keys[order], raw[order], is_held[order]
    )


def fit_columns(
    chosen: Chosen, hidden: int, length: int, max_steps: int, seed: int, report: Callable[[float, float], None]
) -> tuple[dict[str, Float32], Columns]:
    """A network that foretells the values, and the columns with the Gaussian of its errors on held-out lines."""
    values = chosen.columns.normalised(chosen.model, chosen.raw)
    distinct = len(np.unique(chosen.keys))
    tape = Tape.lay(vectors(values), chosen.keys, np.zeros((distinct, length, WIDTH), np.float32))
    is_known = ~np.isnan(values).all(axis=1)
    lines = np.flatnonzero(~chosen.is_held & is_known)
    steps = min(max_steps, max(100, len(lines) // 20)) if len(lines) else 0  # none: all columns are discrete
    task = Task(tape, chosen.model, values.astype(np.float32), lines)
    templates = len(chosen.templates.code)
    weights = fit(task, templates, hidden, length, steps, seed, report)
    network = Predictor(weights)
    bias = np.full((templates, COLUMNS), np.nan)
    sigma = np.full((templates, COLUMNS), np.nan)
    for model in range(templates):
        of_model = chosen.model == model
        errors = []
        for at in (np.flatnonzero(of_model & chosen.is_held)[-_ERRORS:], np.flatnonzero(of_model & ~chosen.is_held)):
            at = at[:: max(1, -(-len(at) // _ERRORS))]
            expected = network.predict(chosen.model[at], tape.before(tape.place[at], length))
            expected = np.clip(expected, chosen.columns.low[model], chosen.columns.high[model])
            errors.append(values[at] - expected)
        for column in np.flatnonzero(chosen.columns.kind[model] == CONTINUOUS).tolist():
            held, fitted = (each[~np.isnan(each[:, column]), column] for each in errors)
            bias[model, column], sigma[model, column] = _gaussian(
                held, fitted, reach=_GAP_REACH if column == 0 else None
            )
    return weights, replace(chosen.columns, bias=bias, sigma=sigma)


def vectors(values: Float64) -> Float32:
    """Normalised values as the network reads them: clipped, 0 where there is none, and a 1 that says that a line is there; `[M, WIDTH]`."""
    found = np.ones((len(values), WIDTH), np.float32)
    found[:, :COLUMNS] = np.nan_to_num(np.clip(values, -CLIP, CLIP))
    return found


def _gather(corpus: Corpus, min_values: int, max_templates: int, max_lines: int) -> _Lines:
    """The numbers of the most frequent templates that have placeholders; where they have many lines, of runs spread evenly over them."""
    code = corpus.column("code") if corpus.batches else np.zeros(0, np.int32)
    count = np.bincount(code, minlength=len(corpus.names) + 1)[: len(corpus.names)]
    count[:FIRST_TEMPLATE] = 0
    count[[at for at, name in enumerate(corpus.names) if "<" not in name]] = 0
    candidates = np.argsort(-count, kind="stable")[:max_templates]
    candidates = candidates[count[candidates] >= min_values]
    if not len(candidates):
        raise DataSetError(
            f"The value model needs a template with numbers and at least {min_values} lines; the most frequent of "
            f"{len(corpus):,} lines has {max(count, default=0):,}."
        )
    run = np.full(len(code), -1, np.int64)
    for one in candidates.tolist():
        at = np.flatnonzero(code == one)
        number = np.arange(len(at)) // _RUN
        stride = -(-len(at) // max_lines)
        run[at] = np.where(number % stride == 0, number if stride > 1 else 0, -1)

    values, counts = [np.zeros(0)], [np.zeros(0, np.intp)]
    samples: dict[int, list[str]] = {one: [] for one in candidates.tolist()}
    low = 0
    for batch in corpus.batches:
        taken = np.flatnonzero(run[low : low + len(batch)] >= 0)
        low += len(batch)
        if not len(taken):
            continue
        found, each = quantities(pl.Series(batch.message.take(taken)))
        values.append(found)
        counts.append(each)
        for one in np.unique(batch.code[taken]).tolist():
            more = taken[batch.code[taken] == one][: _SAMPLE - len(samples[one])]
            samples[one] += [batch.message[int(at)].as_py() for at in more]
    taken = np.flatnonzero(run >= 0)
    count_of_line = np.concatenate(counts)
    return _Lines(
        code=code[taken],
        service=corpus.column("service")[taken],
        now=corpus.column("now")[taken],
        run=run[taken],
        values=np.concatenate(values),
        start=np.cumsum(count_of_line) - count_of_line,
        count=count_of_line,
        samples=samples,
    )


def _describe(lines: _Lines, code: int, min_values: int, tail: float) -> _Described | None:
    """What the numbers of a template are like; None if none is worth judging."""
    at = np.flatnonzero(lines.code == code)
    usual = int(np.bincount(lines.count[at]).argmax())
    enough = max(min_values, _USUAL_RATIO * len(at))
    at = at[lines.count[at] == usual]
    if not 0 < usual <= _MAX_NUMBERS or len(at) < enough:
        return None
    before = _before(lines.service[at], lines.run[at])
    matrix = lines.matrix(at, usual)
    has_unit = units_of(lines.samples[code], usual)
    places: list[int] = []
    columns: list[Column] = []
    for place in range(usual):
        column = value_column(matrix[:, place], before, bool(has_unit[place]), tail)
        if column.kind != ABSENT and len(places) < VALUES:
            places.append(place)
            columns.append(column)
    if not places:
        return None
    raw = np.full((len(at), COLUMNS), np.nan)
    raw[:, 0] = np.where(before >= 0, lines.now[at] - lines.now[at][before], np.nan)
    raw[:, 1 : 1 + len(places)] = matrix[:, places]
    gap = time_column(raw[:, 0], before, tail)
    return _Described(code, usual, places, [gap, *columns, *[Column(ABSENT)] * (VALUES - len(places))], at, raw)


def _before(service: UInt64, run: Int64) -> Places:
    """Which line is the one before in the same service and run, -1 if none; lines in source order."""
    order = np.argsort(service, kind="stable")
    before = np.full(len(order), -1, np.intp)
    before[order[1:]] = np.where(service[order[1:]] == service[order[:-1]], order[:-1], -1)
    return np.where(run == run[before], before, -1)


def _gaussian(held: Float64, fitted: Float64, reach: float | None) -> tuple[float, float]:
    """Centre and robust standard deviation of errors.

    The deviation is the largest of what the median absolute deviation and the far quantiles give, so that a heavy tail widens the interval
    instead of flooding; held-out lines rule, and the interval is never narrower than on the lines fitted on.
    """
    centre = float(np.median(held)) if len(held) else 0.0
    sigma = _LEAST_SIGMA
    for errors in (held, fitted):
        if not len(errors):
            continue
        size = np.abs(errors - centre)
        half, far = np.quantile(size, (0.5, 0.99))
        sigma = max(sigma, 1.4826 * float(half), float(far) / 2.576)
        if len(size) >= 1000:
            sigma = max(sigma, float(np.quantile(size, 0.999)) / 3.29)
        if reach is not None:
            sigma = max(sigma, float(size.max()) / reach)
    return centre, sigma


def arrays_of(templates: Templates, weights: Mapping[str, Float32], columns: Columns) -> dict[str, npt.NDArray[Any]]:
    """All that was learned, by name."""
    return {
        "template.code": templates.code,
        "template.count": templates.count,
        "template.place": templates.place,
        **{f"column.{name}": array for name, array in columns.to_arrays().items()},
        **{f"network.{name}": array for name, array in weights.items()},
    }
