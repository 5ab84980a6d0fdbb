from __future__ import annotations

import gzip

import pytest
import zstandard

from flink_jobs.feed import Sent, client_options, key_of, paced, send_lines
from models.datasets import read_lines
from models.errors import DataSetError, SettingsError, SinkError

LINES = [b'{"a": 1}', b"plain", b'{"b": "\xc3\xa4"}']
TEXT = b"\n".join(LINES) + b"\r\n\n"


class Clock:
    """Time that passes only while someone sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Future:
    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def add_errback(self, take) -> None:
        if self.error is not None:
            take(self.error)


class Producer:
    """Keeps what it is given; refuses the n-th line."""

    def __init__(self, refuse: int | None = None, interrupt: int | None = None) -> None:
        self.got: list[tuple[bytes | None, bytes]] = []
        self.flushed = False
        self.refuse = refuse
        self.interrupt = interrupt

    def send(self, topic: str, value: bytes, key: bytes | None) -> Future:
        assert topic == "logs"
        if len(self.got) == self.interrupt:
            raise KeyboardInterrupt
        self.got.append((key, value))
        return Future(ValueError("too large") if len(self.got) == self.refuse else None)

    def flush(self, timeout: float) -> None:
        self.flushed = True


@pytest.mark.parametrize("name", ["a.log", "a.log.gz", "a.log.zst"])
def test_lines_are_read_from_plain_gzip_and_zstd_files_alike(tmp_path, name: str) -> None:
    packed = {"log": TEXT, "gz": gzip.compress(TEXT), "zst": zstandard.compress(TEXT)}[name.rsplit(".", 1)[1]]
    (tmp_path / name).write_bytes(packed)
    assert list(read_lines(tmp_path / name)) == LINES


def test_a_zstd_file_of_several_frames_is_read_to_its_end(tmp_path) -> None:
    path = tmp_path / "a.zst"
    path.write_bytes(zstandard.compress(b"one\n") + zstandard.compress(b"two\n"))
    assert list(read_lines(path)) == [b"one", b"two"]


def test_a_missing_file_a_folder_and_a_damaged_file_say_what_they_are(tmp_path) -> None:
    with pytest.raises(DataSetError, match="is not there"):
        list(read_lines(tmp_path / "none.log"))
    with pytest.raises(DataSetError, match="is a folder"):
        list(read_lines(tmp_path))
    (tmp_path / "cut.gz").write_bytes(gzip.compress(TEXT * 100)[:-20])
    with pytest.raises(DataSetError, match="is damaged"):
        list(read_lines(tmp_path / "cut.gz"))


def test_a_rate_is_kept_over_the_whole_file() -> None:
    clock = Clock()
    chunks = list(paced([b"x"] * 1_000, rate=200, speed=None, clock=clock, sleep=clock.sleep))
    assert sum(map(len, chunks)) == 1_000
    assert clock.now - 100.0 == pytest.approx(1_000 / 200, abs=0.1)


def test_without_a_rate_nobody_waits() -> None:
    clock = Clock()
    assert sum(map(len, paced([b"x"] * 1_200, None, None, clock, clock.sleep))) == 1_200
    assert clock.slept == []


def test_speed_follows_the_times_of_the_lines_and_keeps_their_order(monkeypatch) -> None:
    times = [0, 1_000, None, 500, 4_000]
    monkeypatch.setattr("flink_jobs.feed.event_times", lambda block: [times[int(line)] for line in block])
    clock = Clock()
    due = []
    for chunk in paced([b"%d" % n for n in range(5)], None, 2.0, clock, clock.sleep):
        due += [(line, round(clock.now - 100.0, 2)) for line in chunk]
    assert due == [(b"0", 0.0), (b"1", 0.5), (b"2", 0.5), (b"3", 0.5), (b"4", 2.0)]


def test_lines_go_out_in_order_with_the_key_of_their_field() -> None:
    producer = Producer()
    told: list[int] = []
    sent = send_lines(LINES, producer, "logs", key_field="b", tell=lambda sent: told.append(sent.lines))
    assert producer.got == [(None, LINES[0]), (None, LINES[1]), ("ä".encode(), LINES[2])]
    assert producer.flushed
    assert (sent.lines, sent.bytes) == (3, sum(map(len, LINES)))
    assert told[-1] == 3


def test_a_refused_line_is_an_error_that_counts_the_ones_before() -> None:
    with pytest.raises(SinkError, match="too large"):
        send_lines(LINES, Producer(refuse=2), "logs")


def test_ctrl_c_still_waits_for_the_lines_already_given_and_keeps_their_count() -> None:
    producer, sent = Producer(interrupt=2), Sent()
    with pytest.raises(KeyboardInterrupt):
        send_lines(LINES, producer, "logs", sent=sent)
    assert producer.flushed
    assert sent.lines == 2


@pytest.mark.parametrize(
    ("line", "field", "key"),
    [
        (b'{"service": "cart"}', "service", b"cart"),
        (b'{"service": {"name": "cart"}}', "service.name", b"cart"),
        (b'{"service.name": "cart"}', "service.name", b"cart"),
        (b'{"n": 7}', "n", b"7"),
        (b'{"n": null}', "n", None),
        (b"[1]", "n", None),
        (b"not json", "n", None),
    ],
)
def test_the_key_is_the_value_of_the_field_or_nothing(line: bytes, field: str, key: bytes | None) -> None:
    assert key_of(line, field) == key


def test_java_client_properties_become_those_of_the_python_client() -> None:
    jaas = 'org.apache.kafka.common.security.plain.PlainLoginModule required username="u" password="p";'
    assert client_options({"sasl.jaas.config": jaas, "request.timeout.ms": "900"}) == {
        "sasl_plain_username": "u",
        "sasl_plain_password": "p",
        "request_timeout_ms": 900,
    }
    with pytest.raises(SettingsError, match=r"no\.such\.thing"):
        client_options({"no.such.thing": "1"})


@pytest.mark.parametrize(
    "to", ["localhost:9092/logs", "kafka://localhost:9092/a,b", "kafka://localhost:9092/?pattern=x"]
)
def test_an_address_that_is_not_one_topic_is_refused(tmp_path, to: str) -> None:
    from flink_jobs.commands.replay import command

    (tmp_path / "a.log").write_bytes(TEXT)
    with pytest.raises(SettingsError, match="name one topic"):
        command(file=tmp_path / "a.log", to=to)


def test_no_broker_is_an_error_with_its_address(tmp_path, monkeypatch) -> None:
    from kafka.errors import KafkaConnectionError

    from flink_jobs.commands.replay import command

    def nobody(**options: object) -> None:
        raise KafkaConnectionError

    monkeypatch.setattr("kafka.KafkaAdminClient", nobody)
    (tmp_path / "a.log").write_bytes(TEXT)
    with pytest.raises(SettingsError, match=r"127\.0\.0\.1:9 takes no connection"):
        command(file=tmp_path / "a.log", to="kafka://127.0.0.1:9/logs")
