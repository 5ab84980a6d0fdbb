"""Every query of every dashboard and alert against a real Prometheus and a real Loki: it is understood, and it returns data.

Prometheus gets the metrics of a real job, as its reporter gave them (tests/golden/metrics/), with a past of 26 hours.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from typing_extensions import override

from flink_jobs.runtime.processes import LOCALHOST, Service, free_ports
from models.loki import LokiParams
from tests.conftest import missing
from udfs.clients.loki import LokiClient

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
GOLDEN = ROOT / "tests" / "golden" / "metrics"
PAGES = [json.loads(path.read_text()) for path in sorted(DOCKER.glob("grafana/dashboards/*/*.json"))]
STEP_S = 60
PAST_S = 26 * 3600
#: What Grafana puts in their place.
VARIABLES = {"$__range": "24h", "$__auto": "5m", "$service": ".+", "$mode": ".+"}


def targets(kind: str) -> list[Any]:
    """Each query of one kind of source: page and panel, expression, whether it is asked for one moment."""
    return [
        pytest.param(
            target["expr"],
            bool(target.get("instant")) or target.get("queryType") == "instant",
            id=f"{page['uid']}-{panel['title']}-{target['refId']}",
        )
        for page in PAGES
        for panel in page["panels"]
        for target in panel["targets"]
        if target["datasource"]["type"] == kind
    ]


def filled(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert not re.search(r"\$[a-z_]", expression)
    return expression


def ask(url: str, **parameters: Any) -> list[Any]:
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(parameters)}", timeout=30) as answer:
        return json.load(answer)["data"]["result"]


def program(name: str) -> Path:
    """prometheus or promtool: PROMETHEUS_BIN and its neighbour, or on PATH."""
    named = os.environ.get("PROMETHEUS_BIN")
    found = str(Path(named).with_name(name)) if named else shutil.which(name)
    if found is None or not os.access(found, os.X_OK):
        missing(name, "install Debian's package prometheus (its service is not needed), or set PROMETHEUS_BIN")
    return Path(found)


class PrometheusServer(Service):
    """A real Prometheus over blocks that were written before."""

    name = "prometheus"

    def __init__(self, folder: Path, binary: Path) -> None:
        super().__init__(folder)
        self.binary = binary
        (self.port,) = free_ports(1)

    @property
    def url(self) -> str:
        return f"http://{LOCALHOST}:{self.port}"

    @override
    def command(self) -> list[str | Path]:
        config = self.folder / "prometheus.yaml"
        config.write_text("global: {}\n")
        listen = f"--web.listen-address={LOCALHOST}:{self.port}"
        return [self.binary, f"--config.file={config}", f"--storage.tsdb.path={self.folder / 'data'}", listen]

    @override
    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def samples(now_s: int) -> Iterator[str]:
    """The golden metrics over the past, as OpenMetrics: counts rise by one a second, other values swing a little around their own."""
    family = ""
    for path in sorted(GOLDEN.glob("*.prom")):
        for name, labels, value in re.findall(r"^(\w+)(\{.*),\} (\S+)$", path.read_text(), re.MULTILINE):
            if name != family:
                family = name
                yield f"# TYPE {name} gauge"
            rises = re.search(r"_total$|_num(?!RunningJobs)|GarbageCollector|_(?:sent|retried|refused)$", name)
            for age_s in range(PAST_S, -STEP_S, -STEP_S):
                at = now_s - age_s
                yield f"{name}{labels}}} {PAST_S - age_s if rises else float(value) + at // STEP_S % 5} {at}"
    yield "# EOF"


def test_the_golden_metrics_are_those_that_queries_name():
    """To take them anew: a cluster with a model and metrics.reporter.prom.*, then the reporters' pages, of what is named here."""
    rules = (DOCKER / "prometheus" / "alerts.yaml").read_text()
    asked = set(re.findall(r"flink_[A-Za-z_]+", rules + json.dumps(PAGES)))
    given = {name for path in GOLDEN.glob("*.prom") for name in re.findall(r"^(\w+)\{", path.read_text(), re.MULTILINE)}
    assert given == asked


