from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from console.board import MAX_REVISIONS, Board, Filter, Row, read_anomaly
from console.feed import Event, apply, read_event
from console.marks import Marks
from models.control import Feedback, Pattern, Release, Undo
from models.learning.feedback_log import FeedbackLog
from tests.unit.console_cases import START_MS, number, record, status, told

PATTERN = "line:order:1a2b3c4d:44444444"


def mark(at: int, label: str = "normal", version: int = 1, **given: object) -> Feedback:
    fields = {"anomaly_id": number(at), "patterns": (Pattern(pattern=PATTERN, level=4.2),)} | given
    return Feedback(command_id=f"m{version}", version=version, service="cart", by="ada", label=label, **fields)


def board_of(*ats: int, most: int = 100) -> Board:
    board = Board(most)
    for at in ats:
        board.tell(told(at))
    return board


def names(rows: list[Row]) -> list[str]:
    return [row.told.anomaly_id for row in rows]


def test_a_revision_changes_what_a_row_says_and_not_where_it_stands() -> None:
    board = board_of(1, 2, 3)
    board.tell(told(1, revision=1, status="strengthened", score=0.9))
    page = board.page(Filter())
    assert names(page.rows) == [number(3), number(2), number(1)]
    assert page.rows[-1].told.status == "strengthened"
    assert [telling.revision for telling in page.rows[-1].tellings] == [0, 1]


def test_an_older_revision_that_comes_late_joins_the_timeline_only() -> None:
    board = Board()
    for revision in (2, 0, 2, 1):
        board.tell(told(1, revision=revision, score=0.1 * revision))
    row = board.row(number(1))
    assert row is not None
    assert row.told.revision == 2
    assert [telling.revision for telling in row.tellings] == [0, 1, 2]


def test_the_same_messages_read_twice_change_nothing() -> None:
    board = Board()
    for _ in range(2):
        for at in range(5):
            board.tell(told(at))
        board.tell_command(mark(1))
    assert len(board) == 5
    assert names(board.page(Filter()).rows) == [number(at) for at in (4, 3, 2, 1, 0)]
    assert len(board.marks.history(number(1))) == 1


def test_only_the_newest_are_kept_and_timelines_are_bounded() -> None:
    board = board_of(*range(30), most=10)
    assert names(board.page(Filter()).rows) == [number(at) for at in range(29, 19, -1)]
    for revision in range(1, 200):
        board.tell(told(29, revision=revision))
    assert len(board.row(number(29)).tellings) == MAX_REVISIONS
    board.check()


def test_pages_follow_one_another_without_gap_or_overlap_while_new_ones_arrive() -> None:
    board = board_of(*range(25))
    up_to, found, before = board.newest_seq, [], None
    while True:
        page = board.page(Filter(), 10, before, up_to)
        found += names(page.rows)
        board.tell(told(1_000 + len(found)))
        if page.before is None:
            break
        before = page.before
    assert found == [number(at) for at in range(24, -1, -1)]
    assert board.page(Filter(), 0, after=up_to).total == 3


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Filter(service="pay"), [2]),
        (Filter(mode="shadow"), [3]),
        (Filter(text="DISK full"), [4]),
        (Filter(text="disk empty"), []),
        (Filter(detector="rapid"), [5]),
        (Filter(status="refuted"), [6]),
        (Filter(since_ms=START_MS + 6_000), [7, 6]),
        (Filter(until_ms=START_MS + 1_000), [1]),
        (Filter(session="req-3"), [3]),
        (Filter(fingerprint=number("pay")), [2]),
        (Filter(label="normal"), [7]),
    ],
)
def test_filters_admit_what_they_name(wanted: Filter, expected: list[int]) -> None:
    board = Board()
    special = {
        2: {"service": "pay"},
        3: {"mode": "shadow"},
        4: {"message": "the disk is full"},
        5: {"detectors": {"rapid": 3.0, "novelty": 1.0}},
        6: {"status": "refuted"},
        7: {"patterns": []},
    }
    for at in range(1, 8):
        board.tell(told(at, **({"detectors": {"count": 3.0}} | special.get(at, {}))))
    board.tell_command(mark(7, patterns=()))
    assert names(board.page(wanted).rows) == [number(at) for at in expected]


