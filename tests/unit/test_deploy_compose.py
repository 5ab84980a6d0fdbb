"""docker/compose.yaml and what it mounts, as far as it can be judged without an engine."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

DOCKER = Path(__file__).parents[2] / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
EXAMPLE = dict(
    line.split("=", 1) for line in (DOCKER / "example.env").read_text().splitlines() if re.match(r"[A-Z_]+=", line)
)
#: What a service may say here; a slip in a key would be refused by the engine, and nobody runs one in this test.
KEYS = {
    "build", "cap_drop", "command", "depends_on", "entrypoint", "environment", "healthcheck", "image", "logging", "mem_limit",
    "network_mode", "ports", "profiles", "read_only", "restart", "security_opt", "stop_grace_period", "tmpfs", "user", "volumes",
}  # fmt: skip


def environment(service: dict) -> dict[str, str]:
    return service.get("environment", {})


@pytest.fixture(params=sorted(SERVICES))
def service(request):
    return SERVICES[request.param]


def test_a_service_has_known_keys_and_a_pinned_image(service):
    assert service.keys() <= KEYS
    image = service["image"]
    assert image.startswith("${DRIFTWOOD_IMAGE:") or re.search(r":v?\d[\w.-]+$|:RELEASE\.[\w.-]+$", image), image


def test_a_service_holds_no_rights_it_does_not_need(service):
    assert service["security_opt"] == ["no-new-privileges:true"]
    # The one that prepares folders has no network and ends.
    assert service.get("cap_drop") == ["ALL"] or service["network_mode"] == "none"


def test_a_service_is_reached_from_this_machine_only(service):
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_no_two_services_take_one_port():
    ports = [port.split(":")[1] for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(ports) == len(set(ports))
    assert len(ports) > 4


def test_a_service_waits_for_services_that_can_be_waited_for(service):
    for name, how in service.get("depends_on", {}).items():
        other = SERVICES[name]
        if how["condition"] == "service_healthy":
            assert "healthcheck" in other, name
        if how["condition"] == "service_completed_successfully":
            assert other["restart"] == "no", name


def test_volumes_and_files_that_are_mounted_exist(service):
    for mount in service.get("volumes", ()):
        source, _, target = mount.partition(":")
        if not target:
            continue  # a volume of this container alone
        if source.startswith("./"):  # compose reads paths from its own folder
            assert (DOCKER / source).exists(), source
            assert mount.endswith(":ro"), f"{mount}: a container could change the checkout"
        else:
            assert source in COMPOSE["volumes"], source


def test_every_volume_that_is_declared_is_used():
    used = {mount.split(":")[0] for service in SERVICES.values() for mount in service.get("volumes", ())}
    assert set(COMPOSE["volumes"]) <= used


def test_every_variable_is_in_the_example_and_none_has_a_default_secret():
    text = (DOCKER / "compose.yaml").read_text()
    named = re.findall(r"(?<!\$)\$\{([A-Z_]+)([^}]*)\}", text)
    assert {name for name, _ in named} | {"COMPOSE_PROFILES"} == set(EXAMPLE)
    # Without a value compose stops and says what to do.
    assert all(rest == ":?run make secrets first" for _, rest in named)
    secrets = [name for name in EXAMPLE if name.endswith(("PASSWORD", "KEY"))]
    assert len(secrets) >= 6
    assert all(EXAMPLE[name] == "" for name in secrets)


def test_the_secrets_file_is_in_no_repository():
    assert ".env" in (DOCKER / ".gitignore").read_text().splitlines()


def test_new_secrets_are_random_and_only_for_their_owner_and_are_made_once(tmp_path):
    for name in ("new_env.sh", "example.env"):
        shutil.copy(DOCKER / name, tmp_path)

    def made() -> dict[str, str]:
        subprocess.run([tmp_path / "new_env.sh"], check=True, capture_output=True)
        return dict(
            line.split("=", 1) for line in (tmp_path / ".env").read_text().splitlines() if re.match("[A-Z]", line)
        )

    first = made()
    assert first.keys() == EXAMPLE.keys()
    new = [value for name, value in first.items() if not EXAMPLE[name]]
    assert len(set(new)) == len(new)
    # They go into addresses, so they need no quoting there.
    assert all(re.fullmatch(r"[0-9a-f]{48}", value) for value in new)
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    assert made() == first


def test_no_container_gets_the_engine_or_the_machine(service):
    mounts = " ".join(map(str, service.get("volumes", ())))
    assert "docker.sock" not in mounts
    assert not re.search(r"(^|\s)/[a-z]+:", mounts)


def test_the_profiles_are_two_ways_to_collect_and_whether_people_are_told():
    profiles = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}
    assert profiles == {
        "alloy": ["alloy"],
        "fluent-bit": ["fluent-bit"],
        "alloy-forward": ["fluent-bit"],
        "notifier": ["notify"],
    }
    assert EXAMPLE["COMPOSE_PROFILES"] == "alloy"


def test_what_flink_is_told_differs_from_its_file_and_is_plain():
    conf = yaml.safe_load((DOCKER.parent / "flink-conf" / "config.yaml").read_text())
    told = yaml.safe_load(environment(SERVICES["jobmanager"])["FLINK_PROPERTIES"])
    assert (
        environment(SERVICES["taskmanager"])["FLINK_PROPERTIES"]
        == environment(SERVICES["jobmanager"])["FLINK_PROPERTIES"]
    )
    assert all(not isinstance(value, dict | list) for value in told.values())
    # The number of slots is said again, as the memory limit hangs on it.
    assert {key for key in told if told[key] == conf.get(key)} <= {"taskmanager.numberOfTaskSlots"}
    targets = [each["names"] for each in prometheus_jobs()["flink"]["dns_sd_configs"]]
    assert targets == [["jobmanager", "taskmanager"]]
    assert prometheus_jobs()["flink"]["dns_sd_configs"][0]["port"] == told["metrics.reporter.prom.port"]


def prometheus_jobs() -> dict[str, dict]:
    scraped = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yaml").read_text())
    return {job["job_name"]: job for job in scraped["scrape_configs"]}


def test_the_jobs_addresses_are_addresses():
    from flink_jobs.addresses import parse_sink, parse_source

    told = environment(SERVICES["jobmanager"])
    assert parse_source(told["DRIFTWOOD_SOURCE"]).topics == ("logs",)
    filled = re.sub(r"\$\{[^}]+\}", "pw", told["DRIFTWOOD_SINK"])
    hosts = {sink.servers if hasattr(sink, "servers") else sink.host for sink in map(parse_sink, shlex.split(filled))}
    assert hosts == {"kafka:9092", "loki", "redis"}
    named = {host.split(":")[0] for host in hosts}
    assert named <= SERVICES.keys()
    # The topics that are read are made before the job starts.
    made = " ".join(SERVICES["topics"]["command"])
    assert "logs" in made
    assert told["DRIFTWOOD_CONTROL"].rpartition("/")[2] in made


def test_every_container_has_a_limit_of_memory():
    endless = {name for name, service in SERVICES.items() if "mem_limit" not in service}
    # These two end at once.
    assert endless == {"topics", "sample-logs"}


def test_the_image_holds_what_runs_and_nothing_else():
    lines = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert lines[1] == "*"
    assert {"flink_jobs", "udfs", "models", "console", "flink-conf", "requirements.txt", "pyproject.toml"} <= kept
    assert not kept & {"tests", "docs", ".git", ".venv", "docker"}


def test_what_the_image_leaves_out_is_needed_by_nothing_that_stays():
    block = re.search(r"UNUSED = \(([^)]+)\)", (DOCKER / "image.py").read_text())
    assert block
    unused = set(re.findall(r'"([^"]+)"', block[1]))
    assert len(unused) > 10
    needed_by = {}
    for entry in re.split(r"\n(?=\w)", (DOCKER.parent / "requirements.txt").read_text()):
        found = re.match(r"([\w.-]+)==", entry)
        if found:
            via = re.findall(r"^    #(?: via)? +(?!via)(.+)$", entry, re.MULTILINE)
            needed_by[found[1].lower()] = {each.strip().removeprefix("via ") for each in via}
    code = " ".join(
        path.read_text() for room in ("udfs", "models", "console") for path in (DOCKER.parent / room).rglob("*.py")
    )
    for name in unused:
        others = needed_by[name] - unused - {"-r requirements.in"}
        assert not others, f"{name} is needed by {others}"
        assert not re.search(rf"^\s*(?:import|from) {name.replace('-', '_')}\b", code, re.MULTILINE), name


def test_a_stage_of_a_dockerfile_ends_as_a_user_that_is_not_root():
    for path in (DOCKER / "Dockerfile", DOCKER / "sample" / "Dockerfile"):
        users = re.findall(r"^USER (\S+)$", path.read_text(), re.MULTILINE)
        # A number, so that Kubernetes can see that it is not root; group 0, so that any other number may take its place.
        assert users
        assert re.fullmatch(r"[1-9]\d+:0", users[-1])
