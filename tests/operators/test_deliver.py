"""The delivery operators, opened and called as Flink would, against a local server with a script of answers."""

from __future__ import annotations

import gzip
import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import cloudpickle
import numpy as np
import orjson
import pytest
from pyflink.common import Row

from models.delivery import RetryParams
from models.elastic import ElasticParams
from models.errors import DataSetError, SinkError
from models.logql import LokiQuery
from models.loki import LokiParams
from models.training_buffer import RedisParams, SequenceBatch
from udfs.clients.loki_reader import LokiReader
from udfs.deliver import Deliver, DeliverToElastic, DeliverToLoki, DeliverToRedis

QUICK = RetryParams(base_s=0.001, cap_s=0.002, max_tries=4, deadline_s=5, timeout_s=1)
NOW_MS = 1_704_067_200_000


class Script(http.server.ThreadingHTTPServer):
    """Gives the scripted answers one after the other, then 204; keeps every request."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.got: list[SimpleNamespace] = []
        self.port = self.server_address[1]

    def then(self, status: int, body: bytes = b"", **headers: str) -> Script:
        self.answers.append((status, {name.replace("_", "-"): value for name, value in headers.items()}, body))
        return self


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Script

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.got.append(SimpleNamespace(path=self.path, headers=dict(self.headers), body=body))
        status, headers, content = self.server.answers.pop(0) if self.server.answers else (204, {}, b"")
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = answer  # noqa: N815 (the names that http.server calls)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Script]:
    made = Script()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


class FakeContext:
    """A runtime context whose metrics can be read."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def get_metrics_group(self) -> FakeContext:
        return self

    def counter(self, name: str) -> SimpleNamespace:
        self.counts[name] = 0
        return SimpleNamespace(inc=lambda n=1: self.counts.__setitem__(name, self.counts[name] + n))


def opened(operator: Deliver) -> tuple[Deliver, FakeContext]:
    context = FakeContext()
    # As Flink ships it: pickled with its settings, opened on the other side.
    operator = cloudpickle.loads(cloudpickle.dumps(operator))
    operator.open(context)
    return operator, context


def loki(server: Script, **settings: Any) -> tuple[Deliver, FakeContext]:
    return opened(DeliverToLoki(LokiParams("127.0.0.1", server.port, **{"retry": QUICK} | settings)))


def elastic(server: Script, **settings: Any) -> tuple[Deliver, FakeContext]:
    return opened(DeliverToElastic(ElasticParams("127.0.0.1", "anomalies", server.port, retry=QUICK, **settings)))


def blob(*numbers: int, **fields: Any) -> bytes:
    return b"\n".join(
        orjson.dumps(
            {"anomaly_id": f"a{n}", "revision": 0, "ts": NOW_MS, "service": "s", "source": {"offset": n}} | fields
        )
        for n in numbers
    )


def items(*statuses: int) -> bytes:
    made = [{"create": {"status": s} | ({"error": {"type": "t", "reason": "r"}} if s >= 300 else {})} for s in statuses]
    return orjson.dumps({"errors": True, "items": made})


def test_an_element_is_stored_when_the_call_returns(server: Script):
    operator, context = loki(server, tenant="shop", token="secret")
    assert list(operator.process_element(blob(1, 2), None)) == []
    (request,) = server.got
    assert request.path == "/loki/api/v1/push"
    assert request.headers["X-Scope-OrgID"] == "shop"
    assert request.headers["Authorization"] == "Bearer secret"
    assert request.headers["Content-Encoding"] == "gzip"
    assert len(json.loads(request.body)["streams"][0]["values"]) == 2
    assert context.counts == {"loki_sent": 2, "loki_retried": 0, "loki_refused": 0}
    operator.close()


def test_a_row_with_one_field_is_an_element_too(server: Script):
    operator, context = loki(server)
    list(operator.process_element(Row(blob(1)), None))
    assert context.counts["loki_sent"] == 1


def test_each_stream_has_a_request_of_its_own(server: Script):
    operator, _ = loki(server)
    list(operator.process_element(blob(1) + b"\n" + blob(2, service="other"), None))
    assert [len(json.loads(request.body)["streams"]) for request in server.got] == [1, 1]


def test_a_server_that_is_busy_gets_the_same_bytes_again(server: Script):
    server.then(429, Retry_After="0").then(503).then(500)
    operator, context = loki(server)
    assert list(operator.process_element(blob(1), None)) == []
    assert len({request.body for request in server.got}) == 1
    assert len(server.got) == 4
    assert context.counts == {"loki_sent": 1, "loki_retried": 3, "loki_refused": 0}


def test_retry_after_is_honoured(server: Script):
    server.then(429, Retry_After="1")
    operator, _ = loki(server)
    began = time.monotonic()
    list(operator.process_element(blob(1), None))
    assert time.monotonic() - began >= 1


def test_a_server_that_stays_busy_fails_the_job_with_what_to_do(server: Script):
    for _ in range(9):
        server.then(503, b"ring is empty")
    operator, _ = loki(server)
    with pytest.raises(SinkError, match=r"(?s)gave up after 4 tries.*ring is empty.*checkpoint"):
        list(operator.process_element(blob(1), None))


def test_a_server_that_is_not_there_fails_the_job_within_the_time_bound():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        plan = RetryParams(base_s=0.1, cap_s=0.2, max_tries=1000, deadline_s=0.5, timeout_s=1)
        operator, _ = opened(DeliverToLoki(LokiParams("127.0.0.1", taken.getsockname()[1], retry=plan)))
        began = time.monotonic()
        with pytest.raises(SinkError, match="no answer"):
            list(operator.process_element(blob(1), None))
        assert time.monotonic() - began < 2