def test_the_newest_mark_is_the_label_and_what_an_undone_one_had_replaced_does_not_return() -> None:
    board = board_of(1)
    row = board.row(number(1))
    board.tell_command(mark(1, "anomalous", version=2))
    board.tell_command(mark(1, "normal", version=1))
    assert board.label(row) == "anomalous"
    undo = Undo(command_id="u", version=3, service="cart", by="eve", target="m2")
    board.tell_command(undo)
    assert board.label(row) == "open"
    assert [(found.given.label, found.undone_by) for found in board.marks.history(number(1))] == [
        ("anomalous", "eve"),
        ("normal", None),
    ]


def test_an_undo_that_is_read_before_its_mark_still_takes_it_back() -> None:
    board = board_of(1)
    board.tell_command(Undo(command_id="u", version=3, service="cart", by="eve", target="m1"))
    board.tell_command(mark(1))
    assert board.label(board.row(number(1))) == "open"


def test_an_undo_of_another_service_takes_nothing_back() -> None:
    board = board_of(1)
    board.tell_command(mark(1))
    board.tell_command(Undo(command_id="u", version=3, service="pay", by="eve", target="m1"))
    assert board.label(board.row(number(1))) == "normal"


def test_repeats_of_what_was_marked_are_muted_until_the_suppression_ends() -> None:
    board = board_of(1, 2, 90)
    board.tell(told(3, patterns=[{"pattern": PATTERN, "level": 1}, {"pattern": "line:text:1a2b3c4d:-", "level": 1}]))
    board.tell_command(mark(1, "suppressed", until_ms=START_MS + 10_000))
    labels = {at: board.label(board.row(number(at))) for at in (1, 2, 3, 90)}
    assert labels == {1: "suppressed", 2: "muted", 3: "open", 90: "open"}
    assert board.covering(board.row(number(2))).given.by == "ada"


def test_repeats_are_counted_and_show_when_they_came() -> None:
    board = Board()
    for at in range(48):
        board.tell(told(at, fingerprint=number("often")))
    board.tell(told(48, fingerprint=number("once")))
    once, often = board.repeats(Filter())
    assert (once.count, often.count) == (1, 48)
    assert (often.first_ts, often.last_ts) == (START_MS, START_MS + 47_000)
    assert sum(often.histogram) == 48
    assert once.histogram[-1] == 1


def test_precision_counts_the_detectors_that_had_a_part() -> None:
    board = board_of(1, 2, 3)
    board.tell_command(mark(1, "anomalous", version=1))
    board.tell_command(mark(2, "normal", version=2))
    board.tell_command(mark(3, "suppressed", version=3))
    found = board.precision()
    assert {name: (one.right, one.wrong, one.ratio) for name, one in found.items()} == {
        "all": (1, 1, 0.5),
        "deeplog": (1, 1, 0.5),
    }
    assert board.precision("pay") == {}
    [(day, one)] = board.precision_by_day()
    assert (day % 86_400_000, one.ratio) == (0, 0.5)


def test_alerts_a_day_are_the_live_ones_of_the_last_day_of_the_log() -> None:
    board = Board()
    for at in (0, 1, 2, 86_400 + 1):
        board.tell(told(at, mode="shadow" if at == 2 else "live"))
    assert board.told_a_day("cart") == 1
    board.tell_status(status(last_ts=START_MS + 200_000_000))
    assert board.told_a_day("cart") == 0


