"""docker/start.py: what a container becomes, and from which checkpoint a JobManager goes on."""

import importlib.util
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def start():
    spec = importlib.util.spec_from_file_location("driftwood_start", ROOT / "docker" / "start.py")
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def checkpoint(folder: Path, number: int, *, is_whole: bool = True) -> None:
    made = folder / f"chk-{number}"
    made.mkdir(parents=True)
    (made / "_metadata").write_bytes(b"x" if is_whole else b"")


def test_the_newest_whole_checkpoint_of_the_job_is_found(start, tmp_path):
    job = tmp_path / start.JOB_ID
    for number in (9, 10, 2):
        checkpoint(job, number)
    checkpoint(job, 11, is_whole=False)
    (job / "chk-12").mkdir()
    checkpoint(tmp_path / ("0" * 32), 99)
    assert start.newest_checkpoint(tmp_path.as_uri(), {}) == f"file://{job}/chk-10"


def test_there_may_be_no_checkpoint_yet(start, tmp_path):
    assert start.newest_checkpoint((tmp_path / "not there").as_uri(), {}) is None


def test_a_place_that_cannot_be_looked_into_is_an_error(start):
    with pytest.raises(SystemExit, match="hdfs"):
        start.newest_checkpoint("hdfs://name/checkpoints", {})


def test_a_job_manager_goes_on_and_a_fresh_one_does_not(start, tmp_path):
    checkpoint(tmp_path / start.JOB_ID, 7)
    keys = {"execution.checkpointing.dir": tmp_path.as_uri()}
    command = start.jobmanager(["--source", "kafka://h:1/logs"], keys)
    assert command[command.index("--fromSavepoint") + 1].endswith("/chk-7")
    # Flink's options come before the job's own, or Flink refuses them.
    assert command.index("-py") < command.index("--source")
    assert Path(command[command.index("-py") + 1]).exists()
    fresh = start.jobmanager(["--fresh", "--source", "kafka://h:1/logs"], keys)
    assert "--fromSavepoint" not in fresh
    assert "--fresh" not in fresh


def test_what_is_told_by_the_environment_wins_over_the_file_but_not_over_where_python_is(start):
    told = start.properties("s3.path.style.access: true\npython.executable: /nowhere\ntaskmanager.host: here\n")
    keys = start.configuration(told)
    assert keys["s3.path.style.access"] is True
    assert keys["taskmanager.host"] == "here"
    assert keys["python.executable"] == sys.executable
    # In a container the network decides who reaches the metrics.
    assert any(key.startswith("metrics.reporter.") for key in keys)


def test_every_task_manager_has_an_address_of_its_own(start):
    assert start.configuration({})["taskmanager.host"] not in ("", "localhost")


@pytest.mark.parametrize("text", ["just words", "- a\n- b", "key: {more: 1}"])
def test_properties_that_are_none_are_refused_with_what_to_write(start, text):
    with pytest.raises(SystemExit, match="FLINK_PROPERTIES"):
        start.properties(text)


@pytest.mark.parametrize(("status", "is_healthy"), [("RUNNING", True), ("RESTARTING", False)])
def test_a_job_manager_is_healthy_while_its_job_runs(start, status, is_healthy):
    class Jobs(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"jobs": [{"id": "x", "status": status}]}).encode())

        def log_message(self, format, *args):  # noqa: A002
            pass

    server = HTTPServer(("127.0.0.1", 0), Jobs)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        assert start.healthy(f"http://127.0.0.1:{server.server_port}") is is_healthy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert start.healthy(f"http://127.0.0.1:{server.server_port}") is False


def test_the_words_of_the_entry_point_are_those_that_compose_uses():
    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())["services"]
    entry = (ROOT / "docker" / "entrypoint.sh").read_text()
    used = {name: services[name]["command"][0] for name in ("jobmanager", "taskmanager")}
    assert used == {"jobmanager": "jobmanager", "taskmanager": "taskmanager"}
    assert "jobmanager | taskmanager | healthy)" in entry