def test_a_server_that_never_answers_is_left_within_the_time_bound():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        plan = RetryParams(base_s=0.01, cap_s=0.02, max_tries=1000, deadline_s=0.6, timeout_s=0.2)
        operator, _ = opened(DeliverToLoki(LokiParams("127.0.0.1", silent.getsockname()[1], retry=plan)))
        began = time.monotonic()
        with pytest.raises(SinkError, match=r"(?i)timeout"):
            list(operator.process_element(blob(1), None))
        assert time.monotonic() - began < 2
        operator.close()


def test_the_refused_entry_of_a_batch_becomes_a_dead_letter_and_the_rest_is_stored(server: Script):
    refusal = b"max entry size '10' bytes exceeded for stream '{}'"
    server.then(400, refusal).then(204).then(400, refusal)  # the whole, the first half, the second
    operator, context = loki(server)
    (letter,) = list(operator.process_element(blob(1, 2), None))
    assert json.loads(letter)["reason"] == "line_too_long"
    assert context.counts == {"loki_sent": 1, "loki_retried": 0, "loki_refused": 1}


def test_wrong_credentials_fail_at_once_and_name_the_setting(server: Script):
    server.then(401, b"no org id")
    operator, _ = loki(server)
    with pytest.raises(SinkError, match="tenant"):
        list(operator.process_element(blob(1), None))
    assert len(server.got) == 1


def test_a_redirect_is_not_followed_with_the_credentials(server: Script):
    server.then(302, Location=f"http://127.0.0.1:{server.port}/elsewhere")
    operator, _ = loki(server, token="secret")
    with pytest.raises(SinkError, match="address"):
        list(operator.process_element(blob(1), None))
    assert [request.path for request in server.got] == ["/loki/api/v1/push"]


def test_no_secret_is_in_an_error_or_a_repr(server: Script):
    for _ in range(9):
        server.then(503)
    operator, _ = loki(server, user="me", password="topsecret")
    with pytest.raises(SinkError) as caught:
        list(operator.process_element(blob(1), None))
    assert "topsecret" not in str(caught.value)
    assert "topsecret" not in repr(operator._params)


def test_items_that_were_put_off_are_sent_again_alone(server: Script):
    server.then(200, items(201, 429, 400)).then(200, items(201))
    operator, context = elastic(server, api_key="a2V5")
    (letter,) = list(operator.process_element(blob(1, 2, 3), None))
    assert json.loads(letter)["offset"] == 3
    first, second = server.got
    assert first.path == "/anomalies/_bulk"
    assert first.headers["Content-Type"] == "application/x-ndjson"
    assert first.headers["Authorization"] == "ApiKey a2V5"
    assert [json.loads(line)["create"]["_id"] for line in second.body.splitlines()[::2]] == ["a2-0"]
    assert context.counts == {"elastic_sent": 2, "elastic_retried": 1, "elastic_refused": 1}


def test_documents_put_off_again_and_again_are_waited_for_longer_and_longer_and_then_fail_the_job(server: Script):
    for _ in range(9):
        server.then(200, items(429))
    operator, _ = elastic(server)
    with pytest.raises(SinkError, match=r"gave up after 4 tries.*1 of 1 documents"):
        list(operator.process_element(blob(1), None))


def test_a_bulk_request_that_is_too_large_is_halved(server: Script):
    server.then(413).then(200, items(201)).then(413)
    operator, context = elastic(server)
    (letter,) = list(operator.process_element(blob(1, 2), None))
    assert json.loads(letter)["reason"] == "too_large"
    assert context.counts["elastic_sent"] == 1


def test_an_index_that_may_not_be_written_fails_the_job(server: Script):
    server.then(200, orjson.dumps({"items": [{"create": {"status": 403, "error": {"type": "security_exception"}}}]}))
    operator, _ = elastic(server)
    with pytest.raises(SinkError, match="api_key"):
        list(operator.process_element(blob(1), None))


def test_a_redis_that_is_not_there_fails_the_job_within_the_time_bound():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        operator, _ = opened(DeliverToRedis(RedisParams("127.0.0.1", taken.getsockname()[1], retry=QUICK)))
        column = np.zeros(1, np.int32)
        data = SequenceBatch.of(
            ["s"], ["t"], column, column, column, column, column.astype(np.uint32), column.astype(np.uint64), column
        ).to_bytes()
        with pytest.raises(SinkError, match="Redis at"):
            list(operator.process_element(data, None))
        operator.close()


def test_the_reader_goes_on_after_a_busy_server_from_its_cursor(server: Script):
    page = {"data": {"resultType": "streams", "result": [{"stream": {}, "values": [["5", "a"], ["6", "b"]]}]}}
    empty = {"data": {"resultType": "streams", "result": []}}
    server.then(503).then(200, orjson.dumps(page)).then(200, orjson.dumps(empty))
    query = LokiQuery("127.0.0.1", "{}", 0, 100, server.port, limit=2, retry=QUICK)
    reader = LokiReader(query)
    assert [json.loads(record)["message"] for record in reader] == ["a", "b"]
    assert "start=6&end=100&direction=forward&limit=2" in server.got[-1].path
    assert list(LokiReader(query, reader.cursor)) == []


def test_a_query_that_loki_refuses_is_told_to_the_user(server: Script):
    server.then(400, b"parse error at line 1")
    with pytest.raises(DataSetError, match="parse error"):
        list(LokiReader(LokiQuery("127.0.0.1", "{}", 0, 100, server.port, retry=QUICK)))
