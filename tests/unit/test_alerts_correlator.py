"""From anomalies to incidents: what is one, what a person hears of it, and what a restart changes (nothing)."""

from __future__ import annotations

import json
import random
import zlib
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.alerts.correlator import Correlator, CorrelatorParams
from models.alerts.incident import MINUTES, PARTS, SERVICES
from models.alerts.telling import TellingParams
from models.errors import SettingsError

T0 = 1_767_225_600_000
SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "incident.schema.json").read_text())


def anomaly(number: int, service: str = "cart", template: str = "disk <num> melted", **fields: Any) -> bytes:
    """One record of the topic; `number` makes its id, and fields are set over it."""
    row = {
        "anomaly_id": f"{number:016x}",
        "revision": 0,
        "status": "new",
        "mode": "live",
        "kind": "line",
        "ts": T0,
        "service": service,
        "host": "node-1",
        "session": None,
        "level": "INFO",
        "severity": "error",
        "severity_confidence": 0.8,
        "requires_immediate_action": False,
        "strength": 4.0,
        "detectors": {"novelty": 3.0, "count": 1.0},
        "template_id": "5d41402a",
        "template": template,
        "slug": "disk-melted",
        "message": template.replace("<num>", str(number)),
        "explanation": "Such a line was never seen.",
        "fingerprint": f"{zlib.crc32(f'{service} {template}'.encode()):016x}",
        "patterns": [{"pattern": f"line:text:{zlib.crc32(template.encode()):08x}:-", "level": 3.0}],
    }
    return orjson.dumps(row | fields)


class World:
    """A correlator, the topic that it writes to, and the messages that people get."""

    def __init__(self, params: CorrelatorParams | None = None) -> None:
        self.params = params or CorrelatorParams()
        self.correlator = self.params.build()
        self.topic: dict[str, dict[str, Any]] = {}
        self.messages: list[tuple[str, str]] = []
        self.published = 0
        self._numbers: dict[str, int] = {}
        self._now = 0

    def take(self, now_ms: int, *anomalies: bytes) -> None:
        self._now = now_ms
        self._keep(self.correlator.step(anomalies, now_ms))

    def tick(self, now_ms: int) -> None:
        self._now = now_ms
        self._keep(self.correlator.tick(now_ms))

    def run_until(self, start_ms: int, end_ms: int, step_ms: int = SECOND) -> None:
        for now_ms in range(start_ms, end_ms + 1, step_ms):
            self.tick(now_ms)

    def _keep(self, upserts: list[Any]) -> None:
        for name, record in upserts:
            row = orjson.loads(record)
            self.topic[name] = row
            self.published += 1
            message = row["message"]
            if message["number"] > self._numbers.get(name, 0):
                assert message["number"] == self._numbers.get(name, 0) + 1, "each message is published"
                self._numbers[name] = message["number"]
                self.messages.append((message["kind"], name))

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.messages]

    def only(self) -> dict[str, Any]:
        """The one incident that is no part of another, when a second has passed."""
        self.tick(self._now + SECOND)
        (row,) = [row for row in self.topic.values() if row["state"] != "merged"]
        return row


def test_an_incident_is_told_once_when_what_belongs_to_it_has_gathered_and_again_when_it_is_over() -> None:
    world = World()
    world.take(T0, anomaly(1))
    assert world.only()["state"] == "open"
    assert world.messages == []
    world.tick(T0 + 9_999)
    assert world.messages == []
    world.tick(T0 + 10_000)
    assert world.kinds == ["opened"]
    world.run_until(T0 + 11 * SECOND, T0 + 15 * MINUTE - 1)
    assert world.kinds == ["opened"]
    world.tick(T0 + 15 * MINUTE)
    assert world.kinds == ["opened", "resolved"]
    assert world.only()["state"] == "resolved"
    world.run_until(T0 + 15 * MINUTE, T0 + 90 * MINUTE, MINUTE)
    assert world.correlator.is_idle, "what is over is forgotten"


