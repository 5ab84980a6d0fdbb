"""The Loki sink and the Loki reader against a real Loki that is as strict as its defaults, with tenants."""

from __future__ import annotations

import collections
import json
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
import urllib3
import yaml
from typing_extensions import override

from flink_jobs.runtime import loki as runtime
from models.delivery import RetryParams
from models.errors import DataSetError, SinkError
from models.logql import Cursor, LokiQuery
from models.loki import LokiParams
from udfs.clients.loki import LokiClient
from udfs.clients.loki_reader import LokiReader

pytestmark = pytest.mark.e2e

HOUR_MS = 3_600_000
QUICK = RetryParams(base_s=0.2, cap_s=1, max_tries=100, deadline_s=30, timeout_s=5)


class StrictLoki(runtime.LokiServer):
    """A Loki with tenants that takes no old lines, as one out of the box, and no line above 64 KiB."""

    @override
    def command(self) -> Sequence[str | Path]:
        program, option = super().command()
        config = Path(str(option).removeprefix("-config.file="))
        settings = yaml.safe_load(config.read_text(encoding="utf-8"))
        settings["auth_enabled"] = True
        settings["limits_config"] |= {
            "reject_old_samples": True,
            "max_line_size": "64KB",
            "per_stream_rate_limit": "100MB",
            "per_stream_rate_limit_burst": "100MB",
            "ingestion_rate_mb": 100,
            "ingestion_burst_size_mb": 100,
        }
        config.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return [program, option]


@pytest.fixture(scope="module")
def server(loki_server: runtime.LokiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StrictLoki]:
    with StrictLoki(tmp_path_factory.mktemp("loki"), loki_server.binary) as started:
        yield started


@pytest.fixture
def tenant(request: pytest.FixtureRequest) -> str:
    """A tenant for each test: they see nothing of each other."""
    return request.node.name.replace("_", "-")[-100:]


def params(server: StrictLoki, tenant: str, **settings: Any) -> LokiParams:
    return LokiParams("127.0.0.1", server.port, **{"tenant": tenant, "retry": QUICK} | settings)


def query(server: StrictLoki, tenant: str, **settings: Any) -> LokiQuery:
    end_ns = time.time_ns() + 900 * 10**9
    start_ns = end_ns - 9 * 86_400 * 10**9
    given = {"query": '{job="driftwood"}', "start_ns": start_ns, "end_ns": end_ns, "tenant": tenant, "retry": QUICK}
    return LokiQuery("127.0.0.1", port=server.port, **given | settings)


def blob(numbers: Sequence[int], ts_ms: int, **fields: Any) -> bytes:
    return b"\n".join(
        orjson.dumps(
            {
                "anomaly_id": f"a{n}",
                "revision": 0,
                "ts": ts_ms + n,
                "service": "checkout",
                "level": "ERROR",
                "score": 0.9,
                "session": f"r{n}",
                "template_id": "0000beef",
                "detectors": {"deeplog": 0.9},
                "message": f"message {n}",
                "source": {"topic": "logs", "partition": 0, "offset": n, "index": 0, "kafka_ts": now_ms() + n},
            }
            | fields
        )
        for n in numbers
    )


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def stored(server: StrictLoki, tenant: str, **settings: Any) -> list[dict[str, Any]]:
    return [json.loads(record) for record in LokiReader(query(server, tenant, **settings))]


def ids(found: list[dict[str, Any]]) -> list[str]:
    return sorted(record["anomaly_id"] for record in found)


def test_what_is_delivered_can_be_read_with_labels_metadata_and_line(server: StrictLoki, tenant: str):
    client = LokiClient(params(server, tenant, labels=(("env", "test"), ("job", "driftwood"))))
    ts_ms = now_ms() - 1000
    assert client.deliver(blob([1], ts_ms)) == []
    (record,) = stored(server, tenant)
    assert (record["env"], record["service_name"], record["detector"]) == ("test", "checkout", "deeplog")
    assert (record["session"], record["template_id"]) == ("r1", "0000beef")
    assert (record["message"], record["ts"]) == ("message 1", ts_ms + 1)
    # Loki itself read the level from the metadata; a filter on metadata works without parsing the line.
    assert record["detected_level"] == "error"
    assert len(stored(server, tenant, query='{job="driftwood"} | session="r1" | score>0.5')) == 1
    assert stored(server, tenant, query='{job="driftwood"} | session="r2"') == []
    assert len(stored(server, tenant, query='{job="driftwood"} | json | source_offset=1')) == 1


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "ä ü", "a\x00b", "{}", "x" * 3000, "", " "])
def test_a_service_of_any_name_is_stored(server: StrictLoki, name: str):
    tenant = f"names-{name.encode().hex()[:40]}"
    client = LokiClient(params(server, tenant))
    assert client.deliver(blob([1], now_ms(), service=name, session=name, host=name)) == []
    (record,) = stored(server, tenant)
    assert record["service"] == name


