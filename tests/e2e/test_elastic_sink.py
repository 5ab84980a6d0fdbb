"""The Elastic sink against a small server that speaks Elasticsearch's bulk API as its reference documents it.

No Elasticsearch can be had here. The fake keeps what the sink leans on: NDJSON in pairs ending in a newline, gzip, one item
for each document in the request's order, `create` that conflicts (409) on a known id, strict dates in a mapping (400), a
full write queue (429 for an item), credentials, and HTTP 200 over refused items.
"""

from __future__ import annotations

import base64
import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import orjson
import pytest

from models.delivery import RetryParams
from models.elastic import ElasticParams
from models.errors import SinkError
from udfs.clients.elastic import ElasticClient

pytestmark = pytest.mark.e2e

QUICK = RetryParams(base_s=0.01, cap_s=0.1, max_tries=50, deadline_s=20, timeout_s=5)
KEY = base64.b64encode(b"id:key").decode()


class FakeElastic(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), FakeHandler)
        self.documents: dict[str, dict[str, Any]] = {}
        self.requests = 0
        self.room = -1  # documents that the write queue takes a request; -1 for any number
        self.max_body_bytes = 1 << 20
        self.port = self.server_address[1]

    def bulk(self, body: bytes) -> tuple[int, dict[str, Any]]:
        if not body.endswith(b"\n"):
            return 400, error("illegal_argument_exception", "The bulk request must be terminated by a newline [\\n]")
        lines = body.splitlines()
        items = []
        for number, (action, source) in enumerate(zip(lines[::2], lines[1::2], strict=True)):
            ((operation, meta),) = json.loads(action).items()
            status, problem = self.write(operation, meta["_id"], json.loads(source), number)
            item: dict[str, Any] = {"_index": "anomalies", "_id": meta["_id"], "status": status}
            items.append({operation: item | (problem or {"result": "created"})})
        return 200, {
            "took": 1,
            "errors": any("error" in one for item in items for one in item.values()),
            "items": items,
        }

    def write(self, operation: str, key: str, source: dict[str, Any], number: int) -> tuple[int, dict[str, Any] | None]:
        if 0 <= self.room <= number:
            return 429, error("es_rejected_execution_exception", "rejected execution of coordinating operation")
        if operation == "create" and key in self.documents:
            reason = f"[{key}]: version conflict, document already exists (current version [1])"
            return 409, error("version_conflict_engine_exception", reason)
        try:
            datetime.fromisoformat(source["@timestamp"])
            if not isinstance(source.get("score", 0.0), int | float):
                raise ValueError("For input string")
        except (KeyError, ValueError) as problem:
            made = error("document_parsing_exception", "failed to parse field")
            made["error"]["caused_by"] = {"type": "illegal_argument_exception", "reason": str(problem)}
            return 400, made
        is_new = key not in self.documents
        self.documents[key] = source
        return (201 if is_new else 200), None


def error(kind: str, reason: str) -> dict[str, Any]:
    return {"error": {"type": kind, "reason": reason}}


class FakeHandler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeElastic

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        self.server.requests += 1
        if self.headers.get("Authorization") != f"ApiKey {KEY}":
            status, answer = 401, error("security_exception", "unable to authenticate with provided credentials")
        elif self.path != "/anomalies/_bulk" or self.headers["Content-Type"] != "application/x-ndjson":
            status, answer = 406, error("media_type_header_exception", "not acceptable")
        elif len(body) > self.server.max_body_bytes:
            status, answer = 413, {}
        else:
            status, answer = self.server.bulk(body)
        data = orjson.dumps(answer)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def fake() -> Iterator[FakeElastic]:
    server = FakeElastic()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def client(server: FakeElastic, **settings: Any) -> ElasticClient:
    return ElasticClient(
        ElasticParams("127.0.0.1", "anomalies", server.port, **{"api_key": KEY, "retry": QUICK} | settings)
    )


def blob(*numbers: int, **fields: Any) -> bytes:
    return b"\n".join(
        orjson.dumps(
            {
                "anomaly_id": f"a{n}",
                "revision": 0,
                "ts": 1_700_000_000_000 + n,
                "score": 0.5,
                "message": "line\nwith a newline",
                "source": {"topic": "logs", "partition": 0, "offset": n},
            }
            | fields
        )
        for n in numbers
    )


def test_fake_elastic_stores_each_revision_once_whatever_is_sent_again(fake: FakeElastic):
    element = blob(*range(50)) + b"\n" + blob(1, revision=1)
    for _ in range(2):
        sink = client(fake)
        assert sink.deliver(element) == []
        assert sink.sent == 51
        sink.close()
    assert len(fake.documents) == 51
    assert fake.documents["a7-0"]["message"] == "line\nwith a newline"
    assert fake.documents["a7-0"]["@timestamp"] == "2023-11-14T22:13:20.007Z"
    assert "a1-1" in fake.documents


def test_fake_elastic_refuses_one_document_and_it_alone_becomes_a_dead_letter(fake: FakeElastic):
    sink = client(fake)
    (letter,) = sink.deliver(blob(1) + b"\n" + blob(2, score="high") + b"\n" + blob(3))
    sink.close()
    read = json.loads(letter)
    assert (read["reason"], read["stage"], read["offset"]) == ("document_parsing_exception", "elastic", 2)
    assert "For input string" in read["detail"]
    assert sorted(fake.documents) == ["a1-0", "a3-0"]


def test_fake_elastic_with_a_full_queue_gets_the_put_off_documents_again_until_all_are_in(fake: FakeElastic):
    fake.room = 30
    sink = client(fake)
    assert sink.deliver(blob(*range(100))) == []
    sink.close()
    assert len(fake.documents) == 100
    assert (fake.requests, sink.retried) == (4, 3)


def test_fake_elastic_with_a_small_body_limit_gets_halves(fake: FakeElastic):
    fake.max_body_bytes = 2000
    sink = client(fake)
    assert sink.deliver(blob(*range(60))) == []
    sink.close()
    assert len(fake.documents) == 60


def test_fake_elastic_refuses_a_wrong_key_and_the_setting_is_named(fake: FakeElastic):
    sink = client(fake, api_key="d3Jvbmc=")
    with pytest.raises(SinkError, match="api_key"):
        sink.deliver(blob(1))
    assert fake.requests == 1
    sink.close()


def test_fake_elastic_away_and_back_stores_everything_once():
    first = FakeElastic()
    port = first.port
    first.server_close()  # the port is known, nobody listens
    made: list[FakeElastic] = []

    def come_back() -> None:
        made.append(FakeElastic(port))
        made[0].serve_forever(poll_interval=0.01)

    timer = threading.Timer(0.5, come_back)
    timer.start()
    sink = ElasticClient(ElasticParams("127.0.0.1", "anomalies", port, api_key=KEY, retry=QUICK))
    assert sink.deliver(blob(*range(10))) == []
    assert sink.retried > 1
    sink.close()
    made[0].shutdown()
    timer.join()
    made[0].server_close()
    assert len(made[0].documents) == 10
