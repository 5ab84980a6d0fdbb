from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict

import pytest
import zstandard

from models.sample.faults import INFO_KINDS, KINDS, REQUEST_KINDS
from models.sample.services import SERVICES
from models.sample.shapes import Event, render
from models.sample.shop import SampleLine, ShopParams, generate
from models.sample.truth import Truth, compare, dataset_json

SMALL = ShopParams(requests=400, learn_ratio=0.25, fault_ratio=0.3, seed=3)


@pytest.fixture(scope="module")
def lines() -> list[SampleLine]:
    return list(generate(SMALL))


@pytest.fixture(scope="module")
def truth(lines: list[SampleLine]) -> Truth:
    gathered = Truth()
    for line in lines:
        gathered.add(line)
    return gathered


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    few = ShopParams(requests=20, seed=5)
    once, again = [line.value for line in generate(few)], [line.value for line in generate(few)]
    assert once == again
    assert once != [line.value for line in generate(ShopParams(requests=20, seed=6))]


def test_each_service_speaks_and_its_records_are_in_order_of_time_within_the_service(lines: list[SampleLine]) -> None:
    times: dict[str, list[int]] = defaultdict(list)
    for line in lines:
        times[line.service] += [event.ts for event in line.events]
    assert set(times) == set(SERVICES)
    assert all(series == sorted(series) for series in times.values())


def test_the_learning_part_comes_first_has_no_fault_and_shares_no_request_with_the_rest(
    lines: list[SampleLine],
) -> None:
    parts = [line.is_learning for line in lines]
    assert parts == sorted(parts, reverse=True)
    assert all(line.fault is None for line in lines if line.is_learning)
    learned = {event.session for line in lines if line.is_learning for event in line.events} - {None}
    watched = {event.session for line in lines if not line.is_learning for event in line.events} - {None}
    assert learned
    assert watched
    assert not learned & watched
    assert max(line.ts for line in lines if line.is_learning) < min(line.ts for line in lines if not line.is_learning)


def test_every_kind_of_fault_occurs_and_at_least_half_of_the_faults_are_info_lines_of_ordinary_steps(
    lines: list[SampleLine], truth: Truth
) -> None:
    kinds = Counter(record.fault.kind for record in truth.faults.values())
    assert set(kinds) == set(KINDS)
    assert max(kinds[kind] for kind in REQUEST_KINDS) - min(kinds[kind] for kind in REQUEST_KINDS) <= 1
    quiet = sum(kinds[kind] for kind in INFO_KINDS)
    assert quiet >= sum(kinds.values()) / 2
    events = {event.fault: event for line in lines for event in line.events if event.fault is not None}
    for number, record in truth.faults.items():
        if record.fault.kind in INFO_KINDS:
            assert events[number].level == "INFO"
            assert events[number].step in SERVICES[record.fault.service].steps


def test_the_truth_names_the_very_messages_that_show_a_fault(lines: list[SampleLine], truth: Truth) -> None:
    for record in truth.faults.values():
        assert record.lines
        for message, index in record.lines:
            event = lines[message].events[index]
            assert event.fault == record.fault.number
            assert event.service == record.fault.service
            assert event.session == record.fault.session


def test_a_missing_step_is_really_missing_and_a_swap_really_swapped(lines: list[SampleLine], truth: Truth) -> None:
    steps: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for line in lines:
        for event in line.events:
            steps[event.service, event.session].append(event.step)
    uncaptured = [
        record.fault
        for record in truth.faults.values()
        if record.fault.note.startswith("order confirmed, money never captured")
    ]
    swapped = [r.fault for r in truth.faults.values() if r.fault.note.startswith("captured before")]
    assert uncaptured
    assert swapped
    for fault in uncaptured:
        assert "authorised" in steps["payments", fault.session]
        assert "captured" not in steps["payments", fault.session]
        assert "confirmed" in steps["orders", fault.session]
    for fault in swapped:
        seen = steps["payments", fault.session]
        assert seen.index("captured") < seen.index("authorised")


def test_no_request_of_an_info_only_fault_holds_a_warning_or_an_error(lines: list[SampleLine], truth: Truth) -> None:
    sessions = {
        record.fault.session
        for record in truth.faults.values()
        if record.fault.kind in INFO_KINDS and record.fault.session is not None
    }
    levels = {event.level for line in lines for event in line.events if event.session in sessions}
    assert levels == {"INFO"}


def test_normal_requests_have_warnings_too(lines: list[SampleLine]) -> None:
    assert any(event.level == "WARN" for line in lines if line.is_learning for event in line.events)


def test_a_silent_job_writes_nothing_while_the_silence_lasts(lines: list[SampleLine], truth: Truth) -> None:
    silences = [r for r in truth.faults.values() if r.fault.kind == "rate" and "no health probe" in r.fault.note]
    assert silences
    for record in silences:
        probes = [
            event.ts
            for line in lines
            for event in line.events
            if event.service == record.fault.service and event.step == "probed"
        ]
        assert not [ts for ts in probes if (record.fault.start_ms or 0) <= ts <= (record.fault.end_ms or 0)]


def test_copies_of_the_shop_have_services_of_their_own() -> None:
    services = {line.service for line in generate(ShopParams(requests=60, copies=12))}
    assert {"front-001", "front-012"} <= services
    assert len(services) == 12 * len(SERVICES)


def test_several_records_ride_in_one_otlp_message_and_no_other_shape_takes_two() -> None:
    event = Event(1_772_442_000_000, "orders", "host", "abc", "INFO", "text", "step")
    message = json.loads(render("otlp", [event, event]))
    assert len(message["resourceLogs"][0]["scopeLogs"][0]["logRecords"]) == 2
    with pytest.raises(ValueError, match="holds one event"):
        render("ecs", [event, event])


