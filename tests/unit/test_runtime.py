"""Java, jars, processes, configuration and submission, as far as they can be checked without starting a server."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import psutil
import pytest

from flink_jobs.runtime import __main__ as words
from flink_jobs.runtime import checks, cluster, jars, java, loki, submit
from flink_jobs.runtime.processes import Process, ServiceError, free_ports
from models.errors import DriftwoodError
from udfs import orphans


def fake_java(folder: Path, version: str) -> Path:
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "java").touch()
    (folder / "release").write_text(f'JAVA_VERSION="{version}"\n')
    return folder


@pytest.mark.parametrize(("version", "major"), [("17.0.15", 17), ("21", 21), ("11.0.2", 11)])
def test_the_version_of_a_java_is_read_from_its_release_file(tmp_path, version, major):
    assert java.major_version(fake_java(tmp_path / "jdk", version)) == major


def test_a_java_that_is_too_old_is_passed_over_for_the_packaged_one(tmp_path):
    old = fake_java(tmp_path / "jdk", "11.0.2")
    assert java.major_version(java.java_home({"JAVA_HOME": str(old), "PATH": str(tmp_path)})) == 17


def test_a_java_named_for_driftwood_must_fit(tmp_path):
    old = fake_java(tmp_path / "jdk", "11.0.2")
    with pytest.raises(DriftwoodError, match=r"Java 11.*DRIFTWOOD_JAVA_HOME"):
        java.java_home({"DRIFTWOOD_JAVA_HOME": str(old)})


def test_preparing_puts_our_python_first_and_workers_in_their_own_processes(tmp_path):
    env = {"DRIFTWOOD_JAVA_HOME": str(fake_java(tmp_path / "jdk", "17.0.1")), "PATH": "/usr/bin"}
    java.prepare(env)
    java.prepare(env)
    folders = [str(Path(sys.executable).parent), str(tmp_path / "jdk" / "bin")]
    assert env["PATH"].split(":") == [*folders, "/usr/bin"]
    assert env["_python_worker_execution_mode"] == "process"


def test_every_jar_has_a_sha256_and_the_connector_is_one():
    listed = jars.listed()
    assert list(listed["connector"]) == ["org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2"]
    assert "org.apache.kafka:kafka_2.13:4.1.1" in listed["broker"]
    assert all(len(digest) == 64 for group in listed.values() for digest in group.values())


def test_a_jar_that_is_not_the_listed_one_is_refused_and_removed(tmp_path, monkeypatch):
    monkeypatch.setenv("DRIFTWOOD_CACHE", str(tmp_path))
    path = tmp_path / "maven" / "a" / "b" / "c" / "1" / "c-1.jar"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something else")
    with pytest.raises(DriftwoodError, match="is not the one"):
        jars.fetch("a.b:c:1", "0" * 64)
    assert not path.exists()


def test_a_process_that_ends_early_is_reported_with_the_end_of_its_log(tmp_path):
    process = Process.start("early", [sys.executable, "-c", "print('port is taken')"], tmp_path)
    with pytest.raises(ServiceError, match=r"early ended before an answer(?s:.*)port is taken"):
        process.until(lambda: False, 10, "an answer")


def test_a_process_is_stopped_by_its_id_and_another_with_that_id_is_left_alone(tmp_path):
    process = Process.start("sleeper", ["sleep", "60"], tmp_path)
    stranger = Process("sleeper", process.pid, process.started - 100, tmp_path / "log")
    stranger.kill()
    assert process.alive
    assert not stranger.alive
    process.stop()
    assert not psutil.pid_exists(process.pid)


def test_a_command_that_does_not_exist_is_a_clear_error(tmp_path):
    with pytest.raises(ServiceError, match="cannot be started"):
        Process.start("missing", [tmp_path / "missing"], tmp_path)


def test_free_ports_are_all_different():
    assert len(set(free_ports(20))) == 20


def test_the_configuration_is_plain_strings_and_nothing_in_it_listens_everywhere():
    keys = cluster.configuration({"rest.port": 1})
    assert all(isinstance(value, str) for value in keys.values())
    assert keys["web.submit.enable"] == "false"
    assert keys["rest.port"] == "1"
    assert not [key for key in keys if key.startswith("metrics.reporter")]
    assert {value for key, value in keys.items() if key.endswith(("bind-host", "bind-address"))} == {"localhost"}


def test_each_configuration_key_stands_under_a_reason():
    lines = (cluster.CONF / "config.yaml").read_text().splitlines()
    sections = [line for line in lines if line.startswith("# --- ")]
    assert len(sections) >= 7
    assert sum(line.startswith("#") for line in lines) > len(sections) + 20


def test_without_a_cluster_one_is_told_how_to_start_it(tmp_path):
    assert cluster.Cluster.attach(tmp_path) is None
    with pytest.raises(ServiceError, match=r"submit\.sh cluster start"):
        cluster.running(tmp_path)


def test_a_cluster_whose_processes_are_gone_is_not_running(tmp_path):
    gone = '{"port": 1, "slots": 2, "processes": [{"name": "jobmanager", "pid": 1, "started": 1.0, "log": "x"}]}'
    (tmp_path / "cluster.json").write_text(gone)
    assert cluster.Cluster.attach(tmp_path) is None


def test_the_same_code_gives_the_same_archive(tmp_path):
    first, second = submit.code_archive(tmp_path / "a"), submit.code_archive(tmp_path / "b")
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as bundle:
        names = bundle.namelist()
    assert {"flink_jobs/__init__.py", "models/errors.py", "udfs/__init__.py"} <= set(names)
    assert not [name for name in names if "__pycache__" in name or name.startswith(("tests", ".venv"))]


def test_options_of_flink_come_before_those_of_the_job():
    submission = submit.Submission(
        ["--source", "file:x"], jobmanager="h:1", parallelism=3, savepoint="/s", connector=False, options={"a.b": "c d"}
    )
    line = submission.command(Path("code.zip"))[1:]
    assert line[:10] == ["run", "-t", "remote", "-m", "h:1", "-d", "-p", "3", "-s", "/s"]
    assert "-Da.b=c d" in line
    assert line[-4:] == ["-pym", "flink_jobs.main", "--source", "file:x"]


def test_a_shipped_environment_is_named_by_its_path_in_the_archive():
    line = submit.Submission(archive=Path("env.zip"), python="bin/python", connector=False).command(Path("code.zip"))
    assert line[line.index("-pyarch") + 1] == "env.zip#environment"
    assert line[line.index("-pyexec") + 1] == "environment/bin/python"


def test_the_words_of_run_are_told_from_the_options_of_the_job():
    options, job = words._run_parser().parse_known_args(
        ["--source", "kafka://h/t", "-p", "2", "--savepoint", "/s", "--dry-run", "--sink", "file:out", "-D", "a=b"]
    )
    assert (options.parallelism, options.savepoint, options.dry_run, options.options) == (2, "/s", True, ["a=b"])
    assert job == ["--source", "kafka://h/t", "--sink", "file:out"]


def test_the_checks_run_from_the_cheapest_to_the_dearest():
    commands = checks.commands(checks.LAYERS, ["-k", "x"])
    assert [command[2] for command in commands] == ["ruff", "ruff", "mypy", "pytest"]
    assert commands[-1][-6:] == ["tests/unit", "tests/operators", "tests/engine", "tests/e2e", "-k", "x"]


def test_loki_listens_on_localhost_only(tmp_path):
    server = loki.settings(tmp_path, 1, 2)["server"]
    assert server["http_listen_address"] == server["grpc_listen_address"] == "127.0.0.1"


def test_only_a_worker_is_ended_with_its_taskmanager():
    assert orphans.is_worker(["python", "-m", "pyflink.fn_execution.beam.beam_boot", "--id=1-1"])
    assert not orphans.end_with_taskmanager()
