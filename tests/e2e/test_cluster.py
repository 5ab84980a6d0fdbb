"""The servers and the cluster that the other end-to-end tests stand on."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
import redis

from flink_jobs.runtime import submit
from flink_jobs.runtime.processes import ServiceError
from flink_jobs.runtime.rest import FlinkRest

JOB = Path(__file__).parent / "jobs" / "counting.py"
#: A `driftwood` command that keeps a server until it is told to end.
HOLDING = """
import time
from flink_jobs import cli
from flink_jobs.runtime.processes import Service

class Sleeper(Service):
    name = "sleeper"

    def command(self):
        return ["sh", "-c", "trap 'kill $!; sleep 2; exit' TERM; sleep 60 & wait"]

    def is_ready(self):
        return True

class Finalised:
    def __del__(self):
        time.sleep(2)

@cli.app.command()
def hold(finaliser: bool = False) -> None:
    with Sleeper() as sleeper:
        print(sleeper.process.pid, sleeper.folder, flush=True)
        if finaliser:
            Finalised()
        time.sleep(60)

cli.main()
"""
WORDS = ("amber", "birch", "cedar", "dune", "ember")


def counted(values: list[bytes]) -> set[tuple[str, int]]:
    pairs = [value.decode().split() for value in values]
    return {(word, int(count)) for word, count in pairs}


def test_a_killed_broker_comes_back_with_its_topics(kafka_broker, new_topic, send, read):
    topic = new_topic("kept", partitions=2)
    send(topic, [b"%d" % number for number in range(500)])
    kafka_broker.kill()
    assert not kafka_broker.alive
    kafka_broker.start()
    assert sorted(map(int, read(topic, at_least=500))) == list(range(500))


def test_a_killed_redis_comes_back_with_its_data(redis_server):
    with redis.Redis.from_url(redis_server.url) as client:
        client.rpush("sequence", *range(100))
    redis_server.kill()
    redis_server.start()
    with redis.Redis.from_url(redis_server.url) as client:
        assert client.llen("sequence") == 100
        client.delete("sequence")


def test_loki_stores_an_old_line_with_metadata_and_gives_it_back(loki_url):
    push = {
        "streams": [
            {"stream": {"job": "runtime-test"}, "values": [["1700000000000000000", "a line", {"anomaly_id": "f00"}]]}
        ]
    }
    request = urllib.request.Request(
        f"{loki_url}/loki/api/v1/push", json.dumps(push).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 204
    query = "query=%7Bjob%3D%22runtime-test%22%7D&start=1699999999000000000&end=1700000001000000000"
    with urllib.request.urlopen(f"{loki_url}/loki/api/v1/query_range?{query}", timeout=10) as answer:
        streams = json.load(answer)["data"]["result"]
    assert [(stream["stream"]["anomaly_id"], stream["values"][0][1]) for stream in streams] == [("f00", "a line")]


def test_a_killed_loki_comes_back(loki_server):
    loki_server.kill()
    assert not loki_server.is_ready()
    loki_server.start()
    assert loki_server.is_ready()


def test_nothing_listens_beyond_localhost(kafka_broker, redis_server, flink_cluster):
    processes = flink_cluster.processes() + [psutil.Process(s.process.pid) for s in (kafka_broker, redis_server)]
    listening = [c.laddr.ip for p in processes for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    assert len(listening) > 5
    assert {address.removeprefix("::ffff:") for address in listening} <= {"127.0.0.1", "::1"}


def test_a_job_survives_its_taskmanager_and_its_python_worker_and_restores_rescaled(
    kafka_broker, flink_cluster, new_topic, send, read
):
    source, sink = new_topic("words", partitions=4), new_topic("counts")
    arguments = [kafka_broker.bootstrap, source, sink]
    rest = flink_cluster.rest
    job = submit.submit(flink_cluster, arguments, entry=JOB, parallelism=2)
    rest.wait(job)
    sent = 0

    def send_round(count: int) -> None:
        nonlocal sent
        send(source, [word.encode() for _ in range(count) for word in WORDS])
        sent += count

    send_round(40)
    # Results of all words are committed: every operator is open, and from then on its worker sees when its TaskManager is gone.
    assert len(read(sink, at_least=sent * len(WORDS))) == sent * len(WORDS)

    # The TaskManager that runs it is lost; the spare one takes over.
    assert rest.restarts(job) == 0
    lost = re.compile("task ?manager", re.IGNORECASE)
    send_round(40)
    flink_cluster.kill_taskmanager(flink_cluster.taskmanager_of(job))
    send_round(40)
    # Flink counts a restart some seconds before or after it tells of the failure.
    rest.until(lambda: any(map(lost.search, rest.exceptions(job))), 60, "a failure that names a TaskManager")
    rest.until(lambda: rest.restarts(job) >= 1, 60, "a restart after the TaskManager's loss")
    flink_cluster.start_taskmanager()
    rest.wait(job)
    assert counted(read(sink, at_least=sent * len(WORDS))) == {(word, n + 1) for word in WORDS for n in range(sent)}

    # A Python worker is lost.
    before = rest.restarts(job)
    workers = flink_cluster.python_workers()
    assert workers
    send_round(20)
    workers[-1].kill()
    rest.until(lambda: rest.restarts(job) > before, 90, "a restart after the Python worker's loss")
    rest.wait(job)
    send_round(20)
    assert counted(read(sink, at_least=sent * len(WORDS))) == {(word, n + 1) for word in WORDS for n in range(sent)}

    # Stopped with a savepoint, it goes on with another parallelism as if nothing had been.
    savepoint = rest.stop_with_savepoint(job, flink_cluster.savepoints)
    job = submit.submit(flink_cluster, arguments, entry=JOB, parallelism=1, savepoint=savepoint)
    rest.wait(job)
    send_round(20)
    values = read(sink, at_least=sent * len(WORDS))
    assert len(values) == sent * len(WORDS)
    assert counted(values) == {(word, n + 1) for word in WORDS for n in range(sent)}

    rest.cancel(job)
    deadline = time.monotonic() + 30
    while flink_cluster.python_workers() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert flink_cluster.python_workers() == []


def test_a_wait_in_vain_says_how_the_job_is():
    trace = "JobException: suppressed\n\tat a.B.c(B.java:1)\nCaused by: NoResourceAvailableException: no slots\n\t... 9 more"
    answers = {
        "/overview": {"slots-total": 2, "slots-available": 0},
        "/jobs/7": {"state": "RUNNING", "vertices": [{"status": "SCHEDULED"}]},
        "/jobs/7/exceptions": {"exceptionHistory": {"entries": [{"stacktrace": trace}]}},
    }
    rest = FlinkRest("http://localhost:1")
    rest.call = answers.get
    with pytest.raises(ServiceError) as raised:
        rest.wait("7", timeout_s=0.1)
    assert str(raised.value) == (
        "waited 0 s in vain for: job 7 in RUNNING. Now job 7 is STARTING; 0 of the cluster's 2 slots are free. Its last failure: "
        "JobException: suppressed\nCaused by: NoResourceAvailableException: no slots"
    )


@pytest.mark.parametrize("where", [[], ["--finaliser"]], ids=["at rest", "in a finaliser"])
def test_a_command_that_is_told_to_end_stops_what_it_started(where):
    program = [sys.executable, "-c", HOLDING, "hold", *where]
    command = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    with command, contextlib.ExitStack() as stack:
        stack.callback(command.kill)
        held, folder = command.stdout.readline().split()
        assert psutil.pid_exists(int(held))
        time.sleep(0.3)
        command.terminate()
        command.terminate()
        time.sleep(1)
        command.terminate()
        assert command.wait(30) == 130, command.stdout.read()
    assert not psutil.pid_exists(int(held))
    assert not Path(folder.decode()).exists()


def test_a_job_that_cannot_start_says_why(flink_cluster):
    with pytest.raises(ServiceError, match="missing 3 required positional arguments"):
        submit.submit(flink_cluster, [], entry=JOB)


def test_the_submission_can_be_printed(flink_cluster):
    submission = submit.Submission(["--source", "file:x"], jobmanager="localhost:1", parallelism=3, savepoint="/s p")
    line = shlex.join(submission.command(Path("code.zip")))
    assert "run -t remote -m localhost:1 -d -p 3 -s '/s p'" in line
    assert line.endswith("-pym flink_jobs.main --source file:x")