def test_a_retry_of_identical_batches_stores_nothing_twice(server: StrictLoki, tenant: str):
    element = blob(range(200), now_ms() - 60_000)
    for _ in range(3):
        # A new client each time: as after a restart from a checkpoint.
        assert LokiClient(params(server, tenant)).deliver(element) == []
    assert ids(stored(server, tenant)) == sorted(f"a{n}" for n in range(200))


def test_a_late_line_behind_a_new_one_of_another_stream_is_not_lost_in_silence(server: StrictLoki, tenant: str):
    """Loki 3.7 answers 204 to a request of several streams when the last one is fine, whatever it dropped before."""
    client = LokiClient(params(server, tenant))
    client.deliver(blob([1], now_ms()))
    late = blob([2], now_ms() - 2 * HOUR_MS)
    assert client.deliver(late + b"\n" + blob([3], now_ms(), service="zebra")) == []
    assert ids(stored(server, tenant)) == ["a1", "a2", "a3"]

    # The trap itself, so that this test tells when it is gone: one stream a request would then be a waste.
    now = time.time_ns()
    streams = [
        {"stream": {"app": "one"}, "values": [[str(now), "new"]]},
        {"stream": {"app": "one"}, "values": [[str(now - 2 * HOUR_MS * 10**6), "late"]]},
        {"stream": {"app": "two"}, "values": [[str(now), "new"]]},
    ]
    address = f"{server.url}/loki/api/v1/push"
    headers = {"X-Scope-OrgID": tenant, "Content-Type": "application/json"}
    for part in (streams[:1], streams[1:]):
        answer = urllib3.request("POST", address, body=orjson.dumps({"streams": part}), headers=headers, retries=False)
        assert answer.status == 204
    assert len(stored(server, tenant, query='{app=~".+"}')) == 2  # of three


def test_lines_too_far_behind_move_to_the_records_time_and_keep_their_event_time(server: StrictLoki, tenant: str):
    client = LokiClient(params(server, tenant))
    client.deliver(blob([0], now_ms()))
    late_ms = now_ms() - 3 * HOUR_MS
    assert client.deliver(blob(range(1, 400), late_ms) + b"\n" + blob([400], now_ms())) == []
    found = stored(server, tenant)
    assert len(set(ids(found))) == len(found) == 401
    by_clock = collections.Counter(record.get("clock", "event") for record in found)
    assert by_clock == {"record": 399, "event": 2}
    moved = next(record for record in found if record["anomaly_id"] == "a7")
    assert moved["ts"] == late_ms + 7
    assert moved["event_time"].endswith("Z")


def test_lines_older_than_a_week_and_from_the_future_are_stored_at_the_records_time(server: StrictLoki, tenant: str):
    client = LokiClient(params(server, tenant))
    assert client.deliver(blob([1], now_ms() - 30 * 24 * HOUR_MS) + b"\n" + blob([2], now_ms() + HOUR_MS)) == []
    # And found out from Loki's answer, for a Loki stricter than the settings say.
    trusting = LokiClient(params(server, tenant, max_age_ms=10**12, max_ahead_ms=10**12))
    old, future = now_ms() - 10 * 24 * HOUR_MS, now_ms() + 2 * HOUR_MS
    assert trusting.deliver(blob([3, 4], old) + b"\n" + blob([5, 6], future) + b"\n" + blob([7], now_ms())) == []
    assert ids(stored(server, tenant)) == [f"a{n}" for n in range(1, 8)]


