from __future__ import annotations

import hashlib
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.delivery import RetryParams, SinkUrl, anomalies, dead_letter, retry_after_s
from models.errors import SettingsError
from models.loki import MAX_LABELS, OTHER, Entry, LokiEntries, LokiParams, line_of, payload, requests
from models.loki_answers import Action, decide, resolve

NOW_MS = 1_704_067_200_000
HOUR_MS = 3_600_000


def anomaly(number: int = 0, **fields: Any) -> dict[str, Any]:
    return {
        "anomaly_id": f"id-{number}",
        "revision": 0,
        "status": "new",
        "mode": "live",
        "ts": NOW_MS,
        "service": "checkout",
        "host": "web-1",
        "session": None,
        "level": "INFO",
        "severity": "warning",
        "score": 0.98765,
        "detectors": {"deeplog": 0.98765},
        "template_id": "0000beef",
        "template": "took <*> ms",
        "parameters": [{"position": 1, "value": 7}],
        "message": "took 7 ms",
        "expected": [],
        "count": 3,
        "correlated": [],
        "source": {"topic": "logs", "partition": 1, "offset": number, "index": 0, "kafka_ts": NOW_MS + 50},
    } | fields


def blob(*found: dict[str, Any]) -> bytes:
    return b"\n".join(orjson.dumps(one) for one in found)


def entries(*found: dict[str, Any], **settings: Any) -> list[Entry]:
    got, letters = LokiEntries(LokiParams("h", **settings)).step(blob(*found))
    assert letters == []
    return got


def test_a_payload_has_the_shape_of_the_push_api():
    (entry,) = entries(anomaly())
    (stream,) = orjson.loads(payload([entry]))["streams"]
    assert stream["stream"] == {"job": "driftwood", "service_name": "checkout", "detector": "deeplog", "mode": "live"}
    ((time_text, line, metadata),) = stream["values"]
    assert int(time_text) // 1_000_000 == NOW_MS
    assert orjson.loads(line)["message"] == "took 7 ms"
    assert metadata == {
        "anomaly_id": "id-0",
        "event_time": "2024-01-01T00:00:00.000Z",
        "host": "web-1",
        "level": "INFO",
        "score": "0.98765",
        "severity": "warning",
        "template_id": "0000beef",
    }


def test_without_structured_metadata_only_time_and_line_are_sent():
    (entry,) = entries(anomaly(), has_metadata=False)
    assert [len(value) for value in orjson.loads(payload([entry]))["streams"][0]["values"]] == [2]


def test_the_same_anomaly_gives_the_same_bytes_in_another_process_and_another_batch():
    alone = entries(anomaly(1))
    beside = entries(anomaly(2), anomaly(1))
    assert payload(alone) == payload(beside[1:])


def test_a_later_state_of_the_incident_changes_no_byte():
    assert payload(entries(anomaly())) == payload(entries(anomaly(count=9, correlated=["x"], status="strengthened")))


def test_later_revisions_are_left_out():
    assert entries(anomaly(revision=1)) == []


def test_equal_event_times_keep_apart_below_the_millisecond():
    times = {entry.time_ns for entry in entries(*(anomaly(n) for n in range(50)))}
    assert len(times) == 50
    assert {time // 1_000_000 for time in times} == {NOW_MS}


def test_an_event_time_as_text_is_read():
    (entry,) = entries(anomaly(ts="2024-01-01T00:00:00.000Z"))
    assert entry.time_ns // 1_000_000 == NOW_MS


def test_an_anomaly_without_event_time_and_a_line_that_is_none_become_dead_letters():
    got, letters = LokiEntries(LokiParams("h")).step(blob(anomaly(ts=None)) + b"\nnot json\n[1]\n\n" + blob(anomaly(4)))
    assert [entry.source["offset"] for entry in got] == [4]
    assert sorted(orjson.loads(letter)["reason"] for letter in letters) == ["no_time", "not_an_anomaly", "not_json"]


def test_services_beyond_the_cap_share_one_label_value():
    made = LokiEntries(LokiParams("h", max_services=2))
    for round_ in range(2):
        got, _ = made.step(blob(*(anomaly(n, service=f"s{n}") for n in range(4))))
        assert [dict(e.labels)["service_name"] for e in got] == ["s0", "s1", OTHER, OTHER], round_


def test_the_loudest_detector_names_the_stream_and_ties_go_by_name():
    (entry,) = entries(anomaly(detectors={"ngram": 0.5, "count": 0.5, "novelty": None}))
    assert dict(entry.labels)["detector"] == "count"


@pytest.mark.parametrize("shift_ms", [-8 * 24 * HOUR_MS, HOUR_MS])
def test_an_event_time_that_loki_would_not_take_gives_way_to_the_records_time(shift_ms: int):
    (entry,) = entries(anomaly(ts=NOW_MS + shift_ms))
    assert entry.time_ns // 1_000_000 == NOW_MS + 50
    assert dict(entry.labels)["clock"] == "record"
    assert dict(entry.metadata)["event_time"] != "2024-01-01T00:00:00.050Z"


def test_a_long_line_loses_bulky_fields_first_and_stays_json():
    line = line_of(anomaly(context=["x" * 900], message="short"), 1024)
    assert orjson.loads(line)["cut"] == ["context"]
    assert orjson.loads(line)["message"] == "short"


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=9), st.integers(0, 1000), st.text(max_size=9), st.integers(1024, 4096))
def test_a_line_of_any_text_is_within_the_limit_and_json(message: str, times: int, host: str, limit: int):
    message, host = message * times, host * times
    line = line_of(anomaly(message=message, host=host, template=message), limit)
    assert len(line.encode()) <= limit
    assert orjson.loads(line)["anomaly_id"]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 2000)), max_size=40), st.integers(1, 9))