@pytest.mark.parametrize(
    "shape", ["flat_json", "millis_json", "ecs", "kubernetes_text", "kubernetes_cri", "otlp", "journal"]
)
def test_a_json_message_is_one_line_even_with_a_stack_trace_in_it(shape: str) -> None:
    event = Event(1_772_442_000_000, "cart", "host", "abc", "ERROR", "boom\n\tat x", "error")
    value = render(shape, [event])
    assert b"\n" not in value
    assert "abc" in json.dumps(json.loads(value))


def test_a_text_message_is_one_line_even_with_a_stack_trace_in_it() -> None:
    value = render("logfmt", [Event(1_772_442_000_000, "cart", "host", "abc", "ERROR", "boom\n\tat x", "error")])
    assert b"\n" not in value
    assert b"abc" in value


def test_anomalies_are_counted_by_request_and_by_kind_of_fault(truth: Truth) -> None:
    requests = [record.fault for record in truth.faults.values() if record.fault.session is not None]
    rate = next(record for record in truth.faults.values() if record.fault.kind == "rate")
    normal = next(session for session, label in truth.labels.items() if label == 0)
    anomalies: list[dict[str, object]] = [
        {"anomaly_id": n, "service": f.service, "session": f.session, "ts": 0} for n, f in enumerate(requests)
    ]
    anomalies += [
        {"anomaly_id": "again", "service": requests[0].service, "session": requests[0].session, "ts": 0},
        {"anomaly_id": "again", "service": requests[0].service, "session": requests[0].session, "ts": 0},
        {"anomaly_id": "wrong", "service": "cart", "session": normal, "ts": 0},
        {"anomaly_id": "rate", "service": rate.fault.service, "session": None, "ts": rate.end_ms + 100},
        {"anomaly_id": "stray", "service": "cart", "session": None, "ts": rate.start_ms - 10_000_000},
    ]
    summary = compare(truth, anomalies)
    assert summary.anomalies == len(requests) + 4
    assert summary.precision == len(requests) / (len(requests) + 1)
    assert summary.stray == 1
    assert {kind.kind: kind.recall for kind in summary.kinds if kind.kind != "rate"} == dict.fromkeys(
        REQUEST_KINDS, 1.0
    )
    assert next(kind.found for kind in summary.kinds if kind.kind == "rate") >= 1


def test_no_anomaly_means_no_precision_and_no_recall(truth: Truth) -> None:
    summary = compare(truth, [])
    assert summary.precision is None
    assert summary.recall == 0


def test_the_command_writes_a_data_set_folder_that_agrees_with_the_truth(tmp_path, capsys) -> None:
    from flink_jobs.commands.sample import command

    out = tmp_path / "shop"
    command(out_dir=out, requests=60, seed=2, profile="shop", fault_ratio=0.3, learn_ratio=0.5, copies=1, as_json=True)
    report = json.loads(capsys.readouterr().out)
    dataset = json.loads((out / "dataset.json").read_text())
    values = zstandard.ZstdDecompressor().decompressobj().decompress((out / "logs.jsonl.zst").read_bytes()).splitlines()
    labels = list(csv.DictReader((out / "labels.csv").read_text().splitlines()))
    faults = [json.loads(line) for line in (out / "truth.jsonl").read_text().splitlines()]
    assert len(values) == report["lines"]
    assert dataset["unit"] == "session"
    assert dataset["train_until"] == dataset_json(_truth_of(60, 2), "shop", 2)["train_until"]
    assert {row["session"] for row in labels if row["label"] == "1"} == {f["session"] for f in faults if f["session"]}
    for fault in faults:
        for message, _ in fault["lines"]:
            assert (fault["session"] or fault["service"]).encode() in values[message]


def _truth_of(requests: int, seed: int) -> Truth:
    truth = Truth()
    for line in generate(ShopParams(requests=requests, seed=seed, fault_ratio=0.3, learn_ratio=0.5)):
        truth.add(line)
    return truth


def test_a_folder_with_other_files_is_left_alone(tmp_path) -> None:
    from flink_jobs.commands.sample import write_shop
    from models.errors import DataSetError

    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataSetError, match="not a sample's"):
        write_shop(ShopParams(requests=5), tmp_path)


@pytest.mark.parametrize("wrong", [{"requests": 0}, {"fault_ratio": 1.5}, {"requests_per_s": 0.0}, {"copies": 0}])
def test_figures_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        ShopParams(**wrong)  # type: ignore[arg-type]


def test_the_parser_reads_back_time_service_level_host_and_request_of_every_shape(lines: list[SampleLine]) -> None:
    import numpy as np

    from models.parsing import LEVELS, ParseParams, Raw, parse

    some = lines[:2_000]
    size = len(some)
    raw = Raw(
        values=[line.value for line in some],
        topic="logs",
        partition=np.zeros(size, np.int32),
        offset=np.arange(size, dtype=np.int64),
        timestamp_ms=np.zeros(size, np.int64),
    )
    records, rejects = parse(raw, ParseParams())
    assert not rejects
    assert len(records.ts) == sum(len(line.events) for line in some)
    columns = (records.row, records.index, records.ts, records.service, records.level, records.host, records.session)
    for row, index, ts, service, level, host, session in zip(*columns, strict=True):
        event = some[row].events[index]
        assert (int(ts), service, LEVELS[level], host, session) == (
            event.ts,
            event.service,
            event.level,
            event.host,
            event.session,
        )