def test_a_storm_of_ten_thousand_equal_anomalies_in_a_minute_is_at_most_two_messages() -> None:
    storm = [anomaly(number, ts=T0 + number * 6) for number in range(10_000)]
    for early in (1, 1_700):  # how many come before the first message
        world = World()
        for number, row in enumerate(storm):
            at = number * 6 if early == 1_700 else 0 if number < early else 20_000 + number
            world.take(T0 + at, row)
            if number % 100 == 0:
                world.tick(T0 + at)
        world.run_until(T0 + MINUTE, T0 + 2 * HOUR, 10 * SECOND)
        assert world.kinds == ["opened", "resolved"]
        assert world.only()["count"] == 10_000
        assert sum(world.only()["histogram"]["counts"]) == 10_000
        assert world.published < 100, "the topic gets counts, not every anomaly"


@pytest.mark.parametrize("order", ["as they fell", "shuffled"])
def test_two_hundred_services_that_fail_by_one_cause_are_one_incident_and_one_message(order: str) -> None:
    world = World()
    rows = [
        anomaly(n, f"service-{n}", f"cannot reach <ip> as {n % 7}", ts=T0 + n * 400, severity="error")
        for n in range(1, 200)
    ]
    rows.append(anomaly(0, "database", "no space left on device", ts=T0, severity="critical"))
    if order == "shuffled":
        random.Random(3).shuffle(rows)
    for at, row in enumerate(rows):
        world.take(T0 + at * 20, row)
    world.run_until(T0 + 4 * SECOND, T0 + 15 * SECOND)
    row = world.only()
    assert (row["count"], len(row["services"]), row["is_storm"]) == (200, 200, True)
    assert row["cause"]["service"] == "database", "where it began"
    assert row["worst"]["service"] == "database"
    assert world.kinds == ["opened"]
    for merged in world.topic.values():
        while merged["state"] == "merged":
            merged = world.topic[merged["merged_into"]]
        assert merged["incident_id"] == row["incident_id"]


def test_an_anomaly_of_a_merged_incident_can_still_be_refuted() -> None:
    world = World()
    world.take(T0, *(anomaly(n, service) for n, service in enumerate(("a", "b", "c", "d"))))
    for n in range(4):
        world.take(T0 + SECOND, anomaly(n, "abcd"[n], revision=1, status="refuted"))
    assert (world.only()["count"], world.only()["state"]) == (0, "withdrawn")


def test_the_incident_that_was_told_goes_on_in_a_storm_and_one_that_waits_is_told_no_later_for_it() -> None:
    world = World()
    world.take(T0, anomaly(1, "a", ts=T0 + 30 * SECOND))
    world.tick(T0 + 10 * SECOND)
    world.take(T0 + 11 * SECOND, anomaly(2, "b", ts=T0))
    world.take(T0 + 12 * SECOND, anomaly(3, "c", ts=T0 + 20 * SECOND))
    assert world.only()["cause"]["service"] == "b", "where it began"
    assert world.kinds == ["opened"], "nobody hears of the merger"
    late = World()
    late.take(T0, anomaly(1, "a", ts=T0 + 30 * SECOND))
    late.take(T0 + 8 * SECOND, anomaly(2, "b", ts=T0), anomaly(3, "c", ts=T0 + 20 * SECOND))
    late.tick(T0 + 10 * SECOND)
    assert late.kinds == ["opened"]


def test_two_services_that_fail_in_the_same_minute_are_two_incidents() -> None:
    world = World()
    world.take(T0, anomaly(1, "cart"), anomaly(2, "billing"))
    assert len(world.topic) == 2


def test_services_that_begin_to_fail_minutes_apart_are_no_storm() -> None:
    world = World()
    for number, service in enumerate(("a", "b", "c", "d")):
        world.take(T0, anomaly(number, service, ts=T0 + number * 61 * SECOND))
    assert len(world.topic) == 4