def test_requests_hold_each_entry_once_one_stream_each_oldest_first_within_the_limits(
    made: list[tuple[int, int, int]], most: int
):
    params = LokiParams("h", batch_entries=most, batch_bytes=6_000, max_line_bytes=3_000)
    found = [anomaly(n, service=f"s{s}", ts=NOW_MS + t, message="m" * size) for n, (s, t, size) in enumerate(made)]
    got, _ = LokiEntries(params).step(blob(*found))
    batches = list(requests(got, params))
    assert sorted(e.source["offset"] for batch in batches for e in batch) == list(range(len(made)))
    for batch in batches:
        assert len({entry.labels for entry in batch}) == 1
        assert [e.time_ns for e in batch] == sorted(e.time_ns for e in batch)
        assert len(batch) <= most
        assert len(batch) == 1 or len(payload(batch)) <= 6_000


# --- answers


@pytest.mark.parametrize(
    ("status", "body", "action"),
    [
        (204, "", Action.STORED),
        (400, "max entry size '262144' bytes exceeded for stream", Action.EXAMINE),
        (413, "request body too large", Action.HALVE),
        (429, "ingestion rate limit exceeded", Action.RETRY),
        (500, "", Action.RETRY),
        (503, "", Action.RETRY),
        (0, "connection refused", Action.RETRY),
        (260, "ingestion blocked for user", Action.REFUSED),
        (422, "at least one valid stream is required", Action.FAIL),
        (404, "404 page not found", Action.FAIL),
        (302, "", Action.FAIL),
        (400, "stream '{}' includes structured metadata, but this feature is disallowed.", Action.FAIL),
        (400, "missing required labels env for user", Action.FAIL),
    ],
)
def test_each_answer_has_its_action(status: int, body: str, action: Action):
    assert decide(status, body).action is action


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_name_the_settings(status: int):
    decision = decide(status, "no org id")
    assert decision.action is Action.FAIL
    assert "tenant" in decision.detail
    assert "token" in decision.detail


BEHIND = (
    "entry with timestamp 2024-01-01 ignored, reason: 'entry too far behind, entry timestamp is: 2023-12-31T22:00:00Z, "
    "oldest acceptable timestamp is: 2023-12-31T23:00:00Z',\nuser 'x', total ignored: 1 out of 3 for stream: {}"
)


def test_entries_before_the_cutoff_move_to_the_records_time_in_a_stream_of_their_own():
    batch = entries(anomaly(0, ts=NOW_MS - 2 * HOUR_MS), anomaly(1), anomaly(2))
    again, letters = resolve(batch, decide(400, BEHIND))
    assert letters == []
    assert [[e.source["offset"] for e in part] for part in again] == [[1, 2], [0]]
    assert again[1][0].time_ns // 1_000_000 == NOW_MS + 50
    assert dict(again[1][0].labels)["clock"] == "record"


def test_entries_within_the_second_of_the_cutoff_are_found_by_halving():
    on_the_second = NOW_MS - HOUR_MS + 300  # the true cutoff may be anywhere in that second
    batch = entries(anomaly(0, ts=on_the_second), anomaly(1))
    again, _ = resolve(batch, decide(400, BEHIND))
    assert [len(part) for part in again] == [1, 1]
    assert all("clock" not in dict(e.labels) for part in again for e in part)
    again, _ = resolve(again[0], decide(400, BEHIND))
    assert dict(again[0][0].labels)["clock"] == "record"


def test_an_entry_refused_at_both_times_becomes_a_dead_letter_with_its_origin():
    (entry,) = entries(anomaly(7, ts=NOW_MS - 2 * HOUR_MS))
    (again,), _ = resolve([entry], decide(400, BEHIND))
    nothing, (letter,) = resolve(again, decide(400, BEHIND))
    assert nothing == []
    read = orjson.loads(letter)
    assert (read["reason"], read["stage"], read["topic"], read["partition"], read["offset"], read["index"]) == (
        "too_far_behind",
        "loki",
        "logs",
        1,
        7,
        0,
    )
    assert orjson.loads(read["value"])["anomaly_id"] == "id-7"


def test_an_entry_without_a_record_time_becomes_a_dead_letter_at_once():
    (entry,) = entries(anomaly(ts=NOW_MS - 2 * HOUR_MS, source={"topic": "logs"}))
    assert len(resolve([entry], decide(400, BEHIND))[1]) == 1