def test_an_older_status_does_not_replace_a_newer_one_and_answers_are_kept() -> None:
    board = Board()
    board.tell_status(status(at_ms=2, mode="live", commands={"c1": {"is_obeyed": True, "why": ""}}))
    board.tell_status(status(at_ms=1, mode="learning"))
    board.tell_status(status(at_ms=3, commands={"c2": {"is_obeyed": False, "why": "too old"}}))
    assert board.statuses["cart"]["at_ms"] == 3
    assert board.acks == {"c1": (True, ""), "c2": (False, "too old")}


def test_lines_are_known_by_their_place_and_by_their_text() -> None:
    board = board_of(1)
    assert board.at_source(("logs", 0, 1, 0)) is board.row(number(1))
    assert board.at_line("cart", START_MS + 1_000, "payment p-1 failed after 3012 ms") is board.row(number(1))
    assert board.at_source(("logs", 0, 2, 0)) is None


@pytest.mark.parametrize(
    "value", [b"", b"{", b"[]", b'{"anomaly_id": 1}', b'{"anomaly_id": "a", "revision": "0"}', b"\xff"]
)
def test_what_is_no_anomaly_is_counted_and_harms_nothing(value: bytes) -> None:
    board = Board()
    apply(board, [read_event("anomalies", value, 0), read_event("control", value, 0), read_event("status", value, 0)])
    assert len(board) == 0
    assert board.unread == 1


def test_a_record_with_fields_of_odd_types_is_shown_with_what_it_has() -> None:
    odd = record(1, score="high", detectors=[1], parameters=None, message=None, patterns="x", source=None, level=7)
    found = read_anomaly(orjson.dumps(odd), 5)
    assert found is not None
    assert (found.score, found.votes, found.message, found.patterns, found.level) == (0, (), "", (), "")


def test_releases_and_templates_are_taken_in() -> None:
    board = Board()
    release = Release(command_id="r", version=1, service="cart", by="ada", label="1.4.2", ts_ms=1)
    template = orjson.dumps({"service": "cart", "template_id": "1a2b3c4d", "template": "paid <*>", "slug": "paid"})
    apply(board, [read_event("control", release.to_bytes(), 0)] * 2 + [Event("templates", template)])
    assert board.marks.releases == [release]
    assert board.templates == {"cart": {"1a2b3c4d": "paid <*>"}}
    assert board.services() == ["cart"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), max_size=60))
def test_the_board_holds_together_whatever_comes(tellings: list[tuple[int, int]]) -> None:
    board = Board(6)
    for at, revision in tellings:
        board.tell(told(at, revision=revision))
        board.check()
    assert len(list(board.rows(Filter()))) == len(board)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("mark"), st.integers(0, 2), st.integers(0, 5), st.sampled_from(["normal", "anomalous"])),
            st.tuples(st.just("undo"), st.integers(0, 9), st.integers(0, 5), st.just("")),
        ),
        max_size=10,
    )
)
def test_marks_are_what_the_job_makes_of_the_same_commands(given_: list[tuple[str, int, int, str]]) -> None:
    marks, log = Marks(), FeedbackLog()
    for at, (kind, which, version, label) in enumerate(given_):
        if kind == "mark":
            pattern = Pattern(pattern=f"line:order:1a2b3c4{which}:-", level=1)
            command: Feedback | Undo = Feedback(
                command_id=f"c{at}",
                version=version,
                service="cart",
                by="x",
                label=label,
                anomaly_id=number(which),
                patterns=(pattern,),
            )
        else:
            command = Undo(command_id=f"c{at}", version=version, service="cart", by="x", target=f"c{which}")
        marks.apply(command)
        log.add(command)
    anomalies, patterns = log.anomalies("cart"), log.patterns("cart")
    for which in range(3):
        found, name = marks.of(number(which)), f"line:order:1a2b3c4{which}:-"
        assert (found and found.given) == anomalies.get(number(which))
        of_pattern = marks.of_pattern("cart", name)
        assert (of_pattern and of_pattern.given) == (patterns[name].feedback if name in patterns else None)
