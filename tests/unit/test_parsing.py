"""The parser as a whole: fields, times, names, text, accounting, settings, and batches of any cut."""

import io
import itertools
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.parsing import BENIGN_REASONS, REASONS, ParseParams, Raw, parse
from models.parsing.parser import Parser, parser_of
from models.parsing.timecolumns import column_times
from models.parsing.timestamps import Clock, epoch_ms, field_time, parse_time, zone_of

T0 = 1_724_000_000_000  # 2024-08-18T16:53:20Z
PARAMS = ParseParams(redaction_key=b"0123456789abcdef")


def raw(values, ts=T0):
    n = len(values)
    return Raw(values, "t", np.zeros(n, np.int32), np.arange(n, dtype=np.int64), np.full(n, ts, np.int64))


def one(value, params=PARAMS, ts=T0):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    records, rejects = parse(raw([data], ts), params)
    assert rejects == []
    assert len(records) == 1
    return records


def text_of(value, params=PARAMS):
    return one(value, params).message[0]


# --- fields


@pytest.mark.parametrize(
    ("record", "service"),
    [
        ({"service.name": "a", "service": "b"}, "a"),
        ({"service": {"name": "a"}, "app": "b"}, "a"),
        ({"service": "", "app": "b"}, "b"),
        ({"service": None, "app": "b"}, "b"),
        ({"service": ["x"], "service_name": "c"}, "c"),
        ({"kubernetes": {"labels": {"app.kubernetes.io/name": "a", "app": "b"}, "container_name": "c"}}, "a"),
        ({"kubernetes": {"labels": {"app": "b"}, "container_name": "c"}}, "b"),
        ({"kubernetes": {"container_name": "c"}}, "c"),
        ({"app": "b", "kubernetes": {"labels": {"app": "c"}}}, "b"),
        ({"container": {"name": "c"}}, "c"),
        ({}, "unknown_service"),
        ({"service": " api\u0000\n v2 "}, "api v2"),
        ({"service": "x" * 500}, "x" * 127 + "…"),
    ],
)
def test_the_service_is_found_in_the_stated_order_and_cleaned(record, service):
    assert one({"msg": "m", **record}).service == [service]


@pytest.mark.parametrize(
    ("record", "session"),
    [
        ({"session": "s", "trace_id": "t"}, "s"),
        ({"trace_id": "", "request_id": "r"}, "r"),
        ({"traceId": "0" * 32, "req_id": "q"}, "q"),
        ({"trace": {"id": "t"}}, "t"),
        ({"trace.id": "t"}, "t"),
        ({"correlation_id": 17}, "17"),
        ({"request_id": "-"}, None),
        ({"trace_id": {"high": 1}}, None),
    ],
)
def test_the_session_is_the_first_id_that_is_one(record, session):
    assert one({"msg": "m", **record}).session == [session]


def test_a_pattern_of_the_service_finds_the_session_where_none_is_declared():
    params = ParseParams(session_patterns={"shop": r"order=(\w+)", "*": r"(?:job|task)-\d+"})
    values = [
        {"service": "shop", "msg": "paid order=a17 by card"},
        {"service": "shop", "msg": "paid order=a17", "session": "s"},
        {"service": "shop", "msg": "nothing"},
        {"service": "cron", "msg": "run job-12 now"},
    ]
    records, _ = parse(raw([json.dumps(v).encode() for v in values]), params)
    assert records.session == ["a17", "s", None, "job-12"]


@pytest.mark.parametrize(
    ("record", "text"),
    [
        ({"log": "a", "message": "b"}, "a"),
        ({"log": {"level": "info"}, "message": "b"}, "b"),
        ({"log": "", "message": "b"}, "b"),
        ({"log": "\n", "message": "b"}, "b"),
        ({"message": None, "msg": "b"}, "b"),
        ({"MESSAGE": "b"}, "b"),
        ({"message": 17}, "17"),
        ({"message": ["a", "b"]}, "a\nb"),
        ({"message": {"a": 1}}, '{"a":1}'),
        ({"event": {"original": "b"}}, "b"),
        ({"event": "user_login"}, "user_login"),
    ],
)
def test_the_text_is_the_first_field_that_holds_one(record, text):
    assert text_of(record) == text