def test_a_blocked_tenant_gives_a_dead_letter_for_each_entry():
    batch = entries(anomaly(0), anomaly(1))
    again, letters = resolve(batch, decide(260, "ingestion blocked"))
    assert again == []
    assert [orjson.loads(letter)["reason"] for letter in letters] == ["ingestion_blocked"] * 2


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 19)), st.sampled_from([400, 413]))
def test_halving_finds_exactly_the_refused_entries(bad: set[int], status: int):
    work = [entries(*(anomaly(n, ts=NOW_MS + n) for n in range(20)))]
    refused, stored, tries = set(), set(), 0
    while work:
        batch = work.pop()
        tries += 1
        offsets = {entry.source["offset"] for entry in batch}
        if not offsets & bad:
            stored |= offsets
            continue
        again, letters = resolve(batch, decide(status, "max entry size"))
        work += again
        refused |= {orjson.loads(letter)["offset"] for letter in letters}
    assert refused == bad
    assert stored == set(range(20)) - bad
    assert tries <= 1 + 2 * 5 * len(bad)


# --- settings


def test_an_address_names_everything_and_its_secrets_stay_out_of_sight():
    params = LokiParams.from_url(
        "loki+https://me:s%40cret@logs.example:443/prefix/?tenant=shop&label.env=prod&max_services=5&deadline_s=9"
    )
    assert params.base_url == "https://logs.example:443/prefix"
    assert (params.user, params.password, params.tenant, params.max_services) == ("me", "s@cret", "shop", 5)
    assert params.labels == (("env", "prod"), ("job", "driftwood"))
    assert params.retry.deadline_s == 9
    assert "s@cret" not in repr(params)
    assert "hidden" not in repr(LokiParams("h", token="hidden"))


def test_all_faults_of_an_address_are_told_at_once_without_its_password():
    with pytest.raises(SettingsError) as caught:
        LokiParams.from_url("http://me:topsecret@/x?batch_bytes=lots&colour=blue&tenant=a&tenant=b")
    message = str(caught.value)
    for part in ("scheme", "host", "batch_bytes", "colour", "tenant is given twice"):
        assert part in message
    assert "topsecret" not in message


@pytest.mark.parametrize(
    "labels",
    [
        (("detector", "x"),),
        (("bad-name", "x"),),
        (("__x", "x"),),
        (("env", ""),),
        tuple((f"l{n}", "x") for n in range(MAX_LABELS)),
    ],
)
def test_labels_that_loki_or_we_cannot_take_are_refused(labels: tuple[tuple[str, str], ...]):
    with pytest.raises(SettingsError):
        LokiParams("h", labels=labels)


def test_a_sink_must_give_up_before_the_checkpoint_does():
    RetryParams(deadline_s=60, timeout_s=10).check(600)
    with pytest.raises(SettingsError, match="checkpoint"):
        RetryParams(deadline_s=60, timeout_s=10).check(60)


# --- what the sinks share


def test_waits_grow_to_the_cap_and_end_with_the_tries_or_the_time():
    plan = RetryParams(base_s=1, cap_s=4, max_tries=6, deadline_s=100)
    assert [plan.wait_s(tries, 0.999999, 0) for tries in (1, 2, 3, 4)] == pytest.approx([1, 2, 4, 4], abs=1e-4)
    assert plan.wait_s(1, 0.0, 0) == 0.5
    assert plan.wait_s(6, 0.0, 0) is None
    assert plan.wait_s(1, 0.0, 99.9) is None
    assert plan.wait_s(1, 0.0, 0, retry_after_s=20) == 20


def test_retry_after_is_read_as_seconds_or_as_a_date():
    from datetime import UTC, datetime

    now = datetime(2024, 1, 1, tzinfo=UTC)
    assert retry_after_s("Mon, 01 Jan 2024 00:00:09 GMT", now) == 9
    assert retry_after_s("Sun, 31 Dec 2023 00:00:00 GMT", now) == 0
    assert retry_after_s("soon", now) is None
    assert retry_after_s(None, now) is None


def test_a_dead_letter_is_json_whatever_the_bytes_and_cut_to_fit_a_message():
    letter = orjson.loads(dead_letter("r", "s", "d", {"kafka_ts": 5}, b"a\xff"))
    assert (letter["value"], letter["kafka_ts"]) == ("a\ufffd", 5)
    long = orjson.loads(dead_letter("r", "s", "d", {}, "ä".encode() * (1 << 20)))
    assert len(long["value"].encode()) <= 256 * 1024
    assert long["digest"] == hashlib.sha256("ä".encode() * (1 << 20)).hexdigest()


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_split_into_anomalies_and_dead_letters(data: bytes):
    found, letters = anomalies(data)
    assert len(found) + len(letters) == sum(1 for line in data.split(b"\n") if line.strip())


def test_an_address_with_a_bad_port_is_told():
    with pytest.raises(SettingsError, match="Port"):
        SinkUrl("loki://h:99999", {"loki": 1}).finish()
