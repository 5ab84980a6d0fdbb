"""The Kubernetes manifests: every one against Kubernetes' own schema, and the promises that no schema knows."""

import re
import shutil
import subprocess
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).parents[2]
OVERLAYS = ROOT / "docker" / "kubernetes" / "overlays"
VERSION = "1.34"


def built(overlay: str) -> list[dict]:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not here, and builds the overlays: install kubernetes-client, or kubectl")
    command = ["kubectl", "kustomize", str(OVERLAYS / overlay)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [resource for resource in yaml.safe_load_all(done.stdout) if resource]


@pytest.fixture(scope="module", params=["minikube", "openshift"])
def resources(request):
    return built(request.param)


@pytest.fixture(scope="module")
def openshift():
    return built("openshift")


def of_kind(resources: list[dict], *kinds: str) -> list[dict]:
    return [resource for resource in resources if resource["kind"] in kinds]


def templates(resources: list[dict]) -> dict[str, dict]:
    """Name → template of its pods, of all that runs; the job's is what the operator makes of it."""
    found = {
        resource["metadata"]["name"]: resource["spec"]["template"]
        for resource in of_kind(resources, "Deployment", "StatefulSet", "DaemonSet", "Job")
    }
    found |= {
        each["metadata"]["name"]: each["spec"]["jobTemplate"]["spec"]["template"]
        for each in of_kind(resources, "CronJob")
    }
    return found | {
        each["metadata"]["name"]: each["spec"]["podTemplate"] for each in of_kind(resources, "FlinkDeployment")
    }


def pods(resources: list[dict]) -> dict[str, dict]:
    """Name → pod specification."""
    return {name: template["spec"] for name, template in templates(resources).items()}


def labels_of_pods(resources: list[dict]) -> list[dict]:
    found = []
    for name, template in templates(resources).items():
        labels = template["metadata"]["labels"]
        if name == "driftwood":
            # The operator's own, see its documentation of pod templates.
            named = labels | {"app": name, "type": "flink-native-kubernetes"}
            found += [named | {"component": component} for component in ("jobmanager", "taskmanager")]
        else:
            found.append(labels)
    return found


def test_every_resource_follows_its_schema(resources):
    plain = [resource for resource in resources if resource["kind"] != "FlinkDeployment"]
    assert len(plain) > 15
    for resource in plain:
        # Strict: a key that Kubernetes does not know is a slip of ours, and it would be dropped without a word.
        kubernetes_validate.validate(resource, VERSION, strict=True)


def test_a_slip_in_a_resource_is_noticed(resources):
    deployment = of_kind(resources, "Deployment")[0]
    slipped = deployment | {"spec": deployment["spec"] | {"replica": 1}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(slipped, VERSION, strict=True)


def test_every_pod_gives_up_what_it_does_not_need(resources):
    for name, pod in pods(resources).items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            # Kafka's image writes its configuration beside the program.
            assert context.get("readOnlyRootFilesystem") is True or name.startswith("kafka"), name


def test_on_openshift_no_pod_asks_for_a_user(openshift):
    for name, pod in pods(openshift).items():
        contexts = [pod["securityContext"], *(container["securityContext"] for container in pod["containers"])]
        assert not any({"runAsUser", "runAsGroup", "fsGroup"} & context.keys() for context in contexts), name
        assert not any("hostPath" in volume for volume in pod.get("volumes", ())), name


def test_every_container_has_requests_and_limits(resources):
    for name, pod in pods(resources).items():
        for container in pod["containers"]:
            if container["name"] == "flink-main-container":
                continue  # the operator takes those of jobManager and taskManager
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys(), name


def test_only_programs_that_speak_to_kubernetes_hold_a_token(resources):
    holders = {name for name, pod in pods(resources).items() if pod.get("automountServiceAccountToken", True)}
    assert holders == {"driftwood", "driftwood-collector"}


def test_every_server_has_probes(resources):
    for resource in of_kind(resources, "Deployment", "StatefulSet", "DaemonSet"):
        for container in resource["spec"]["template"]["spec"]["containers"]:
            if container.get("ports"):
                assert {"readinessProbe", "livenessProbe"} <= container.keys(), resource["metadata"]["name"]


def test_every_name_that_a_pod_refers_to_is_made_here_or_by_hand(resources):
    made = {
        kind: {resource["metadata"]["name"] for resource in of_kind(resources, kind)}
        for kind in ("ConfigMap", "ServiceAccount")
    }
    by_hand = {"driftwood-secrets", "driftwood-redis", "driftwood-console-users"}
    for name, pod in pods(resources).items():
        text = yaml.safe_dump(pod)
        assert set(re.findall(r"configMapRef:\n\s+name: (\S+)", text)) <= made["ConfigMap"], name
        assert set(re.findall(r"configMap:\n\s+name: (\S+)", text)) <= made["ConfigMap"], name
        assert set(re.findall(r"secret(?:Ref|KeyRef):(?:\n\s+key: \S+)?\n\s+name: (\S+)", text)) <= by_hand, name
        assert pod.get("serviceAccountName", "driftwood-job") in made["ServiceAccount"], name


def test_no_secret_is_in_the_repository(resources):
    assert not of_kind(resources, "Secret")
    text = yaml.safe_dump_all(resources)
    assert not re.search(r"(?i)password: [^\s$]*[a-z0-9]{8}", text)


def test_every_pod_is_closed_to_strangers(resources):
    policies = [policy for policy in of_kind(resources, "NetworkPolicy") if "Ingress" in policy["spec"]["policyTypes"]]

    def selects(policy: dict, labels: dict) -> bool:
        selector = policy["spec"]["podSelector"]
        named = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
        return named and all(labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", ()))

    for labels in labels_of_pods(resources):
        assert any(selects(policy, labels) for policy in policies), labels
    # No rule lets everybody in.
    assert all(rule.get("from") for policy in policies for rule in policy["spec"].get("ingress") or ())


def test_flinks_rest_is_reached_by_the_job_and_the_operator_only(resources):
    policy = next(
        each for each in resources if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] == "driftwood-job"
    )
    for rule in policy["spec"]["ingress"]:
        open_ports = {port["port"] for port in rule.get("ports", ())} or {8081}
        if 8081 in open_ports:
            assert rule["from"] in (
                [{"podSelector": {"matchLabels": {"app": "driftwood", "type": "flink-native-kubernetes"}}}],
                [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "flink-operator"}}}],
            )


