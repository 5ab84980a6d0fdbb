from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import DataSetError, SettingsError
from models.logql import LokiQuery
from models.loki_tail import LokiTail, LokiTailParams, TailPage

Entry = tuple[int, str, str, str]  # time, app, trace id, line
Arrival = tuple[int, Entry]

OVERLAP = 20
#: After this nothing arrives any more in these tests.
END = 200


def params(limit: int = 3, window: int = 50, start: int = 0, max_limit: int = 512, **fields: Any) -> LokiTailParams:
    asked = LokiQuery("h", '{app=~".+"}', start, start + 1, limit=limit, max_limit=max_limit, window_ns=window)
    return LokiTailParams(asked, **{"overlap_ns": OVERLAP, "sweep_ns": 7, "look_ns": 2} | fields)


class SimulatedLoki:
    """Entries become visible when they arrive; an answer holds the first `limit` of the range, those of one time in any order."""

    def __init__(self, arrivals: list[Arrival]) -> None:
        self.arrivals = arrivals
        self.asked = 0

    def answer(self, fields: dict[str, str], now: int) -> bytes:
        self.asked += 1
        start, end, limit = (int(fields[name]) for name in ("start", "end", "limit"))
        seen = {entry for arrival, entry in self.arrivals if arrival <= now and start <= entry[0] < end}
        found = sorted(seen, key=lambda entry: (entry[0], hash((entry, self.asked // 3))))
        streams: dict[str, list[Any]] = {}
        for time_ns, app, trace, line in found[:limit]:
            streams.setdefault(app, []).append([str(time_ns), line, {"structuredMetadata": {"trace_id": trace}}])
        result = [{"stream": {"app": app}, "values": values} for app, values in streams.items()]
        return orjson.dumps({"data": {"resultType": "streams", "result": result}})


class Topic:
    """What was committed: lines, and the notes that are not dropped."""

    def __init__(self) -> None:
        self.lines: list[Entry] = []
        self.notes: dict[int, bytes] = {}

    def commit(self, page: TailPage) -> None:
        for line in page.lines:
            fields = orjson.loads(line.value)
            self.lines.append((int(fields["timeUnixNano"]), fields["app"], fields["trace_id"], fields["message"]))
        if page.note:
            assert page.number not in self.notes
            self.notes[page.number] = page.note
        for number in page.dropped:
            del self.notes[number]


def follow(
    tail: LokiTail, loki: SimulatedLoki, topic: Topic, now: int, until: int, crashes: list[int], poll: int
) -> None:
    """Reads up to a time; the clock goes on with each request, and some of them end in a crash, before or after the commit."""
    while now < until:
        now += poll
        tail.begin(min(now, until))
        while (fields := tail.request()) is not None:
            page = tail.step(loki.answer(fields, now))
            tail.check()
            crash = crashes[loki.asked % len(crashes)] if crashes else 0
            if crash != 1:
                topic.commit(page)
            if crash:  # 1: nothing of the page was committed, 2: all of it
                tail = tail.params.build(topic.notes.items())
                tail.check()
                break
            now += loki.asked % 2
        assert loki.asked < 20_000


entries = st.tuples(
    st.integers(0, 100), st.sampled_from("ab"), st.sampled_from("xy"), st.sampled_from(["l1", "l2", "l3"])
)
arrivals = st.lists(st.tuples(entries, st.integers(-5, OVERLAP)), max_size=60)


@settings(max_examples=60, deadline=None)
@given(
    arrivals,
    st.integers(1, 6),
    st.integers(1, 60),
    st.integers(1, 9),
    st.lists(st.sampled_from([0, 0, 0, 1, 2]), max_size=9),
)
def test_every_entry_is_given_once_whatever_is_late_cut_or_killed(
    drawn: list[tuple[Entry, int]], limit: int, window: int, poll: int, crashes: list[int]
):
    # An entry may be written twice: Loki keeps it once.
    loki, topic = SimulatedLoki([(entry[0] + late, entry) for entry, late in drawn]), Topic()
    tail = params(limit, window).build()
    if crashes and 0 not in crashes:
        crashes = [*crashes, 0, 0, 0]
    follow(tail, loki, topic, 0, END, crashes, poll)
    last = params(limit, window).build(topic.notes.items())
    follow(last, loki, topic, END, END + 40, [], 10)
    assert Counter(topic.lines) == Counter({entry for entry, _ in drawn})
    assert len(topic.notes) <= 1  # what is final needs no note but the newest


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(entries, st.integers(0, 90)), max_size=40), st.integers(1, 6))
def test_what_comes_later_than_the_overlap_may_be_missed_and_is_never_doubled(
    drawn: list[tuple[Entry, int]], limit: int
):
    loki, topic = SimulatedLoki([(entry[0] + late, entry) for entry, late in drawn]), Topic()
    follow(params(limit).build(), loki, topic, 0, END, [0, 0, 1, 0, 2], 3)
    follow(params(limit).build(topic.notes.items()), loki, topic, END, END + 40, [], 10)  # what the crashes left unread
    counts = Counter(topic.lines)
    assert set(counts.values()) <= {1}
    first = {entry: min(late for other, late in drawn if other == entry) for entry, _ in drawn}
    assert {entry for entry, late in first.items() if late <= OVERLAP} <= counts.keys() <= first.keys()


def test_an_entry_that_is_late_is_found_by_the_next_sweep_and_not_by_a_look():
    loki, topic = SimulatedLoki([(50, (40, "a", "x", "late")), (40, (39, "a", "x", "soon"))]), Topic()
    tail = params(sweep_ns=1_000).build()
    follow(tail, loki, topic, 0, 60, [], 5)
    assert [line for *_, line in topic.lines] == ["soon"]
    tail.params.build(topic.notes.items())
    follow(tail.params.build(topic.notes.items()), loki, topic, 60, 61, [], 1)
    assert [line for *_, line in topic.lines] == ["soon", "late"]


def test_a_start_in_the_past_reads_on_from_there_and_keeps_only_what_may_still_change():
    loki = SimulatedLoki([(n, (n, "a", "x", "old")) for n in range(1_000)])
    topic = Topic()
    tail = params(limit=10, window=10_000, start=100).build()
    tail.begin(1_000)
    known = 0
    while (fields := tail.request()) is not None:
        topic.commit(tail.step(loki.answer(fields, 1_000)))
        known = max(known, len(tail._known))
    assert sorted(topic.lines) == [(n, "a", "x", "old") for n in range(100, 1_000)]
    assert known <= OVERLAP + 10
    assert sum(len(note) for note in topic.notes.values()) < 60 * (OVERLAP + 20)
    assert tail.floor_ns == 1_000 - OVERLAP


def test_more_entries_of_one_nanosecond_than_loki_gives_stop_the_tail_with_a_way_out():
    loki = SimulatedLoki([(5, (5, "a", "x", str(n))) for n in range(9)])
    topic = Topic()
    with pytest.raises(DataSetError, match="max_limit"):
        follow(params(limit=2, max_limit=8).build(), loki, topic, 0, 10, [], 1)
    # Nothing is lost: with a larger limit it goes on.
    follow(params(limit=2, max_limit=16).build(topic.notes.items()), loki, topic, 10, 20, [], 1)
    assert Counter(topic.lines) == Counter((5, "a", "x", str(n)) for n in range(9))


def test_a_flood_within_the_overlap_is_told():
    loki = SimulatedLoki([(5 + n, (5 + n, "a", "x", "l")) for n in range(9)])
    with pytest.raises(DataSetError, match="--overlap"):
        follow(params(max_known=5).build(), loki, Topic(), 0, 20, [], 20)


def test_a_quiet_loki_leaves_one_note_a_sweep_and_lets_go_of_the_older_ones():
    topic, loki = Topic(), SimulatedLoki([])
    follow(params().build(), loki, topic, 0, 100, [], 1)
    ((number, note),) = topic.notes.items()
    assert number > 5
    assert params().build([(number, note)]).floor_ns > 100 - OVERLAP - 8


def test_lines_carry_their_labels_and_go_by_service():
    body = {
        "data": {
            "resultType": "streams",
            "result": [
                {
                    "stream": {"service_name": "cart", "level": "error", "pod": "cart-1"},
                    "values": [["7", "disk full", {"structuredMetadata": {"trace_id": "abc"}}]],
                }
            ],
        }
    }
    tail = params().build()
    tail.begin(10)
    (line,) = tail.step(orjson.dumps(body)).lines
    assert line.key == b"cart"
    assert orjson.loads(line.value) == {
        "service_name": "cart",
        "level": "error",
        "pod": "cart-1",
        "trace_id": "abc",
        "timeUnixNano": "7",
        "message": "disk full",
    }


def test_the_parser_takes_service_level_session_and_time_from_such_a_line():
    import numpy as np

    from models.logql import record
    from models.parsing import LEVELS, ParseParams, Raw, parse

    value = record(
        1_700_000_000_123_456_789, "disk full", {"service_name": "cart", "detected_level": "error", "trace_id": "abc"}
    )
    raw = Raw([value], "logs", np.zeros(1, np.int32), np.zeros(1, np.int64), np.ones(1, np.int64))
    records, rejects = parse(raw, ParseParams())
    assert not rejects
    assert (records.service[0], LEVELS[records.level[0]], records.session[0]) == ("cart", "ERROR", "abc")
    assert (records.ts[0], records.message[0]) == (1_700_000_000_123, "disk full")


def test_notes_of_another_version_and_settings_that_make_no_sense_are_refused():
    with pytest.raises(DataSetError, match="version 9"):
        params().build([(0, b"\x09" + bytes(20))])
    with pytest.raises(SettingsError, match="negative"):
        params(overlap_ns=-1)