def test_lines_too_old_at_both_times_become_dead_letters_and_the_rest_is_stored(server: StrictLoki, tenant: str):
    old = now_ms() - 9 * 24 * HOUR_MS
    source = {"topic": "logs", "partition": 0, "offset": 5, "kafka_ts": old}
    element = blob([1, 2], old, source=source) + b"\n" + blob([3], now_ms())
    letters = [json.loads(letter) for letter in LokiClient(params(server, tenant)).deliver(element)]
    assert [(letter["reason"], letter["offset"]) for letter in letters] == [("too_old", 5), ("too_old", 5)]
    assert sorted(json.loads(letter["value"])["anomaly_id"] for letter in letters) == ["a1", "a2"]
    assert ids(stored(server, tenant)) == ["a3"]


def test_one_line_too_long_for_this_loki_is_found_among_a_thousand(server: StrictLoki, tenant: str):
    element = blob(range(1000), now_ms() - 5000) + b"\n" + blob([1000], now_ms(), message="x" * 80_000)
    client = LokiClient(params(server, tenant))
    (letter,) = client.deliver(element)
    assert json.loads(letter)["reason"] == "line_too_long"
    assert len(stored(server, tenant)) == 1000
    # With the limit told, the line is cut instead.
    assert LokiClient(params(server, tenant, max_line_bytes=64_000)).deliver(element) == []
    assert len(stored(server, tenant)) == 1001


def test_ten_thousand_anomalies_of_many_services_go_in_by_batches_and_out_by_pages(server: StrictLoki, tenant: str):
    ts_ms = now_ms() - 60_000
    element = b"\n".join(blob(range(n, 10_000, 40), ts_ms, service=f"s{n}") for n in range(40))
    client = LokiClient(params(server, tenant, max_services=20))
    began = time.monotonic()
    assert client.deliver(element) == []
    took_s = time.monotonic() - began
    print(f"10,000 anomalies, 21 streams, {len(element)} bytes: {took_s:.2f} s")
    found = stored(server, tenant, limit=700)
    assert ids(found) == sorted(f"a{n}" for n in range(10_000))
    assert len({record["service"] for record in found}) == 40
    labels = urllib3.request(
        "GET", f"{server.url}/loki/api/v1/label/service_name/values", headers={"X-Scope-OrgID": tenant}
    ).json()["data"]
    assert len(labels) == 21
    assert "__other__" in labels


def test_the_reader_goes_on_from_its_cursor_and_splits_equal_times_rightly(server: StrictLoki, tenant: str):
    now = time.time_ns()
    # Thirty lines in each nanosecond, in two streams, so that every page ends among equal times.
    streams = [
        {"stream": {"app": app}, "values": [[str(now + n // 15), f"{app} {n}"] for n in range(90)]} for app in "ab"
    ]
    body = orjson.dumps({"streams": streams})
    headers = {"X-Scope-OrgID": tenant, "Content-Type": "application/json"}
    answer = urllib3.request("POST", f"{server.url}/loki/api/v1/push", body=body, headers=headers, retries=False)
    assert answer.status == 204
    asked = query(server, tenant, query='{app=~"a|b"}', limit=7)
    read, cursor, pages = [], None, 0
    # A new reader for each page, from the bytes of the last one's cursor.
    while records := next((reader := LokiReader(asked, cursor)).pages(), None):
        read += [json.loads(record)["message"] for record in records]
        cursor = Cursor.from_bytes(reader.cursor.to_bytes())
        pages += 1
    assert sorted(read) == sorted(f"{app} {n}" for app in "ab" for n in range(90))
    assert pages > 10


def test_a_missing_tenant_is_told_by_the_name_of_the_setting(server: StrictLoki):
    with pytest.raises(SinkError, match="tenant"):
        LokiClient(params(server, "")).deliver(blob([1], now_ms()))
    with pytest.raises(DataSetError, match="tenant"):
        list(LokiReader(query(server, "")))


def test_loki_away_for_five_seconds_and_back_loses_and_doubles_nothing(server: StrictLoki, tenant: str):
    client = LokiClient(params(server, tenant))
    ts_ms = now_ms() - 60_000
    before = blob(range(100), ts_ms)
    assert client.deliver(before) == []
    server.kill()
    threading.Timer(5, server.start).start()
    began = time.monotonic()
    assert client.deliver(blob(range(100, 200), ts_ms)) == []
    assert time.monotonic() - began > 4
    assert client.retried > 1
    client.deliver(before)  # what a restored job would send again
    assert ids(stored(server, tenant)) == sorted(f"a{n}" for n in range(200))