def test_a_greater_severity_is_told_at_once_whatever_the_cooldown_and_a_growing_count_after_a_while() -> None:
    world = World()
    world.take(T0, anomaly(1, severity="warning"))
    world.tick(T0 + 10 * SECOND)
    world.take(T0 + 11 * SECOND, anomaly(2, severity="error"))
    assert world.kinds == ["opened", "escalated"]
    assert world.only()["state"] == "escalated"
    world.take(T0 + 12 * SECOND, anomaly(3, severity="warning"))
    assert world.only()["severity"] == "error", "the worst"
    for number in range(4, 20):
        world.take(T0 + 13 * SECOND, anomaly(number))
    assert world.kinds == ["opened", "escalated"]
    world.take(T0 + 11 * SECOND + 5 * MINUTE, anomaly(20))
    assert world.kinds == ["opened", "escalated", "escalated"]
    assert "20 anomalies" in world.only()["message"]["why"]


def test_an_incident_that_comes_and_goes_is_told_again_after_the_cooldown_only() -> None:
    world = World()
    for hour_part in range(8):  # a flap each 20 minutes
        start = T0 + hour_part * 20 * MINUTE
        world.take(start, anomaly(hour_part))
        world.run_until(start, start + 20 * MINUTE - SECOND, 10 * SECOND)
    assert len(world.topic) == 1, "it stays the same incident"
    # told at 0:00:10, over at 0:15, again at 1:20 (an hour later and open), over at 1:35, again at 2:35 if it were open then.
    assert world.kinds == ["opened", "resolved", "reopened", "resolved"]
    assert world.only()["reopened"] == 7
    worse = T0 + 160 * MINUTE
    world.take(worse, anomaly(99, severity="critical"))
    assert world.kinds[-1] == "escalated", "worse is told within the cooldown"


def test_a_later_revision_of_an_anomaly_is_not_another_one_and_one_read_twice_is_nothing() -> None:
    world = World()
    world.take(T0, anomaly(1, severity="warning"), anomaly(2))
    world.take(T0 + 2 * SECOND, anomaly(1, revision=2, status="strengthened", severity="critical", strength=9.0))
    world.take(T0 + 4 * SECOND, anomaly(1, severity="warning"), anomaly(2))
    row = world.only()
    assert (row["count"], row["severity"], row["worst"]["strength"]) == (2, "critical", 9.0)
    assert sum(row["histogram"]["counts"]) == 2
    world.tick(T0 + 12 * SECOND)
    published = world.published
    world.take(T0 + 20 * SECOND, anomaly(1, revision=2, status="strengthened", severity="critical", strength=9.0))
    world.tick(T0 + 22 * SECOND)
    assert world.published == published, "what is read again is no news"


def test_a_refuted_anomaly_lowers_its_incident_and_ends_it_when_nothing_else_is_in_it() -> None:
    world = World()
    world.take(T0, anomaly(1, severity="critical", requires_immediate_action=True), anomaly(2, severity="warning"))
    assert world.only()["requires_immediate_action"]
    world.take(T0 + 2 * SECOND, anomaly(1, revision=1, status="refuted", severity="critical"))
    row = world.only()
    assert (row["count"], row["refuted"], row["severity"], row["requires_immediate_action"]) == (1, 1, "warning", False)
    world.take(T0, anomaly(5, "other", severity="warning"), anomaly(6, "other", severity="critical"))
    world.take(T0, anomaly(6, "other", revision=1, status="refuted", severity="critical"))
    other = next(row for row in world.topic.values() if row["worst"]["service"] == "other")
    world.take(T0, anomaly(5, "other", revision=1, status="refuted"))
    world.tick(T0 + 3 * SECOND)
    assert world.topic.pop(other["incident_id"])["worst"]["anomaly_id"] == f"{5:016x}", "not the one that was refuted"
    world.take(T0 + 3 * SECOND, anomaly(2, revision=1, status="refuted"))
    assert world.only()["state"] == "withdrawn"
    world.run_until(T0 + 4 * SECOND, T0 + 30 * SECOND)
    assert world.messages == [], "nobody was told, so nobody hears that it was nothing"


def test_people_who_were_told_hear_that_a_second_opinion_found_all_of_it_ordinary() -> None:
    world = World()
    world.take(T0, anomaly(1))
    world.tick(T0 + 10 * SECOND)
    world.take(T0 + 12 * SECOND, anomaly(1, revision=1, status="refuted"))
    assert world.kinds == ["opened", "resolved"]
    assert "second opinion" in world.only()["message"]["why"]