def test_json_inside_a_text_fills_what_the_record_leaves_open():
    inner = {"level": "error", "msg": "x", "service": "inner", "trace_id": "t1", "ts": 1700000000}
    records = one({"log": json.dumps(inner) + "\n", "time": "2024-08-18T16:53:20Z", "service": "outer"})
    assert (records.message, records.service, records.session, records.level.tolist()) == (
        ["x"],
        ["outer"],
        ["t1"],
        [5],
    )
    assert records.ts.tolist() == [T0]


# --- times


@pytest.mark.parametrize(
    ("value", "iso"),
    [
        ("2024-01-02T03:04:05Z", "2024-01-02T03:04:05"),
        ("2024-01-02T03:04:05.678Z", "2024-01-02T03:04:05.678"),
        ("2024-01-02T03:04:05,678901234+02:00", "2024-01-02T01:04:05.678"),
        ("2024-01-02 03:04:05.6 -0330", "2024-01-02T06:34:05.600"),
        ("2024/01/02 03:04:05", "2024-01-02T03:04:05"),
        ("02/Jan/2024:03:04:05 +0100", "2024-01-02T02:04:05"),
        ("Tue, 02 Jan 2024 03:04:05 GMT", "2024-01-02T03:04:05"),
        ("1704164645", "2024-01-02T03:04:05"),
        ("1704164645678", "2024-01-02T03:04:05.678"),
        ("1704164645678901234", "2024-01-02T03:04:05.678"),
        ("1704164645.678901", "2024-01-02T03:04:05.678"),
        (1704164645.678901, "2024-01-02T03:04:05.678"),
        (1704164645678, "2024-01-02T03:04:05.678"),
        (1704164645678901, "2024-01-02T03:04:05.678"),
        (1704164645678901234, "2024-01-02T03:04:05.678"),
        ("240102 030405", "2024-01-02T03:04:05"),
        ("Jan  2 03:04:05", "2025-01-02T03:04:05"),
        ("soon", "2024-08-18T16:53:20"),
        ("2024-13-02T03:04:05Z", "2024-08-18T16:53:20"),
        ("2024-02-30T03:04:05Z", "2024-08-18T16:53:20"),
        (0.2477829, "2024-08-18T16:53:20"),
        (-5, "2024-08-18T16:53:20"),
        (1e300, "2024-08-18T16:53:20"),
        (12345678901234567890123, "2024-08-18T16:53:20"),
        (None, "2024-08-18T16:53:20"),
        (True, "2024-08-18T16:53:20"),
    ],
)
def test_a_time_of_any_form_is_read_else_kafkas_is_taken(value, iso):
    found = datetime.fromtimestamp(one({"ts": value, "msg": "m"}).ts[0] / 1000, UTC)
    assert found.isoformat(timespec="milliseconds" if "." in iso else "seconds") == iso + "+00:00"


def test_the_next_field_of_time_is_taken_where_the_first_says_none():
    assert one({"@timestamp": "now", "time": 1704164645, "msg": "m"}).ts.tolist() == [1704164645000]


@pytest.mark.parametrize(
    ("text", "reference", "iso"),
    [
        ("Dec 31 23:59:59", "2025-01-01T00:00:01", "2024-12-31T23:59:59"),
        ("Jan  1 00:00:01", "2024-12-31T23:59:59", "2025-01-01T00:00:01"),
        ("Feb 29 12:00:00", "2025-02-28T12:00:00", "2024-02-29T12:00:00"),
        ("23:59:59", "2025-01-01T00:00:01", "2024-12-31T23:59:59"),
        ("00:00:01", "2024-12-31T23:59:59", "2025-01-01T00:00:01"),
    ],
)
def test_what_a_time_leaves_out_is_taken_nearest_to_kafkas_timestamp(text, reference, iso):
    reference_ms = int(datetime.fromisoformat(reference + "+00:00").timestamp() * 1000)
    found = parse_time(text, reference_ms, Clock())
    assert found is not None
    assert datetime.fromtimestamp(found[0] / 1000, UTC).isoformat()[:19] == iso


