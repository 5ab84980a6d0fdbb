from __future__ import annotations

import random

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from models.detectors.contract import Corpus, Ends, Seen
from models.detectors.quantities import quantities, spelled, units_of
from models.detectors.value import ValueParams
from models.detectors.value_columns import ABSENT, CONTINUOUS, DISCRETE, Columns, Frequencies, value_column
from models.errors import DataSetError, SettingsError
from tests.unit.detector_cases import NAMES, batches, corpus, is_faulty, lines, slow

FAULTY = (10, 20, 50, 90)

# ---- a second world: one line a second of each of three templates, whose numbers are said by the test

WORLD = ("", "", "queue holds <num> items", "<ip> GET <path> status <num> took <num>", "nothing to see")


def world(columns, services=(7,), start=0):
    """One batch; `columns` is (class, message of line i) by template, lines of the templates alternating."""
    count = len(columns[0][1])
    code = np.tile(np.array([one for one, _ in columns], np.int32), count)
    total = len(code)
    message = [messages[at] for at in range(count) for _, messages in columns]
    ts = 1_700_000_000_000 + 1000 * (start + np.repeat(np.arange(count), len(columns)))
    zeros = np.zeros(total, np.int32)
    service = np.array([services[at % len(services)] for at in range(total)], np.uint64)
    return Seen(
        code=code,
        windows=np.zeros((total, 5), np.int32),
        seq=code,
        ts=ts,
        now=ts,
        level=np.full(total, 3, np.uint8),
        key=service,
        service=service,
        has_session=np.zeros(total, np.bool_),
        is_late=np.zeros(total, np.bool_),
        text=zeros,
        texts=["x"],
        message=pa.array(message, pa.large_string()),
        ends=Ends(np.zeros((0, 5), np.int32), np.zeros(0, np.uint64), np.zeros(0, np.int64)),
    )


def wave(count, rng, start=0):
    """A queue that fills and empties once a minute."""
    levels = 100 + 80 * np.sin(2 * np.pi * (start + np.arange(count)) / 60) + rng.normal(0, 2, count)
    return [f"queue holds {level:.0f} items" for level in levels]


def requests(count, rng):
    """Mostly status 200, now and then 404; durations with a heavy tail (Pareto, without a mean)."""
    status = np.where(rng.random(count) < 0.05, 404, 200)
    took = 1 + rng.pareto(1.0, count)
    return [
        f"10.0.0.7 GET /a/b/c status {one} took {ms:.3f}"
        for one, ms in zip(status.tolist(), took.tolist(), strict=True)
    ]


@pytest.fixture(scope="module")
def learned():
    """The lesson of the shop."""
    return ValueParams().learn(corpus(), seed=1)


@pytest.fixture(scope="module")
def learned_world():
    """The lesson of the second world: 2,000 lines of each template."""
    rng = np.random.default_rng(1)
    one = world([(2, wave(2000, rng)), (3, requests(2000, rng)), (4, ["nothing to see"] * 2000)])
    return ValueParams(max_steps=150).learn(Corpus([one], WORLD, 5), seed=1)


def strangeness(lesson, names, seen):
    detector = ValueParams().build(lesson, names)
    return detector, detector.step(seen).line


def test_a_step_ten_times_as_slow_scores_above_all_normal_lines(learned):
    seen = batches(lines(120, seed=9, fault=slow, faulty=FAULTY))[0]
    detector, line = strangeness(learned, NAMES, seen)
    is_slow = is_faulty(seen, FAULTY) & (seen.code == 4)
    assert is_slow.sum() == len(FAULTY)
    assert line[is_slow].min() > 10 * np.nanmax(line[~is_slow])
    at = int(np.flatnonzero(is_slow)[0])
    sentence = detector.explain(seen, at).sentence
    number = seen.message[at].as_py().split()[-2]
    assert f"The number {number} in “" in sentence
    assert f"computed in {number} ms”" in sentence
    low, high = (float(one) for one in sentence.split("expect: ")[1].removesuffix(" ms.").split(" to "))
    assert 20 < low < 50 < high < 80


def test_few_normal_lines_are_put_before_the_network_and_the_rest_score_zero(learned):
    detector, line = strangeness(learned, NAMES, batches(lines(200, seed=4))[0])
    judged = line[~np.isnan(line)]
    assert (judged == 0).mean() > 0.9
    assert judged.max() < 6
    assert detector.explain(batches(lines(200, seed=4))[0], int(np.flatnonzero(line == 0)[0])).sentence.startswith(
        "All"
    )


def test_a_value_that_is_usual_but_not_after_those_before_it_is_found(learned_world):
    rng = np.random.default_rng(2)
    messages = wave(600, rng)
    odd = 300 + 15  # at the crest, where 180 is usual
    messages[odd] = "queue holds 40 items"  # as usual in the trough
    _, line = strangeness(learned_world, WORLD, world([(2, messages)]))
    before = np.delete(line, range(odd, odd + 11))  # the ten after it have it in their history
    assert line[odd] > 2 * before.max()
    assert line[odd] > line[odd + 1 : odd + 11].max()