def test_a_refutation_that_overtakes_its_anomaly_counts_and_a_stronger_telling_after_it_counts_again() -> None:
    world = World()
    world.take(T0, anomaly(1, revision=1, status="refuted"))
    world.take(T0, anomaly(1))
    assert world.topic == {}
    world.take(T0, anomaly(1, revision=2, status="strengthened"))
    assert world.only()["count"] == 1


def test_one_request_through_several_services_is_one_incident_with_the_first_as_its_cause() -> None:
    world = World()
    world.take(T0, anomaly(1, "gateway", "answered <num>", session="r-1", ts=T0 + 90 * SECOND, severity="critical"))
    world.take(T0, anomaly(2, "ledger", "lock <num> lost", session="r-1", ts=T0))
    row = world.only()
    assert row["services"] == ["gateway", "ledger"]
    assert (row["cause"]["service"], row["worst"]["service"]) == ("ledger", "gateway")
    assert row["sessions"] == ["r-1"]
    world.take(T0, anomaly(3, "mail", "bounced", session="r-1", ts=T0 + HOUR))
    assert len(world.topic) == 2, "the same id an hour later is another request"


def test_what_a_service_in_shadow_mode_finds_is_counted_apart_and_told_to_nobody() -> None:
    world = World()
    world.take(T0, anomaly(1), *(anomaly(n, mode="shadow", severity="critical") for n in range(2, 9)))
    world.run_until(T0, T0 + HOUR, 10 * SECOND)
    counts = {row["mode"]: row["count"] for row in world.topic.values()}
    assert counts == {"live": 1, "shadow": 7}
    assert {world.topic[name]["mode"] for _, name in world.messages} == {"live"}


def test_many_services_make_an_incident_one_step_worse_and_only_one() -> None:
    world = World()
    world.take(T0, *(anomaly(n, f"s{n}", severity="warning") for n in range(9)))
    assert world.only()["severity"] == "warning"
    world.take(T0 + 2 * SECOND, *(anomaly(10 + n, f"t{n}", severity="warning") for n in range(30)))
    assert world.only()["severity"] == "error"
    assert not world.only()["requires_immediate_action"]


def test_time_in_which_the_program_was_away_is_not_quiet() -> None:
    world = World()
    world.take(T0, anomaly(1))
    world.run_until(T0, T0 + 20 * SECOND)
    back = T0 + 3 * HOUR
    world.tick(back)
    assert world.only()["state"] == "open"
    world.run_until(back, back + 15 * MINUTE)
    assert world.only()["state"] == "resolved"


def test_an_incident_that_stays_open_is_told_once_a_day() -> None:
    world = World()
    for minute in range(0, 50 * 60, 5):
        world.take(T0 + minute * MINUTE, anomaly(minute % 2, revision=minute, status="strengthened"))
        world.tick(T0 + minute * MINUTE + 10 * SECOND)
        world._keep(world.correlator.tick(T0 + minute * MINUTE + 2 * MINUTE))
    assert world.kinds == ["opened", "reminder", "reminder"]


def test_records_on_the_topic_follow_their_schema_and_the_id_is_that_of_the_first_anomaly() -> None:
    world = World()
    for n in range(40):
        world.take(
            T0 + n * SECOND, anomaly(n, f"s{n % 5}", f"t{n % 9} <num>", session=f"r{n % 4}", ts=T0 + n * 7 * SECOND)
        )
        world.tick(T0 + n * SECOND)
    world.run_until(T0 + MINUTE, T0 + HOUR, 10 * SECOND)
    again = World()
    again.take(T0 + HOUR, anomaly(0, "s0", "t0 <num>", session="r0"))
    assert next(iter(world.topic)) == next(iter(again.topic))
    for row in world.topic.values():
        jsonschema.validate(row, SCHEMA)


def test_repeats_are_one_incident_whatever_their_request_text_time_and_host() -> None:
    world = World()
    for n in range(5):
        world.take(T0 + n, anomaly(n, session=f"r{n}", message=f"disk {n} melted", ts=T0 + n * HOUR, host=f"h{n}"))
    assert world.only()["count"] == 5


