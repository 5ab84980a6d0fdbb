"""The dashboards, alert rules and provisioning files; their queries run in tests/e2e/test_dashboards.py."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

GRAFANA = Path(__file__).parents[2] / "docker" / "grafana"
PROMETHEUS = GRAFANA.parent / "prometheus"
PAGES = {path.stem: json.loads(path.read_text()) for path in GRAFANA.glob("dashboards/*/*.json")}


def module(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_committed_dashboards_are_those_of_the_code(tmp_path):
    # In a process of its own: the package warns while it is imported, and warnings are errors here.
    code = f"import sys; sys.path.insert(0, {str(GRAFANA)!r}); import dashboards, json; print(json.dumps(dict(dashboards.files())))"
    made = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    found = {
        path.relative_to(GRAFANA / "dashboards").as_posix(): path.read_text()
        for path in GRAFANA.glob("dashboards/*/*.json")
    }
    assert found == made, "run: .venv/bin/python docker/grafana/dashboards.py"


def test_every_group_of_people_has_its_folder_and_a_page():
    provided = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "driftwood.yaml").read_text())["providers"]
    groups = {Path(each["options"]["path"]).name: each["folderUid"] for each in provided}
    assert groups == {name: f"driftwood-{name}" for name in ("operators", "developers", "managers")}
    for group in groups:
        assert list((GRAFANA / "dashboards" / group).glob("*.json")), group
    assert set(module(GRAFANA / "permissions.py").FOLDERS) == set(groups.values())


@pytest.mark.parametrize("uid", sorted(PAGES))
def test_every_panel_says_what_it_shows_and_asks_a_source_that_is_provisioned(uid):
    sources = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "driftwood.yaml").read_text())["datasources"]
    known = {source["uid"]: source["type"] for source in sources}
    page = PAGES[uid]
    assert page["uid"] == uid
    assert page["panels"]
    for panel in page["panels"]:
        assert len(panel["description"]) > 10, panel["title"]
        assert panel["targets"]
        for target in panel["targets"]:
            source = target["datasource"]
            assert known[source["uid"]] == source["type"] == panel["datasource"]["type"], panel["title"]
            assert target["expr"].strip()


def test_no_panel_covers_another():
    for page in PAGES.values():
        taken = set()
        for panel in page["panels"]:
            place = panel["gridPos"]
            assert place.get("x", 0) + place["w"] <= 24
            cells = {
                (x, y)
                for x in range(place.get("x", 0), place.get("x", 0) + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            assert not cells & taken, panel["title"]
            taken |= cells


def test_the_counters_that_are_asked_for_are_those_that_the_job_has():
    code = "".join(path.read_text() for path in (GRAFANA.parents[1] / "udfs").glob("*.py"))
    asked = (PROMETHEUS / "alerts.yaml").read_text() + json.dumps(PAGES)
    own = set(re.findall(r"operator_driftwood_(\w+)", asked))
    assert len(own) >= 5
    for name in own:
        assert f'"{name}"' in code, name
    for sink, what in set(re.findall(r"task_operator_(loki|redis|elastic)_(\w+)", asked)):
        assert f'sink = "{sink}"' in code
        assert f'"{what}"' in code


def rules() -> list[dict]:
    files = (PROMETHEUS / "alerts.yaml", GRAFANA.parent / "loki" / "rules" / "fake" / "driftwood.yaml")
    return [rule for path in files for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def test_every_alert_says_what_happened_and_what_to_do():
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names)) >= 8
    documented = (GRAFANA.parents[1] / "docs" / "dashboards.md").read_text()
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert len(rule["annotations"]["summary"]) > 10
        assert len(rule["annotations"]["description"]) > 60
        assert rule["alert"] in documented, "docs/dashboards.md says what to do for each"


def test_permissions_are_set_for_every_team_and_folder():
    permissions = module(GRAFANA / "permissions.py")
    teams: dict[str, int] = {"managers": 7}
    sent = {}

    def call(method, path, body):
        if path.startswith("/api/teams/search"):
            name = path.rpartition("=")[2]
            return {"teams": [{"id": teams[name]}] if name in teams else []}
        if path == "/api/teams":
            teams[body["name"]] = len(teams) + 10
            return {"teamId": teams[body["name"]]}
        sent[path] = body["items"]
        return {}

    permissions.grant(call)
    assert teams.keys() == {"operators", "developers", "managers"}
    # A team that is there is not made again.
    assert teams["managers"] == 7
    managers = sent["/api/folders/driftwood-managers/permissions"]
    assert {"teamId": 7, "permission": 1} in managers
    assert not any(item["teamId"] == 7 for item in sent["/api/folders/driftwood-operators/permissions"])
