"""Values: a number in a line that its template's last numbers did not lead to expect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from models.detectors.contract import Corpus, Evidence, Learned, Report, Scores, Seen, quiet
from models.detectors.quantities import Quantity, quantities, spelled
from models.detectors.rows import DetectorWithRows, Rows, mix
from models.detectors.value_columns import COLUMNS, CONTINUOUS, VALUES, Columns, Frequencies
from models.detectors.value_learning import Templates, arrays_of, choose, fit_columns, vectors
from models.detectors.value_network import WIDTH, Predictor, Tape
from models.errors import SettingsError

Float64 = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

_DIGITS: Final = 3  # of a score in standard deviations
_REACH: Final = 3.0  # standard deviations to either side of what is told to be expected
_AROUND: Final = 32  # characters of the message shown before a number
_NOTHING: Final = "All numbers of the line are within what is usual for lines of its kind."


@dataclass(frozen=True)
class ValueParams:
    """What is judged, and how finely.

    Attributes:
        min_values: lines a template needs in order to have a value model.
        max_templates: the most frequent such templates are kept.
        history: lines of the same template and service that the network reads.
        hidden: width of the network.
        tail_ratio: a value among this share of the smallest or largest, or of the largest steps from the value before, is put before the
            network; other lines have score 0.
        max_lines: of a template are learned from, in runs spread evenly.
        max_steps: of the optimiser, 256 windows each.
        max_rows: (service, template) pairs whose last values are kept.
    """

    name: ClassVar[str] = "deeplog-value"
    is_heavy: ClassVar[bool] = False
    family: ClassVar[str] = "value"
    is_fitted_once: ClassVar[bool] = True
    is_service_wide: ClassVar[bool] = False

    min_values: int = 200
    max_templates: int = 64
    history: int = 10
    hidden: int = 32
    tail_ratio: float = 0.01
    max_lines: int = 20_000
    max_steps: int = 1_000
    max_rows: int = 20_000

    def __post_init__(self) -> None:
        for name, least in (
            ("min_values", 20),
            ("max_templates", 1),
            ("history", 1),
            ("hidden", 1),
            ("max_lines", 1000),
            ("max_steps", 1),
            ("max_rows", 16),
        ):
            if getattr(self, name) < least:
                raise SettingsError(f"{name} is {getattr(self, name)}; give at least {least}.")
        if not 0 < self.tail_ratio <= 0.1:
            raise SettingsError(f"tail_ratio is {self.tail_ratio}; give a share above 0, at most 0.1.")

    def learn(self, corpus: Corpus, *, seed: int = 0, report: Report = quiet) -> Learned:
        """The numbers worth judging, a network that foretells them, and the Gaussian of its errors."""
        report("numbers", 0.0, None)
        chosen = choose(corpus, self.min_values, self.max_templates, self.max_lines, self.tail_ratio)
        weights, columns = fit_columns(
            chosen, self.hidden, self.history, self.max_steps, seed, lambda done, loss: report("values", done, loss)
        )
        facts = {"history": self.history, "max_rows": self.max_rows, "lines": len(chosen.model)}
        return Learned(arrays_of(chosen.templates, weights, columns), facts)

    def build(self, learned: Learned, names: Sequence[str]) -> Value:
        """The detector, with no values seen."""
        return Value(learned.arrays, len(names), int(learned.facts["history"]), int(learned.facts["max_rows"]))


@dataclass(frozen=True, slots=True)
class _Step:
    """What the last step found, for `explain`: the lines judged, their template's model, and their strangest column.

    `expected` is the value expected there, normalised; NaN for a discrete column or where the network was not asked.
    """

    line: Places
    model: Places
    raw: Float64
    score: Float64
    column: Places
    expected: Float64


class Value(DetectorWithRows):
    """Score: how many standard deviations a line's strangest number lies from what was expected; 0 for what is plainly usual.

    An LSTM reads the last values of the template in the service, the time between the lines as one more value, and foretells the next. Its
    errors on held-out normal lines give the standard deviation of each value. It is asked only where a value, or its step from the one before,
    is among the rarest. Values that take few numbers, such as status codes, are judged by how rare theirs is, on the same scale.

    NaN: templates without numbers worth judging, and lines that do not have their template's usual number of numbers.

    Source: Du et al., DeepLog: Anomaly Detection and Diagnosis from System Logs through Deep Learning (CCS 2017), section 3.2. Added here:
    one network for all templates, each parameter judged by itself, and robust scales instead of one Gaussian of the mean squared error.

    State: for each (service, template) the last values, normalised, and the time; at most `max_rows` of 424 bytes.
    """

    def __init__(self, arrays: Mapping[str, npt.NDArray[Any]], classes: int, history: int, max_rows: int) -> None:
        def part(prefix: str) -> dict[str, npt.NDArray[Any]]:
            return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}

        self._templates = Templates(**part("template."))
        self._columns = Columns.from_arrays(part("column."))
        self._frequencies = Frequencies(self._columns)
        self._network = Predictor(part("network."))
        count = len(self._templates.code)
        if not count == len(self._columns.kind) == self._network.templates or self._templates.code.max() >= classes:
            raise ValueError("the templates, columns and weights of a value model do not belong together")
        self._model_of = np.full(classes + 1, -1, np.intp)  # by class; the end of a session is one more
        self._model_of[self._templates.code] = np.arange(count)
        self._history = history
        record = [("touched_ms", "<i8"), ("service", "<u8"), ("last", "<f4", (history, WIDTH))]
        self._rows = Rows(record, max_rows)
        self._latest: _Step | None = None

    def step(self, seen: Seen) -> Scores:
        """The scores of the lines that have a value model; ends have none."""
        scores = Scores.silent(seen)
        self._latest = None
        line, model, values = self._read(seen)
        if not len(line):
            return scores
        keys = mix(seen.service[line], seen.code[line])
        order = np.argsort(keys, kind="stable")  # by service and template, in source order inside
        line, model, values, keys = line[order], model[order], values[order], keys[order]
        found = self._judge(seen, line, model, values, keys)
        scores.line[line] = found.score
        self._latest = found
        return scores

    def _read(self, seen: Seen) -> tuple[Places, Places, Float64]:
        """The lines with a value model and their usual number of numbers, the model, and its values `[M, VALUES]`."""
        line = np.flatnonzero(self._model_of[seen.code] >= 0)
        if not len(line):
            return line, line, np.zeros((0, VALUES))
        message = seen.message if len(line) == len(seen) else seen.message.take(pa.array(line))
        numbers, count = quantities(pl.Series(message, dtype=pl.String))
        start = np.cumsum(count) - count
        model = self._model_of[seen.code[line]]
        usual = np.flatnonzero(count == self._templates.count[model])
        line, model = line[usual], model[usual]
        place = self._templates.place[model]  # [M, VALUES]
        values = np.append(numbers, np.nan)[np.where(place >= 0, start[usual][:, None] + place, -1)]
        return line, model, values

    def _judge(self, seen: Seen, line: Places, model: Places, values: Float64, keys: npt.NDArray[np.uint64]) -> _Step:
        """Scores of lines in order of their keys; the state moves on by them."""
        columns, now = self._columns, seen.now[line]
        first = np.flatnonzero(np.append(True, keys[1:] != keys[:-1]))
        last = np.append(first[1:], len(keys)) - 1
        rows = self._rows.at(keys[first])
        data = self._rows.data

        before_ms = np.empty(len(line), np.float64)
        before_ms[1:] = now[:-1]
        before_ms[first] = np.where(data["last"][rows, -1, -1] > 0, data["touched_ms"][rows], np.nan)
        raw = np.column_stack((now - before_ms, values))  # [M, COLUMNS]
        normal = columns.normalised(model, raw)
        tape = Tape.lay(vectors(normal), keys, data["last"][rows])
        previous = tape.vectors[tape.place - 1]  # [M, WIDTH]
        before = np.where(previous[:, -1:] > 0, previous[:, :COLUMNS], np.nan)

        strange = self._frequencies.deviation(model, raw)
        expected = np.full(raw.shape, np.nan)
        asked = np.flatnonzero(columns.is_remarkable(model, normal, before))
        if len(asked):
            expected[asked] = self._network.predict(model[asked], tape.before(tape.place[asked], self._history))
            strange[asked] += columns.deviation(model[asked], normal[asked], expected[asked])

        data["last"][rows] = tape.before(tape.place[last] + 1, self._history)
        data["touched_ms"][rows] = now[last]
        data["service"][rows] = seen.service[line[last]]
        self._rows.is_dirty[rows] = True

        column = strange.argmax(axis=1)
        each = np.arange(len(line))
        score = np.round(strange[each, column], _DIGITS)
        return _Step(line, model, raw, score, column, expected[each, column])

    def explain(self, seen: Seen, at: int, *, is_end: bool = False) -> Evidence:
        """Which number, what it was, and what was expected."""
        found = self._latest
        place = np.zeros(0, np.intp) if found is None or is_end else np.flatnonzero(found.line == at)
        if found is None or not len(place):
            return Evidence("The line has no numbers that are judged.")
        one = int(place[0])
        score, model, column = float(found.score[one]), int(found.model[one]), int(found.column[one])
        if score == 0:
            return Evidence(_NOTHING)
        value = float(found.raw[one, column])
        if column == 0:
            low, high = self._interval(model, column, float(found.expected[one]))
            return Evidence(
                f"The line came {_duration(value)} after the last of its kind; {_duration(max(0.0, low))} to {_duration(high)} was "
                f"expected ({score:.1f} standard deviations off)."
            )
        message = seen.message[at].as_py()
        quantity = spelled(message)[int(self._templates.place[model, column - 1])]
        shown = f"The number {quantity.text} in “{_around(message, quantity)}”"
        if self._columns.kind[model, column] == CONTINUOUS:
            low, high = self._interval(model, column, float(found.expected[one]))
            sentence = (
                f"{shown} is {score:.1f} standard deviations from what the values before it led to expect: "
                f"{quantity.like(low, high)}."
            )
        else:
            typical = self._columns.typical(model, column)
            usual = ", ".join(quantity.like(float(one)) for one in typical[:3])
            often = "rare" if value in typical else "new"
            sentence = f"{shown} is {often} there; among the lines learned it was mostly {usual}."
        return Evidence(sentence, differing=[quantity.text])

    def _interval(self, model: int, column: int, expected: float) -> tuple[float, float]:
        """What would have been expected, as raw values; never below 0 where nothing usual was."""
        columns = self._columns
        middle = float(np.clip(expected, columns.low[model, column], columns.high[model, column]))
        middle += float(columns.bias[model, column])
        reach = _REACH * float(columns.sigma[model, column])
        low, high = columns.raw(model, column, middle - reach), columns.raw(model, column, middle + reach)
        is_positive = columns.raw(model, column, float(columns.low[model, column])) >= 0
        return (max(0.0, low) if is_positive else low), high

    def check(self) -> None:
        """Raise AssertionError unless the rows are whole, within their bound, and readable by the network."""
        super().check()
        assert np.isfinite(self._rows.data["last"]).all()


def _around(message: str, quantity: Quantity) -> str:
    """The words beside a quantity, on one line."""
    start = max(0, quantity.start - _AROUND)
    end = min(len(message), quantity.end + _AROUND // 2)
    before, behind = message[start : quantity.start], message[quantity.end : end]
    if start and " " in before:
        before = before[before.index(" ") + 1 :]
    if end < len(message) and " " in behind:
        behind = behind[: behind.rindex(" ")]
    words = " ".join(f"{before}{message[quantity.start : quantity.end]}{behind}".split())
    return ("…" if start else "") + words + ("…" if end < len(message) else "")


def _duration(ms: float) -> str:
    """A time as people say it.

    >>> _duration(350.0), _duration(90_000.0), _duration(8 * 3.6e6)
    ('350 ms', '1.5 min', '8 h')
    """
    for unit, size in (("h", 3.6e6), ("min", 6e4), ("s", 1e3)):
        if ms >= size:
            return f"{ms / size:.3g} {unit}"
    return f"{ms:.3g} ms"
