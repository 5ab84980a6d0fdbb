from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from flink_jobs.commands.demo import Account, Shown, job_settings
from flink_jobs.demo_log import own_log, sample_log
from models.errors import DataSetError


def anomaly(
    number: int, service: str = "cart", session: str | None = "s1", fingerprint: str = "f"
) -> dict[str, object]:
    return {
        "anomaly_id": f"a{number}",
        "revision": 0,
        "ts": 1_772_442_000_000 + number,
        "service": service,
        "session": session,
        "message": f"message {number}",
        "fingerprint": fingerprint,
    }


@pytest.fixture
def shown() -> Shown:
    return Shown(Console(file=io.StringIO(), width=80, color_system=None))


def text_of(shown: Shown) -> str:
    assert isinstance(shown.console.file, io.StringIO)
    return shown.console.file.getvalue()


def test_what_follows_in_the_same_request_and_service_is_counted_not_printed(shown: Shown) -> None:
    for number in range(3):
        shown.add(anomaly(number))
    shown.add(anomaly(3, service="stock"))
    assert "message 0" in text_of(shown)
    assert "message 3" in text_of(shown)
    assert "message 1" not in text_of(shown)
    assert (len(shown.anomalies), shown.folded) == (4, 2)


def test_an_anomaly_delivered_twice_counts_once(shown: Shown) -> None:
    shown.add(anomaly(0))
    shown.add(anomaly(0))
    assert len(shown.anomalies) == 1
    assert text_of(shown).count("message 0") == 1


def test_repeats_of_one_background_line_are_folded_and_another_line_is_shown(shown: Shown) -> None:
    for number, fingerprint in enumerate(("f", "f", "g")):
        shown.add(anomaly(number, session=None, fingerprint=fingerprint))
    assert "message 0" in text_of(shown)
    assert "message 1" not in text_of(shown)
    assert "message 2" in text_of(shown)


def test_an_account_counts_each_message_once_scored_or_rejected() -> None:
    account = Account()
    account.add({"accounts": [{"topic": "logs", "partition": 0, "scored": [[0, 4], [7, 7]]}], "rejected": []})
    account.add({"accounts": [{"topic": "logs", "partition": 0, "scored": [[4, 4]]}], "rejected": [["logs", 0, 5, 0]]})
    assert len(account) == 7


def test_the_sample_is_cut_where_its_faults_may_begin(tmp_path) -> None:
    log = sample_log(tmp_path, requests=40, seed=1)
    assert log.truth is not None
    assert len(log.learn_file.read_bytes().splitlines()) == log.learn_lines == log.truth.learning_messages
    assert len(log.rest_file.read_bytes().splitlines()) == log.rest_lines


def test_the_first_three_fifths_of_an_own_log_by_time_are_learned_from(tmp_path) -> None:
    source = tmp_path / "app.log"
    order = [*range(1_000, 2_000), *range(1_000)]  # the older half stands second in the file
    source.write_text("".join(json.dumps({"ts": 1_772_442_000_000 + n, "message": f"line {n}"}) + "\n" for n in order))
    log = own_log(source, tmp_path)
    learned = {json.loads(line)["ts"] - 1_772_442_000_000 for line in log.learn_file.read_text().splitlines()}
    assert (log.learn_lines, log.rest_lines) == (1_200, 800)
    assert learned == set(range(1_200))
    assert log.truth is None


def test_a_log_too_short_to_learn_from_is_refused(tmp_path) -> None:
    (tmp_path / "app.log").write_text("one\ntwo\n")
    with pytest.raises(DataSetError, match="at least 1,000"):
        own_log(tmp_path / "app.log", tmp_path)


def test_the_demo_s_job_reads_and_writes_its_own_broker(tmp_path) -> None:
    settings = job_settings("localhost:1234", tmp_path)
    assert settings.source == ("kafka://localhost:1234/logs?start=earliest",)
    assert "verdicts=verdicts" in settings.sink[0]
    assert settings.model == tmp_path / "model"