def test_a_time_without_zone_is_read_in_the_zone_of_the_settings():
    offset = ParseParams(time_zone="+02:00")
    assert (
        one({"ts": "2024-01-02T03:04:05", "msg": "m"}, offset).ts[0]
        == one({"ts": "2024-01-02T01:04:05Z", "msg": "m"}).ts[0]
    )
    assert one(b"2024-01-02 03:04:05 x", offset).ts[0] == one(b"2024-01-02 01:04:05 x").ts[0]
    try:
        prague = ParseParams(time_zone="Europe/Prague")
    except ValueError:
        pytest.skip("this machine has no time zone database")
    for day, hours in (("2024-01-02", 1), ("2024-07-02", 2)):
        for value in ({"ts": f"{day}T12:00:00", "msg": "m"}, f"{day} 12:00:00 x".encode()):
            assert one(value).ts[0] - one(value, prague).ts[0] == hours * 3_600_000


TIMES = st.one_of(
    st.datetimes(datetime(1971, 1, 1), datetime(2099, 1, 1)).map(lambda d: d.isoformat()),  # noqa: DTZ001 - text without zone
    st.datetimes(datetime(1971, 1, 1), datetime(2099, 1, 1)).map(lambda d: d.isoformat(" ", "milliseconds") + "+05:30"),  # noqa: DTZ001
    st.datetimes(datetime(1971, 1, 1), datetime(2099, 1, 1)).map(lambda d: d.isoformat("T", "seconds") + "Z"),  # noqa: DTZ001
    st.floats(1e8, 4e9).map(lambda f: round(f, 3)), st.integers(-5, 2**70), st.text(max_size=25),
    st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{3})?Z", fullmatch=True),
)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.lists(TIMES, min_size=1, max_size=12))
def test_a_column_of_times_is_read_like_its_values(values):
    reference = np.full(len(values), T0, np.int64)
    column = column_times(values, reference, Clock())
    alone = [field_time(value, T0, Clock()) for value in values]
    assert [None if t < 0 else t for t in column.tolist()] == alone


def test_zones_and_numbers_that_are_none_are_refused():
    assert zone_of("utc") is UTC
    assert epoch_ms(float("nan")) is None
    with pytest.raises(ValueError, match="no time zone"):
        ParseParams(time_zone="Mars/Olympus")


# --- text


def test_a_long_line_is_cut_with_a_mark():
    params = ParseParams(max_line_bytes=1000)
    assert text_of(b"x" * 1500, params) == "x" * 1000 + "…<cut at 1000 of 1500 bytes>"
    long = text_of({"msg": "é" * 700_000}, params)
    assert long.startswith("é" * 500 + "…<cut at 1000 of 1400000 bytes>")
    assert len(text_of(b"y " * (1 << 20))) < (1 << 20) + 64


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"msg": "tab\tand\nnewline\r\n"}, "tab\tand\nnewline"),
        ({"msg": "\u001b[31mred\u001b[0m \u001b]8;;http://x\u0007link"}, "red link"),
        ({"msg": "a\u0000b\u0085c\u007fd"}, "abcd"),
        ({"msg": "user \u202enimda\u2069"}, "user \\u202enimda\\u2069"),
        ({"msg": "50%\r100%\r"}, "50%\n100%"),
        (b'{"msg":"half \\ud83d pair"}', "half � pair"),
        (b'{"msg":"raw \x01 control \xff byte"}', "raw  control � byte"),
        (b"\xef\xbb\xbfwith a mark", "with a mark"),
        ("utf-16 line".encode("utf-16"), "utf-16 line"),
        ({"msg": "日本語のログ、正常です。　"}, "日本語のログ、正常です。"),
        (b"\tat com.example.Main(Main.java:1)", "\tat com.example.Main(Main.java:1)"),
        (b'"a \\"quoted\\" line"', 'a "quoted" line'),
        (b"{not json", "{not json"),
    ],
)
def test_a_text_is_made_safe(value, text):
    assert text_of(value) == text