@pytest.fixture(scope="module")
def now_s() -> int:
    return int(time.time())


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory, now_s: int) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("prometheus")
    text = folder / "past.om"
    text.write_text("\n".join(samples(now_s)) + "\n")
    command = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", text, folder / "data"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with PrometheusServer(folder, program("prometheus")) as server:
        yield server.url


@pytest.mark.parametrize(("expression", "is_instant"), targets("prometheus"))
def test_a_query_of_metrics_returns_data(prometheus: str, now_s: int, expression: str, is_instant: bool):
    query = filled(expression)
    if is_instant:
        found = ask(f"{prometheus}/api/v1/query", query=query, time=now_s)
    else:
        found = ask(f"{prometheus}/api/v1/query_range", query=query, start=now_s - 3600, end=now_s, step=60)
    assert found
    values = [value for series in found for _, value in ([series["value"]] if is_instant else series["values"])]
    assert any(value != "NaN" for value in values)


def test_alert_rules_and_the_scrape_configuration_are_understood(tmp_path: Path):
    shutil.copytree(DOCKER / "prometheus", tmp_path / "prometheus")
    command = [program("promtool"), "check", "config", tmp_path / "prometheus" / "prometheus.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 rules found" in done.stdout + done.stderr


#: What a job that is well says, minute by minute; and for each alert, what is different when it must fire.
JOB = {
    "flink_jobmanager_numRunningJobs": "1x2000",
    "flink_jobmanager_job_numRestarts": "0x2000",
    "flink_jobmanager_job_numberOfFailedCheckpoints": "0x2000",
    "flink_jobmanager_job_numberOfCompletedCheckpoints": "0+6x2000",
    "flink_taskmanager_job_task_operator_pendingRecords": "200x2000",
    "flink_taskmanager_job_task_operator_driftwood_lines_total": "0+60000x2000",
    "flink_taskmanager_job_task_operator_driftwood_rejects_total": "0+10x2000",
    "flink_taskmanager_job_task_operator_driftwood_unmodelled_total": "0+100x2000",
    "flink_taskmanager_job_task_operator_loki_refused": "0x2000",
    "flink_taskmanager_job_task_operator_redis_sent": "0+60000x2000",
}
FAULTS = {
    "DriftwoodJobDown": {"flink_jobmanager_numRunningJobs": "1x600 0x1400"},
    "DriftwoodJobRestarts": {"flink_jobmanager_job_numRestarts": "0x600 0+1x1400"},
    "DriftwoodCheckpointFailing": {"flink_jobmanager_job_numberOfFailedCheckpoints": "0x600 0+1x1400"},
    "DriftwoodLag": {"flink_taskmanager_job_task_operator_pendingRecords": "200x600 200000+5000x1400"},
    "DriftwoodDeadLetters": {"flink_taskmanager_job_task_operator_driftwood_rejects_total": "0+10x600 6000+9000x1400"},
    "DriftwoodLokiRefuses": {"flink_taskmanager_job_task_operator_loki_refused": "0x600 0+3x1400"},
    "DriftwoodLearningStalled": {"flink_taskmanager_job_task_operator_redis_sent": "0+60000x600 36000000x1400"},
    "DriftwoodServicesWithoutModel": {"flink_taskmanager_job_task_operator_driftwood_unmodelled_total": "0+50000x2000"},
}


def expanded(notation: str) -> str:
    """promtool's notation of a series, where a plain `1x5` stands for five equal values."""
    return " ".join(re.sub(r"^(\d+)x", r"\1+0x", part) for part in notation.split())


def fired(folder: Path, job: dict[str, str], name: str, at: str) -> bool:
    """Whether an alert fires at a time, by promtool's own engine."""
    alerts = folder / "alerts.yaml"
    shutil.copy(DOCKER / "prometheus" / "alerts.yaml", alerts)
    case = {
        "rule_files": [str(alerts)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": f'{series}{{job="flink"}}', "values": expanded(values)} for series, values in job.items()
                ],
                "alert_rule_test": [{"eval_time": at, "alertname": name, "exp_alerts": []}],
            }
        ],
    }
    path = folder / "case.yaml"
    path.write_text(yaml.safe_dump(case))
    done = subprocess.run([program("promtool"), "test", "rules", path], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0 or f"alertname: {name}" in said, said
    return done.returncode != 0


def test_every_alert_has_a_fault_that_brings_it_about():
    rules = yaml.safe_load((DOCKER / "prometheus" / "alerts.yaml").read_text())["groups"][0]["rules"]
    assert {rule["alert"] for rule in rules} == FAULTS.keys()


@pytest.mark.parametrize("name", sorted(FAULTS))
def test_an_alert_fires_for_its_fault_and_is_silent_for_a_job_that_is_well(tmp_path: Path, name: str):
    assert not fired(tmp_path, JOB, name, "1900m")
    assert fired(tmp_path, JOB | FAULTS[name], name, "1900m")


def test_a_job_manager_that_says_nothing_is_down(tmp_path: Path):
    silent = {name: series for name, series in JOB.items() if "numRunningJobs" not in name}
    assert fired(tmp_path, silent, "DriftwoodJobDown", "60m")


def push(url: str, labels: dict[str, str], values: list[list[str]]) -> None:
    body = orjson.dumps({"streams": [{"stream": labels, "values": values}]})
    request = urllib.request.Request(f"{url}/loki/api/v1/push", body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=30).close()


@pytest.fixture(scope="module")
def loki(loki_url: str, now_s: int) -> str:
    """A Loki with anomalies of two services, told and on trial, and with the lines of the services themselves."""
    at = urllib.parse.urlsplit(loki_url)
    client = LokiClient(LokiParams(str(at.hostname), at.port or 3100))
    anomalies = [
        {
            "anomaly_id": f"{number:016x}",
            "revision": 0,
            "mode": "shadow" if number % 3 == 0 else "live",
            "ts": (now_s - 60 * number) * 1000,
            "service": f"dashboard-{number % 2}",
            "level": "WARN",
            "score": 0.5 + number / 100,
            "strength": 12.5,
            "threshold": 9.0,
            "template_id": f"{number % 5:08x}",
            "detectors": {"count": 4.0, "value": 1.0},
            "parameters": [{"position": 3, "name": "ms", "type": "number", "unit": "ms", "value": str(400 + number)}],
            "message": f"slow query: {400 + number} ms",
            "explanation": "412 ms is far above what this value was.",
            "model_version": "20261123-1",
            "source": {
                "topic": "logs",
                "partition": 0,
                "offset": number,
                "index": 0,
                "kafka_ts": (now_s - 60 * number) * 1000,
            },
        }
        for number in range(40)
    ]
    assert client.deliver(b"\n".join(map(orjson.dumps, anomalies))) == []
    client.close()
    lines = [
        [str((now_s - 30 * number) * 10**9), f"ERROR stored {number * 3} kB in {number + 5} ms, {number} bytes left"]
        for number in range(40)
    ]
    push(loki_url, {"service_name": "dashboard-0"}, lines[::-1])
    return loki_url


@pytest.mark.parametrize(("expression", "is_instant"), targets("loki"))
def test_a_query_of_lines_returns_data(loki: str, now_s: int, expression: str, is_instant: bool):
    query, end_ns = filled(expression), (now_s + 60) * 10**9
    if is_instant:
        found = ask(f"{loki}/loki/api/v1/query", query=query, time=end_ns)
    else:
        found = ask(f"{loki}/loki/api/v1/query_range", query=query, start=end_ns - 3600 * 10**9, end=end_ns, step=60)
    assert found
    # A query that parses a line and cannot gives series with an error instead of a value.
    assert not any("__error__" in series.get("metric", series.get("stream", {})) for series in found)


def test_the_canarys_rule_is_understood_and_speaks_when_there_is_none(loki: str, now_s: int):
    rules = yaml.safe_load((DOCKER / "loki" / "rules" / "fake" / "driftwood.yaml").read_text())
    (rule,) = rules["groups"][0]["rules"]
    assert ask(f"{loki}/loki/api/v1/query", query=rule["expr"], time=now_s * 10**9)
    # It is silent once the canary has spoken.
    push(
        loki,
        {"service_name": "driftwood-canary"},
        [[str((now_s - 60) * 10**9), "✓ canary  A canary went through source, parser, job and sink in 1.2 s."]],
    )
    assert not ask(f"{loki}/loki/api/v1/query", query=rule["expr"], time=now_s * 10**9)
