"""Incidents of the topic `incidents` on the console's board."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import orjson
import pytest

from console.board import Board, Filter
from console.feed import Event, apply
from console.incidents import Incident, Incidents, read_incident
from models.control import Feedback
from tests.unit.console_cases import START_MS, incident, number, told

SCHEMA = orjson.loads((Path(__file__).parents[2] / "docs" / "incident.schema.json").read_bytes())


def read(*given: object, **fields: object) -> Incident:
    found = read_incident(incident(*given, **fields))
    assert found is not None
    return found


def board_of(*incidents: bytes) -> Board:
    board = Board()
    apply(board, [Event("incidents", raw) for raw in incidents])
    return board


def shown(board: Board, wanted: Filter | None = None) -> list[str]:
    return [found.incident_id for found in board.incidents_of(wanted or Filter())]


def test_the_cases_are_incidents_by_the_schema() -> None:
    jsonschema.validate(orjson.loads(incident(number("x"))), SCHEMA)


def test_an_incident_is_read_as_it_was_written() -> None:
    found = read(number("x"), count=3, services=["cart", "pay"])
    assert (found.count, found.services, found.minutes, found.said) == (3, ("cart", "pay"), (1, 1, 1), "It began.")
    assert found.cause.message == "payment p-0 failed after 3012 ms"
    assert found.record()["title"] == found.title


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b'{"incident_id": 1, "revision": 0}', b'{"incident_id": "a"}'])
def test_what_is_no_incident_is_left_out(value: bytes) -> None:
    assert shown(board_of(value)) == []


def test_fields_of_odd_types_count_as_absent() -> None:
    found = read("a", services="cart", histogram=None, kinds=[1, {}], cause="x", refuted="many", message=7, state=None)
    assert (found.services, found.minutes, found.cause.anomaly_id, found.refuted) == ((), (), "", 0)
    assert (found.state, found.said, len(found.kinds)) == ("open", "", 1)


def test_open_ones_come_first_and_the_newest_of_each_part() -> None:
    board = board_of(
        incident("over", at=500, state="resolved"),
        incident("old", at=0),
        incident("worse", at=100, state="escalated"),
        incident("gone", at=200, state="withdrawn"),
        incident("part", at=300, state="merged", merged_into="old"),
    )
    assert shown(board) == ["worse", "old", "over"]


def test_an_older_revision_changes_nothing_and_a_newer_one_keeps_its_place_in_the_order_of_arrival() -> None:
    board = board_of(
        incident("a", revision=3, count=9), incident("b"), incident("a", revision=2), incident("a", revision=4)
    )
    found = board.incidents.get("a")
    assert found is not None
    assert (found.revision, board.incidents.seq("a"), board.incidents.seq("b")) == (4, 1, 2)
    assert board.incidents.newest_seq == 2


def test_only_those_told_of_last_are_kept() -> None:
    incidents = Incidents(most=3)
    for name in ("a", "b", "c"):
        incidents.tell(read(name))
    incidents.tell(read("a", revision=1))
    incidents.tell(read("d"))
    assert sorted(found.incident_id for found in incidents) == ["a", "c", "d"]


def test_it_opens_to_its_anomalies_named_or_of_its_kinds_in_its_time() -> None:
    board = board_of(incident("a", at=0, count=3, anomaly_ids=[number(900)]))
    board.tell(told(30))  # of its kind
    board.tell(told(300))  # of its kind, and after it
    board.tell(told(31, mode="shadow"))
    board.tell(told(32, service="pay"))
    board.tell(told(33, template_id="99999999"))
    board.tell(told(900, service="pay"))  # named
    found = board.incidents.get("a")
    assert found is not None
    assert [row.told.anomaly_id for row in board.rows_in(found)] == [number(900), number(30)]
    assert [row.told.anomaly_id for row in board.page(Filter(incident="a")).rows] == [number(900), number(30)]
    assert board.incident_of(board.row(number(30))) is found
    assert board.incident_of(board.row(number(300))) is None


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Filter(service="pay"), ["b"]),
        (Filter(mode="shadow"), ["c"]),
        (Filter(text="PAYMENTS cart"), ["a", "c"]),
        (Filter(text="disk"), ["b"]),
        (Filter(session="s1"), ["b"]),
        (Filter(detector="rapid"), []),
        (Filter(since_ms=START_MS + 1_000_000), ["b"]),
        (Filter(until_ms=START_MS + 5_000), ["a"]),
        (Filter(label="normal"), ["a"]),
        (Filter(label="suppressed"), []),
        (Filter(incident="c"), ["c"]),
    ],
)
def test_filters_admit_what_they_name(wanted: Filter, expected: list[str]) -> None:
    board = board_of(
        incident("a", at=0, count=1),
        incident("b", at=2_000, count=1, services=["pay", "cart"], title="disk full", sessions=["s1"]),
        incident("c", at=60, count=1, mode="shadow"),
    )
    board.tell(told(0))
    board.tell_command(
        Feedback(command_id="m", version=1, service="cart", by="ada", label="normal", anomaly_id=number(0)),
    )
    assert sorted(shown(board, wanted)) == expected


def test_minutes_become_at_most_so_many_bars_that_hold_all_of_them() -> None:
    found = read("a", count=100, histogram={"start_ms": 0, "step_ms": 60_000, "counts": [1] * 100})
    bars = found.bars(24)
    assert len(bars) <= 24
    assert sum(bars) == 100