def test_heavy_tails_do_not_flood_and_yet_what_is_far_beyond_them_is_found(learned_world):
    rng = np.random.default_rng(3)
    messages = requests(3000, rng)
    messages[1500] = "10.0.0.7 GET /a/b/c status 200 took 40000000.0"
    _, line = strangeness(learned_world, WORLD, world([(3, messages)]))
    normal = np.delete(line, 1500)
    assert (normal > 4).mean() < 0.002
    assert line[1500] > normal.max()


def test_a_status_never_seen_is_strange_and_a_rare_one_is_not(learned_world):
    rng = np.random.default_rng(4)
    messages = requests(300, rng)
    messages[100] = "10.0.0.7 GET /a/b/c status 503 took 1.500"
    messages[200] = "10.0.0.7 GET /a/b/c status 404 took 1.500"
    seen = world([(3, messages)])
    detector, line = strangeness(learned_world, WORLD, seen)
    assert line[100] > 3
    assert line[200] == 0
    assert "status 503" in detector.explain(seen, 100).sentence
    assert "new there; among the lines learned it was mostly 200, 404." in detector.explain(seen, 100).sentence


def test_a_long_silence_before_a_line_is_told_as_such(learned_world):
    rng = np.random.default_rng(5)
    detector = ValueParams().build(learned_world, WORLD)
    assert detector.step(world([(2, wave(60, rng))])).line.max() < 6
    late = world([(2, wave(1, rng, start=60))], start=60 + 7200)
    assert detector.step(late).line[0] > 6
    assert detector.explain(late, 0).sentence.startswith("The line came 2 h after the last of its kind; ")


def test_lines_without_their_usual_numbers_and_templates_without_any_are_not_judged(learned_world):
    rng = np.random.default_rng(6)
    seen = world([(2, [*wave(20, rng), "queue holds 5 of 9 items"]), (4, ["nothing to see"] * 21)])
    detector, line = strangeness(learned_world, WORLD, seen)
    assert np.isnan(line[1::2]).all()
    assert np.isnan(line[-2])
    assert not np.isnan(line[:-2:2]).any()
    assert detector.explain(seen, 1).sentence == "The line has no numbers that are judged."


def test_a_service_has_its_own_history_and_dropping_it_forgets_it(learned_world):
    rng = np.random.default_rng(7)
    seen = world([(2, wave(40, rng))], services=(7, 8))
    detector = ValueParams().build(learned_world, WORLD)
    detector.step(seen)
    both = detector.to_bytes()
    detector.drop(7)
    detector.check()
    other = ValueParams().build(learned_world, WORLD)
    other.step(seen.take(np.flatnonzero(seen.service == 8)))
    assert len(detector.to_bytes()) < len(both)
    assert detector.to_bytes() == other.to_bytes()


def test_state_is_bounded(learned_world):
    rng = np.random.default_rng(8)
    facts = dict(learned_world.facts, max_rows=16)
    lesson = type(learned_world)(learned_world.arrays, facts)
    detector = ValueParams().build(lesson, WORLD)
    for number in range(6):
        detector.step(world([(2, wave(9, rng))], services=range(9 * number, 9 * number + 9), start=number))
        detector.check()
    assert len(detector.to_bytes()) < 17 * 500


def test_too_few_lines_are_an_error_that_says_how_many_are_needed():
    rng = np.random.default_rng(9)
    with pytest.raises(DataSetError, match="at least 200 lines; the most frequent of 150 lines has 150"):
        ValueParams().learn(Corpus([world([(2, wave(150, rng))])], WORLD, 5))


def test_lines_whose_numbers_never_vary_are_an_error_that_says_what_is_needed():
    with pytest.raises(DataSetError, match=r"at least 200 lines whose numbers vary .* as many lines \(1\) none"):
        ValueParams().learn(Corpus([world([(2, ["queue holds 5 items"] * 300)])], WORLD, 5))


def test_settings_out_of_range_are_refused():
    with pytest.raises(SettingsError, match=r"tail_ratio is 0\.5"):
        ValueParams(tail_ratio=0.5)
    with pytest.raises(SettingsError, match="min_values is 3"):
        ValueParams(min_values=3)


def test_arrays_that_do_not_belong_together_are_refused(learned, learned_world):
    mixed = type(learned)({**learned.arrays, "template.code": learned_world.arrays["template.code"]}, learned.facts)
    with pytest.raises(ValueError, match="do not belong together"):
        ValueParams().build(mixed, NAMES)
    less = {name: array for name, array in learned.arrays.items() if name != "column.sigma"}
    with pytest.raises(ValueError, match="lacks sigma"):
        ValueParams().build(type(learned)(less, learned.facts), NAMES)