def test_state_is_bounded_and_what_gives_way_is_told_as_over() -> None:
    params = CorrelatorParams(max_incidents=5, max_groups=50, max_sessions=20, max_anomalies=30, storm_services=10_000)
    world = World(params)
    for n in range(300):
        world.take(T0 + n * 20 * SECOND, anomaly(n, f"s{n}", f"t{n}", session=f"r{n}", ts=T0 + n * HOUR))
        world.tick(T0 + n * 20 * SECOND)
        world.correlator.check()
    assert world.correlator.evicted == 295
    assert world.kinds.count("opened") in (299, 300)
    assert world.kinds.count("resolved") == 295, "what gave way is told as over"
    assert sum(row["state"] == "open" for row in world.topic.values()) == 5
    assert sum(row["state"] == "resolved" for row in world.topic.values()) == 295


def test_one_incident_of_ever_new_kinds_services_and_minutes_stays_small() -> None:
    world = World(CorrelatorParams(storm_span_ms=10**12, storm_ms=10**11))
    for n in range(SERVICES + 100):
        world.take(T0 + n, anomaly(n, f"s{n}", f"t{n}", ts=T0 + n * MINUTE))
    row = world.only()
    assert (row["count"], len(row["services"]), len(row["kinds"])) == (SERVICES + 100, SERVICES, 20)
    assert len(row["histogram"]["counts"]) <= MINUTES
    (incident,) = [incident for _, incident in world.correlator._incidents]
    assert len(incident.parts) == PARTS
    world.correlator.check()


def restored(correlator: Correlator, rows: dict[str, bytes]) -> Correlator:
    for name, row in correlator.touched().items():
        if row is None:
            rows.pop(name, None)
        else:
            rows[name] = row
    fresh = correlator.params.build()
    fresh.restore(dict(sorted(rows.items())))  # RocksDB gives them by key
    return fresh


EVENTS = st.lists(
    st.tuples(
        st.integers(0, 25),  # anomaly
        st.integers(0, 3),  # revision
        st.sampled_from(["new", "strengthened", "refuted"]),
        st.integers(0, 5),  # service
        st.integers(0, 2),  # session
        st.sampled_from(["warning", "error", "critical"]),
        st.integers(0, 120),  # seconds of event time
        st.sampled_from([100, 2_000, 400_000]),  # ms that pass
    ),
    max_size=40,
)


@settings(max_examples=40, deadline=None)
@given(EVENTS, st.data())
def test_a_restore_at_any_moment_changes_nothing_and_nothing_is_counted_twice(events: Any, data: Any) -> None:
    params = CorrelatorParams(max_incidents=4, max_groups=8, max_sessions=4, max_anomalies=100)
    straight, broken = World(params), World(params)
    cut = data.draw(st.integers(0, len(events)))
    rows: dict[str, bytes] = {}
    now = T0
    for at, (number, revision, status, service, session, severity, seconds, passes) in enumerate(events):
        if at == cut:
            broken.correlator = restored(broken.correlator, rows)
        now += passes
        row = anomaly(
            number, f"s{service}", f"t{number % 6}", revision=revision, status=status, severity=severity,
            ts=T0 + seconds * SECOND, session=f"r{session}" if session else None,
        )  # fmt: skip
        for world in (straight, broken):
            world.take(now, row)
            world.tick(now + 50)
            world.correlator.check()
    assert broken.topic == straight.topic
    assert broken.messages == straight.messages
    ids = {event[0] for event in events}
    assert sum(incident.count for _, incident in straight.correlator._incidents) <= len(ids)


def test_rows_of_another_version_are_refused_by_name() -> None:
    world = World()
    world.take(T0, anomaly(1))
    rows = {name: bytes([9]) + row[1:] for name, row in world.correlator.touched().items() if row}
    with pytest.raises(ValueError, match=r"CHANGELOG\.md"):
        CorrelatorParams().build().restore(rows)


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(SettingsError, match="cooldown"):
        TellingParams(calm_ms=10, gather_ms=20)
    with pytest.raises(SettingsError, match="quiet_ms"):
        CorrelatorParams(quiet_ms=0)