def test_budgets_choose_the_pods_of_the_job(resources):
    budgets = of_kind(resources, "PodDisruptionBudget")
    assert len(budgets) == 2
    labels = labels_of_pods(resources)
    for budget in budgets:
        selector = budget["spec"]["selector"]["matchLabels"]
        assert any(selector.items() <= each.items() for each in labels)


def test_the_job_has_the_configuration_of_flink_conf(openshift):
    wanted = yaml.safe_load((ROOT / "flink-conf" / "config.yaml").read_text())
    of_the_machine = {
        "jobmanager.rpc.address", "jobmanager.bind-host", "taskmanager.host", "taskmanager.bind-host", "rest.address",
        "rest.bind-address", "jobmanager.memory.process.size", "taskmanager.memory.process.size", "metrics.reporter.prom.port",
    }  # fmt: skip
    found = of_kind(openshift, "FlinkDeployment")[0]["spec"]["flinkConfiguration"]
    assert all(isinstance(value, str) for value in found.values())
    for key, value in wanted.items():
        text = str(value).lower() if isinstance(value, bool) else str(value).strip()
        if key not in of_the_machine:
            assert found.get(key) == text, key


def test_the_job_upgrades_from_its_last_state_and_rescales(openshift):
    spec = of_kind(openshift, "FlinkDeployment")[0]["spec"]
    conf = spec["flinkConfiguration"]
    assert spec["job"]["upgradeMode"] == "last-state"
    # Without high availability the operator has no last state to upgrade from.
    assert conf["high-availability.type"] == "kubernetes"
    assert conf["jobmanager.scheduler"] == "adaptive"
    assert conf["job.autoscaler.enabled"] == "true"
    # Read and not imported: the import takes seconds.
    settings = (ROOT / "flink_jobs" / "settings.py").read_text()
    shards = re.search(r"shards: int = Field\(\s*default=(\d+)", settings)
    assert shards
    assert int(conf["job.autoscaler.vertex.max-parallelism"]) <= int(shards[1])


def test_the_collector_names_a_service_account_of_its_own_namespace(resources):
    binding = of_kind(resources, "ClusterRoleBinding")[0]
    account = next(
        each for each in of_kind(resources, "ServiceAccount") if each["metadata"]["name"] == "driftwood-collector"
    )
    assert binding["subjects"][0]["namespace"] == account["metadata"]["namespace"]