# --- accounting


def test_every_reason_is_documented_and_no_detail_holds_the_input():
    values = [
        None,
        b"",
        b" ",
        b"17",
        b"[]",
        b"{}",
        b'{"a":"zzz"}',
        b"[" * 3000,
        b'{"resourceLogs":[]}',
        b"\n\xff\xff",
        b"\x80" * 9,
    ]
    records, rejects = parse(raw(values), PARAMS)
    assert len(records) == 0
    assert [r.row for r in rejects] == list(range(len(values)))
    assert {r.reason for r in rejects} <= set(REASONS)
    assert {r.reason for r in rejects[:3]} == set(BENIGN_REASONS)
    assert not any("zzz" in r.detail for r in rejects)
    assert all(len(r.digest) == 64 and r.stage == "parse" for r in rejects)


def test_a_dead_letter_is_cut_and_keeps_what_is_no_text():
    (reject,) = parse(raw([b'{"a":"' + b"x" * 200_000 + b'"}']), PARAMS)[1]
    assert len(reject.redacted_bytes) < (1 << 16) + 64
    (binary,) = parse(raw([b"\n\xff\xfe\x00\x81password=hunter2 \x9c"]), PARAMS)[1]
    assert binary.redacted_bytes.startswith(b"\n\xff\xfe\x00\x81password=<redacted:")
    assert binary.redacted_bytes.endswith(b" \x9c")


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    [
        "@timestamp",
        "time",
        "ts",
        "log",
        "message",
        "msg",
        "body",
        "level",
        "severity",
        "severityNumber",
        "service",
        "service.name",
        "app",
        "host",
        "kubernetes",
        "labels",
        "trace_id",
        "session",
        "resourceLogs",
        "scopeLogs",
        "logRecords",
        "resource",
        "attributes",
        "key",
        "value",
        "stringValue",
        "timeUnixNano",
        "event",
        "error",
        "x",
    ]
)
RECORDS = st.recursive(
    st.dictionaries(KEYS, ANY_JSON, max_size=6),
    lambda inner: st.dictionaries(
        KEYS, st.one_of(ANY_JSON, inner, st.lists(inner, max_size=2), inner.map(json.dumps)), max_size=5
    ),
    max_leaves=5,
)
LINES = st.one_of(
    st.none(), st.binary(max_size=60), st.text(max_size=60).map(lambda t: t.encode("utf-8", "surrogatepass")),
    RECORDS.map(lambda r: json.dumps(r).encode()), ANY_JSON.map(lambda r: json.dumps(r).encode()),
    st.binary(max_size=40).map(lambda b: b"\n" + b), RECORDS.map(lambda r: b"2024-01-02T03:04:05Z stdout F " + json.dumps(r).encode()),
    st.from_regex(r"<[0-9]{1,3}>[A-Z0-9 ]{0,20}(\[[0-9]+\])?: [a-z=\" ]{0,20}", fullmatch=True).map(str.encode),
    st.from_regex(r"([a-z]{1,5}=[a-z\"0-9]{0,6} ){0,4}", fullmatch=True).map(str.encode),
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(st.lists(LINES, max_size=6))
def test_anything_ends_as_records_or_rejects_and_nothing_raises(values):
    records, rejects = parse(raw(values), PARAMS)
    places = [(int(r), int(i)) for r, i in zip(records.row, records.index, strict=True)] + [
        (r.row, r.index) for r in rejects
    ]
    assert len(set(places)) == len(places)
    assert {row for row, _ in places} == set(range(len(values)))
    for row in range(len(values)):
        indexes = sorted(i for r, i in places if r == row)
        assert indexes == list(range(len(indexes)))
    assert all(message.strip() and "\x00" not in message and message.encode() for message in records.message)
    assert all(service and "\n" not in service and "\x00" not in service for service in records.service)
    assert (records.ts >= 0).all()
    assert sorted(zip(records.row.tolist(), records.index.tolist(), strict=True)) == list(
        zip(records.row.tolist(), records.index.tolist(), strict=True)
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(LINES, min_size=1, max_size=8))
def test_a_batch_gives_what_its_messages_give_one_by_one(values):
    records, rejects = parse(raw(values), PARAMS)
    whole = list(zip(records.row.tolist(), records.index.tolist(), records.ts.tolist(), records.service, records.level.tolist(),
                     records.host, records.session, records.message, strict=True))  # fmt: skip
    alone, refused = [], []
    for row, value in enumerate(values):
        found, lost = Parser(PARAMS).parse(raw([value])) if row % 2 else parse(raw([value]), PARAMS)
        alone += [(row, *rest) for _, *rest in zip(found.row.tolist(), found.index.tolist(), found.ts.tolist(), found.service,
                  found.level.tolist(), found.host, found.session, found.message, strict=True)]  # fmt: skip
        refused += [(row, r.index, r.reason, r.redacted_bytes, r.digest) for r in lost]
    assert whole == alone
    assert [(r.row, r.index, r.reason, r.redacted_bytes, r.digest) for r in rejects] == refused


# --- settings


def test_settings_travel_as_json_and_hide_the_key():
    params = ParseParams(
        redaction_key=b"0123456789abcdef", session_patterns={"a": "x(.)"}, time_zone="+01:00", text_fields=("m",)
    )
    assert ParseParams.from_json(params.to_json()) == params
    assert parser_of(params) is parser_of(ParseParams.from_json(params.to_json()))
    assert "0123456789abcdef" not in repr(params)
    assert orjson.loads(params.to_json())["redaction_key"] == b"0123456789abcdef".hex()


@pytest.mark.parametrize(
    ("setting", "advice"),
    [
        ({"max_line_bytes": 1}, "at least"),
        ({"default_service": " "}, "blank"),
        ({"text_fallback": "keep"}, "reject or json"),
        ({"session_patterns": {"a": "("}}, "no regular expression"),
        ({"session_patterns": {"a": "(?<=x)y"}}, "no look-around"),
    ],
)
def test_a_wrong_setting_is_refused_with_advice(setting, advice):
    with pytest.raises(ValueError, match=advice):
        ParseParams(**setting)


def test_an_unknown_setting_is_an_error():
    with pytest.raises(ValueError, match="no such setting of the parser: nope"):
        ParseParams.from_json('{"nope": 1}')


def test_own_field_names_take_the_place_of_the_usual_ones():
    params = ParseParams(text_fields=("payload.line",), service_fields=("who",))
    records = one({"payload": {"line": "hello"}, "who": "me", "message": "x", "service": "y"}, params)
    assert (records.message, records.service) == (["hello"], ["me"])


# --- real lines


@pytest.mark.parametrize("name", ["hdfs_dev", "openstack_cinder_dev"])
def test_a_data_set_is_read_whole_and_as_its_fields_say(name):
    path = Path(__file__).parents[3] / "shared" / "data" / name / "logs.jsonl.zst"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    zstandard = pytest.importorskip("zstandard")
    with path.open("rb") as file:
        lines = list(itertools.islice(io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(file)), 3000))
    records, rejects = parse(raw(lines), PARAMS)
    truth = [orjson.loads(line) for line in lines]
    assert {r.reason for r in rejects} <= {"empty"}
    assert len(records) + len(rejects) == len(lines)
    for place, row in enumerate(records.row.tolist()):
        assert records.service[place] == truth[row]["service"]
        assert records.session[place] == truth[row].get("session")
        assert (
            datetime.fromtimestamp(records.ts[place] / 1000, UTC).isoformat(timespec="milliseconds")[:23]
            == truth[row]["@timestamp"][:23]
        )