# ---- which numbers are judged

RNG = np.random.default_rng(0)
COUNT = 1000
KINDS = {
    "constant": (np.full(COUNT, 7.0), False, ABSENT),
    "counter": (np.cumsum(RNG.integers(0, 5, COUNT)).astype(float), False, ABSENT),
    "large identifier": (RNG.integers(10**8, 10**12, COUNT).astype(float), False, ABSENT),
    "ephemeral port": (RNG.integers(32768, 61000, COUNT).astype(float), False, ABSENT),
    "one of few ports": (RNG.choice([8080.0, 9092.0, 50010.0], COUNT), False, ABSENT),
    "process id, new after a restart": (np.repeat([11.0, 512.0, 640.0, 77.0], COUNT // 4), False, ABSENT),
    "moving away": (np.linspace(0, 1000, COUNT) + RNG.normal(0, 50, COUNT).round(), True, ABSENT),
    "status": (RNG.choice([200.0, 404.0, 500.0], COUNT, p=(0.9, 0.09, 0.01)), False, DISCRETE),
    "mostly zero": (np.where(RNG.random(COUNT) < 0.9, 0.0, RNG.integers(1, 9, COUNT)), True, DISCRETE),
    "duration in whole ms": (RNG.normal(20, 2, COUNT).round(), True, CONTINUOUS),
    "duration in ns": (RNG.lognormal(16, 1, COUNT).round(), True, CONTINUOUS),
    "size without unit": (RNG.lognormal(8, 1.5, COUNT).round(), False, CONTINUOUS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_that_measure_nothing_are_left_out(kind):
    values, has_unit, expected = KINDS[kind]
    assert value_column(values, np.arange(-1, COUNT - 1), has_unit, 0.01).kind == expected


def test_an_unseen_value_is_the_stranger_the_farther_it_lies_outside():
    values, has_unit, _ = KINDS["status"]
    column = value_column(values, np.arange(-1, COUNT - 1), has_unit, 0.01)
    frequencies = Frequencies(Columns.of([[column] + [column._replace(kind=ABSENT)] * 8]))
    raw = np.full((5, 9), np.nan)
    raw[:, 0] = (200.0, 500.0, 450.0, 503.0, 99999.0)
    common, rare, between, beyond, far = frequencies.deviation(np.zeros(5, np.intp), raw)[:, 0]
    assert common == 0
    assert 0 < rare <= between < beyond < far


# ---- quantities


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("took 35 ms, or took=35ms: 35.5%", [35.0, 35.0, 35.5]),
        ("in 1.2s after 3m, 512kB read, 2.5 MB left, 1,048,576 bytes", [1200.0, 18e4, 524288.0, 2621440.0, 1048576.0]),
        ("len: 42 time:0.25 x=-7 (8) [9]", [42.0, 0.25, -7.0, 8.0, 9.0]),
        ("from /10.250.7.96:50010 at 2018-09-28 12:58:00.123 on host7 blk_-160 0x1f 12e45 v1.2", []),
        ("/tmp/a/7 1/3 10-20 3.14.15 5e-05 1e+999 12345678901234567890", [5e-05]),
        ("0.000000001 1,2,3 007 200.", [1e-9, 7.0, 200.0]),
    ],
)
def test_a_quantity_is_a_number_by_itself_with_its_unit(message, expected):
    many = pl.Series([message] * 100)
    values, count = quantities(many)
    assert values.tolist() == expected * 100
    assert count.tolist() == [len(expected)] * 100
    assert [one.value for one in spelled(message)] == expected


def test_many_messages_and_one_are_read_alike():
    rng = random.Random(5)
    parts = [
        "12",
        "3.5",
        "1,234",
        "ms",
        " ",
        "=",
        ":",
        "-",
        "+",
        "MB",
        " MB",
        "/",
        "a",
        "x1",
        "é",
        ".",
        "e-05",
        "(",
        "_",
    ]
    parts += ["d", "\n", "KiB", ",", "0.1234567890123456789", "2018-09-28", "%", "b", '"']
    messages = ["".join(rng.choices(parts, k=rng.randint(0, 14))) for _ in range(5000)]
    values, count = quantities(pl.Series(messages))
    each = [[one.value for one in spelled(message)] for message in messages]
    assert count.tolist() == [len(found) for found in each]
    assert values.tolist() == [value for found in each for value in found]
    assert len(values) > 500


def test_a_unit_or_a_decimal_point_says_that_a_number_is_measured():
    messages = ["port 80 in 3 ms load 0.5", "port 81 in 12 ms load 1", "port 80 in 5 ms load 0.25", "no number"]
    assert units_of(messages, 3).tolist() == [False, True, True]
