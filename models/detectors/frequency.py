"""Frequency: a template far more often than in the hour before, one that falls silent, one that comes at a new steady rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from models.detectors.contract import DIGITS, Corpus, Evidence, Int64, Learned, Report, Scores, Seen, quiet
from models.detectors.rates import MINUTE_MS, MOST, RING, Float64, MinuteCounts, Rates, learn_rates, surprise
from models.detectors.rows import DetectorWithRows, Places, Rows, mix
from models.detectors.runs import begins, ranks, running_max, shifted
from models.detectors.words import quoted
from models.errors import DataSetError, SettingsError

_PRESENT: Final = 10  # minutes judged, the one at hand among them
_BASELINES: Final = 6  # of these, the hour before
_LEVEL: Final = 30  # whole minutes whose rate is a level, in three parts of ten
_LEAST: Final = 1 / 12  # lines expected in ten minutes at least: half a line an hour
_SURE: Final = 3.0  # digits of surprise that a new level needs
_MIN_MINUTES: Final = 3  # of a corpus
_MIN_SILENCE_MS: Final = MINUTE_MS
_SERVICE: Final = 0  # the class that stands for all lines of a service
_NEVER: Final = np.iinfo(np.int64).max
_RECORD: Final = np.dtype(
    [
        ("touched_ms", "<i8"),  # the service's time at the newest line
        ("since_ms", "<i8"),  # … and at the first
        ("longest_ms", "<i8"),  # the longest time without a line, learned or met since
        ("due_ms", "<i8"),  # when it will have been silent for too long
        ("service", "<u8"),
        ("code", "<i4"),
        ("level", "<i4"),  # the lines of half an hour that were told as a new level, and 1; 0: as learned
        ("ring", "<u2", (RING,)),
    ]
)


@dataclass(frozen=True)
class FrequencyParams:
    """What is too often, too seldom, or a new level.

    Attributes:
        ratio: times the usual count that the last ten minutes must exceed to be a spike …
        min_per_minute: … which must also be more than this a minute.
        silence_ratio: times the longest time ever without a line that must have gone by to be a silence; and a minute at least.
        level_ratio: times the usual rate by which each ten minutes of the last thirty must be above or below it, to be a new level.
        max_rows: rows of state in a shard, of 196 bytes, and no fewer than a batch has services and templates; beyond, the longest
            untouched are evicted.
    """

    name: ClassVar[str] = "frequency"
    is_heavy: ClassVar[bool] = False
    family: ClassVar[str] = "number"
    is_fitted_once: ClassVar[bool] = False
    is_service_wide: ClassVar[bool] = True

    ratio: float = 5.0
    min_per_minute: float = 10.0
    silence_ratio: float = 3.0
    level_ratio: float = 3.0
    max_rows: int = 20_000

    def __post_init__(self) -> None:
        for name in ("ratio", "silence_ratio", "level_ratio"):
            if not 1 < getattr(self, name) < 1e6:
                raise SettingsError(f"frequency: {name} is {getattr(self, name)}; give more than 1.")
        if self.min_per_minute < 0 or self.max_rows < 2:
            raise SettingsError("frequency: min_per_minute must not be negative, and max_rows at least 2.")

    def learn(self, corpus: Corpus, *, seed: int = 0, report: Report = quiet) -> Learned:
        """The rate of each class, how it spreads, and the longest time without a line of it.

        Raises: DataSetError if no service was seen for three minutes.
        """
        report("counting by minute", 0.0, None)
        rates, minutes = learn_rates(corpus)
        if minutes < _MIN_MINUTES:
            raise DataSetError(f"frequency: {minutes:.1f} minutes of lines; at least {_MIN_MINUTES} are needed.")
        report("counting by minute", 1.0, None)
        return Learned(
            {"per_minute": rates.per_minute, "dispersion": rates.dispersion, "longest_ms": rates.longest_ms},
            {"minutes": minutes},
        )

    def build(self, learned: Learned, names: Sequence[str]) -> Frequency:
        """The detector.

        Raises: ValueError if what was learned does not fit the names.
        """
        arrays = learned.arrays
        rates = Rates(
            np.asarray(arrays["per_minute"], np.float64),
            np.asarray(arrays["dispersion"], np.float64),
            np.asarray(arrays["longest_ms"], np.int64),
        )
        shape = (len(names),)
        if not rates.per_minute.shape == rates.dispersion.shape == rates.longest_ms.shape == shape:
            raise ValueError(f"frequency: rates of {rates.per_minute.shape[0]} classes do not fit {len(names)} names")
        if (rates.per_minute < 0).any() or (rates.dispersion <= 0).any():
            raise ValueError("frequency: a rate or a dispersion is out of range")
        return Frequency(self, rates, names)


@dataclass(frozen=True, slots=True)
class _Found:
    """What was found at each line of a batch, for `step` to score and `explain` to tell.

    Shapes: [N] columns. Scores are 0 where there is nothing: `spike`, `silence`, `level`. Then what they rest on: the lines of the last ten
    minutes `present` and `expected`; the class that was silent (`silent`, −1 none), for how long, `silent_ms`, and at most before,
    `longest_ms`; the lines of half an hour, `level_lines` and `level_usual`.
    """

    spike: Float64
    silence: Float64
    level: Float64
    present: Int64
    expected: Float64
    silent: Int64
    silent_ms: Int64
    longest_ms: Int64
    level_lines: Int64
    level_usual: Float64

    @classmethod
    def nothing(cls, size: int) -> _Found:
        """Nothing found in `size` lines."""
        whole = [np.zeros(size, np.int64) for _ in range(5)]
        real = [np.zeros(size) for _ in range(5)]
        return cls(real[0], real[1], real[2], whole[0], real[3], whole[1] - 1, whole[2], whole[3], whole[4], real[4])


@dataclass(frozen=True, slots=True)
class _Lines:
    """The lines of a batch that are not late, sorted twice: by service, and by service and class; in source order inside.

    The runs are first the S services, as class 0, then the G templates of these services.

    Shapes: `order` places in the batch, [2L]; `now` of each; `first` where each run begins, [S + G]; `run` of each place; of each run
    `service` (an index into `services`), `code`, its row `row` and what that held before the batch, `stored`, and whether it
    `is_fresh`; `split` is L.
    """

    services: npt.NDArray[np.uint64]
    order: Places
    now: Int64
    first: Places
    run: Places
    service: Places
    code: npt.NDArray[np.int32]
    row: Places
    stored: npt.NDArray[np.void]
    is_fresh: npt.NDArray[np.bool_]
    split: int

    @property
    def last(self) -> Places:
        """The last place of each run."""
        return np.append(self.first[1:], len(self.order)) - 1


class Frequency(DetectorWithRows):
    """The strongest of three, each 0 where it does not hold; all by the service's own time, which never falls.

    Spike: the template's lines in the last ten minutes (the minute at hand so far and the nine before) exceed `ratio` times its mean of ten minutes in
    the hour before these, and `min_per_minute`; score: the surprise of that count, in digits. Until a service was seen for
    that whole hour, the learned rate stands for it. Silence: a template, or the whole service, that came in a steady way has stayed away for
    `silence_ratio` times longer than ever before; told once, at the first line of the service that shows it; score: the digits of
    the probability of no line for so long at the learned rate. New level: each of the three ten minutes before the minute at hand is above
    (or below) the learned rate by `level_ratio`; told once, after which the new level is the usual one; score: its surprise.

    State: by service and class, and by service: 70 counts by minute, first and newest time, longest silence, level.

    Source: Poisson surprise and its bound, see rates.py; a count against the window before it is the rate rule of alerting systems (Beyer et
    al., The Site Reliability Workbook (2018), chapter 5).
    """

    def __init__(self, params: FrequencyParams, rates: Rates, names: Sequence[str]) -> None:
        self._params, self._rates, self._names = params, rates, names
        self._rows = Rows(_RECORD, params.max_rows)
        self._found = _Found.nothing(0)

    def step(self, seen: Seen) -> Scores:
        """The score of each line; NaN for late lines, which change nothing, and for ends."""
        scores = Scores.silent(seen)
        found = self._found = _Found.nothing(len(seen))
        live = np.flatnonzero(~seen.is_late)
        if not len(live):
            return scores
        lines = self._sorted(seen, live)
        after = lines.stored.copy()
        after["service"], after["code"] = lines.services[lines.service], lines.code
        after["since_ms"] = np.where(lines.is_fresh, lines.now[lines.first], after["since_ms"])
        self._count(lines, after, found)
        self._silences(lines, after, found)
        self._rows.is_dirty[lines.row] = True
        strongest = np.maximum(np.maximum(found.spike, found.silence), found.level)
        scores.line[live] = strongest[live].round(DIGITS)
        return scores

    def explain(self, seen: Seen, at: int, *, is_end: bool = False) -> Evidence:
        """The count, the silence or the level that was found, against the usual one."""
        found = self._found
        name = quoted(self._names, int(seen.code[at]))
        strongest = max(found.spike[at], found.silence[at], found.level[at])
        if strongest and strongest == found.silence[at]:
            silent = int(found.silent[at])
            what = "its service sent nothing" if silent == _SERVICE else f"there was no {quoted(self._names, silent)}"
            longest = _span(int(found.longest_ms[at]))
            return Evidence(f"For {_span(int(found.silent_ms[at]))} {what}; the longest pause before was {longest}.")
        if strongest and strongest == found.level[at]:
            lines, usual = int(found.level_lines[at]), float(found.level_usual[at])
            return Evidence(
                f"In half an hour, {name} came {lines:,} times, a new level: {usual:,.1f} times were usual."
            )
        present, expected = int(found.present[at]), float(found.expected[at])
        return Evidence(f"In the last ten minutes, {name} came {present:,} times; {expected:,.1f} times were expected.")

    def check(self) -> None:
        """Raise AssertionError unless the rows are whole and within their bound."""
        super().check()
        data = self._rows.data[self._rows.is_used]
        assert (data["since_ms"] <= data["touched_ms"]).all()
        assert (data["touched_ms"] <= data["due_ms"]).all()
        assert ((data["code"] >= 0) & (data["code"] < len(self._names))).all()

    def _sorted(self, seen: Seen, live: Places) -> _Lines:
        services, service = np.unique(seen.service[live], return_inverse=True)
        classes = len(self._names)
        template = service * classes + seen.code[live]
        order = np.append(np.argsort(service, kind="stable"), len(live) + np.argsort(template, kind="stable"))
        key = np.append(service * classes, template + len(services) * classes)[
            order
        ]  # the services lie before the templates
        is_first = begins(key)
        first = np.flatnonzero(is_first)
        kind, code = np.divmod(key[first], classes)
        run_service = kind % len(services)
        row = self._rows.at(mix(services[run_service], code))
        stored = self._rows.data[row]
        place = live[order % len(live)]
        return _Lines(
            services,
            place,
            seen.now[place],
            first,
            np.cumsum(is_first) - 1,
            run_service,
            code.astype(np.int32),
            row,
            stored,
            stored["touched_ms"] == 0,
            len(live),
        )

    # ---- spikes and levels

    def _count(self, lines: _Lines, after: npt.NDArray[Any], found: _Found) -> None:
        """Judge the counts of the templates by minute, and move their rings on."""
        skip = len(lines.services)
        order, run = lines.order[lines.split :], lines.run[lines.split :] - skip
        minute = lines.now[lines.split :] // MINUTE_MS
        code, service = lines.code[skip:], lines.service[skip:]
        last = np.where(lines.is_fresh, lines.now[lines.first], lines.stored["touched_ms"])[skip:] // MINUTE_MS
        is_cell = begins(run, minute)
        place, cell = np.flatnonzero(is_cell), np.cumsum(is_cell) - 1
        cell_run, cell_minute = run[place], minute[place]
        counts = MinuteCounts(
            lines.stored["ring"][skip:], last, cell_run, cell_minute, np.diff(place, append=len(order))
        )
        cell_code = code[cell_run]
        age = cell_minute - (after["since_ms"][: len(lines.services)] // MINUTE_MS)[service[cell_run]]

        def lines_between(begin: int, end: int) -> Int64:
            """Lines of each cell's run in the minutes from `begin` up to `end` (exclusive) before its own."""
            return counts.until(cell_run, cell_minute - end - 1) - counts.until(cell_run, cell_minute - begin - 1)

        nine, hour = lines_between(_PRESENT - 1, 0), lines_between(RING - 1, _PRESENT - 1)
        learned = self._rates.per_minute[cell_code] * _PRESENT
        expected = np.maximum(np.where(age >= RING, hour / _BASELINES, learned), _LEAST)
        present = nine[cell] + np.minimum(counts.stored[cell] + ranks(place, len(order)) + 1, MOST)
        found.present[order], found.expected[order] = present, expected[cell]
        is_spike = (present > self._params.ratio * expected[cell]) & (present > self._params.min_per_minute * _PRESENT)
        at = np.flatnonzero(is_spike)
        of = cell[at]
        found.spike[order[at]] = surprise(present[at], expected[of], self._rates.dispersion[cell_code[of]])

        after["ring"][skip:] = counts.moved_on((lines.now[lines.last] // MINUTE_MS)[skip:])
        old = np.flatnonzero((age > _LEVEL) & (self._rates.per_minute[cell_code] > 0))
        if len(old):
            thirds = np.stack([lines_between(end + 10, end) for end in (0, 10, 20)])
            self._levels(after["level"][skip:], thirds, old, cell_run, cell_code, order[place], found)

    def _levels(
        self,
        level: npt.NDArray[np.int32],
        thirds: Int64,
        left: Places,
        cell_run: Places,
        cell_code: npt.NDArray[np.int32],
        line: Places,
        found: _Found,
    ) -> None:
        """Tell the cells `left` that show a new level, and note it in `level`; each time round the first one of each run."""
        half_hour = thirds.sum(axis=0)
        while len(left):
            run, code = cell_run[left], cell_code[left]
            usual = np.where(level[run] > 0, level[run] - 1, self._rates.per_minute[code] * _LEVEL)
            usual = np.maximum(usual, 3 * _LEAST)
            tenth, ratio = usual / 3, self._params.level_ratio
            is_apart = (thirds[:, left] > ratio * tenth).all(axis=0) | (thirds[:, left] * ratio < tenth).all(axis=0)
            score = surprise(half_hour[left], usual, self._rates.dispersion[code])
            new = np.flatnonzero(is_apart & (score >= _SURE))
            runs, hit = np.unique(run[new], return_index=True)
            new = new[hit]  # the first of each run
            told = left[new]
            found.level[line[told]], found.level_usual[line[told]] = score[new], usual[new]
            found.level_lines[line[told]] = half_hour[told]
            level[runs] = half_hour[told] + 1
            done = np.full(len(level), len(line))  # cells up to here are judged, all of them where no level is new
            done[runs] = told
            left = left[left > done[run]]

    # ---- silences

    def _silences(self, lines: _Lines, after: npt.NDArray[Any], found: _Found) -> None:
        """Tell which silences came to light, and note the newest lines."""
        fresh, stored = lines.is_fresh, lines.stored
        learned = self._rates.longest_ms[lines.code]
        longest_then = np.where(fresh, learned, stored["longest_ms"])
        before = shifted(lines.now, lines.first, np.where(fresh, lines.now[lines.first], stored["touched_ms"]))
        gap = lines.now - before
        longest = running_max(gap, lines.run, longest_then)
        longest_before = shifted(longest, lines.first, longest_then)
        over = np.flatnonzero((gap > self._allowed(longest_before)) & (learned > 0)[lines.run])

        last = lines.last
        newest, longest_now = lines.now[last], longest[last]
        after["touched_ms"], after["longest_ms"] = newest, longest_now
        after["due_ms"] = np.where(learned > 0, newest + self._allowed(longest_now), _NEVER)
        data = self._rows.data
        data[lines.row] = after

        # Silences that a line ended, and those that go on. One that was due before the batch has been told before.
        size = len(lines.services)
        past = np.where(fresh, lines.now[lines.first], stored["touched_ms"])[:size]
        present = newest[:size]
        open_rows = np.flatnonzero(
            self._rows.is_used & (data["due_ms"] < present.max()) & (data["due_ms"] >= past.min())
        )
        place = np.minimum(np.searchsorted(lines.services, data["service"][open_rows]), size - 1)
        is_here = lines.services[place] == data["service"][open_rows]
        open_rows, place = open_rows[is_here], place[is_here]
        service = np.append(lines.service[lines.run[over]], place)
        if not len(service):
            return
        code = np.append(lines.code[lines.run[over]], data["code"][open_rows])
        since = np.append(before[over], data["touched_ms"][open_rows])
        most = np.append(longest_before[over], data["longest_ms"][open_rows])
        due = since + self._allowed(most)
        is_told = (due >= past[service]) & (due < present[service])
        service, code, since, most, due = (column[is_told] for column in (service, code, since, most, due))

        # The first line of the service whose time is beyond the due time; services lie one after another in `order`.
        now, low = lines.now[: lines.split], lines.now.min()
        span = lines.now.max() - low + 1
        reach = service * span + np.clip(due - low, -1, span - 1)
        at = np.searchsorted(lines.run[: lines.split] * span + (now - low), reach, "right")
        line, silent_ms = lines.order[at], now[at] - since
        score = silent_ms * self._rates.per_minute[code] / (MINUTE_MS * np.log(10))
        strongest = np.lexsort((-code, score))  # last wins
        line, score = line[strongest], score[strongest]
        found.silence[line], found.silent[line] = score, code[strongest]
        found.silent_ms[line], found.longest_ms[line] = silent_ms[strongest], most[strongest]

    def _allowed(self, longest_ms: Int64) -> Int64:
        """How long a silence may last."""
        allowed = np.maximum(longest_ms * self._params.silence_ratio, _MIN_SILENCE_MS)
        return allowed.astype(np.int64)


def _span(ms: int) -> str:
    """A time in the unit that suits it.

    >>> [_span(ms) for ms in (850, 65_000, 1_500_000, 86_400_000)]
    ['0.8 s', '65.0 s', '25.0 min', '24.0 h']
    """
    for size, unit in ((3_600_000, "h"), (60_000, "min")):
        if ms >= 2 * size:
            return f"{ms / size:.1f} {unit}"
    return f"{ms / 1000:.1f} s"
