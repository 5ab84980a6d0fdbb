"""Teams for the three groups of people, each with its folders: `python permissions.py http://localhost:3000`.

The administrator's password is read from GRAFANA_PASSWORD (and the name from GRAFANA_USER, admin by default). It may run any number
of times: what is there stays, and the permissions of the three folders are set anew. Nothing but the standard library is needed.

Who may see a folder may see its dashboards and no others. That is order, not protection: in Grafana without a licence everybody
who is logged in may ask a data source anything. Where groups must not see each other's lines, give each a Loki tenant and a
Grafana organisation of its own.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

#: Folder → team → what it may do. Operators keep everything in order, so they see all; managers see their own page only.
FOLDERS = {
    "driftwood-operators": {"operators": "Edit"},
    "driftwood-developers": {"operators": "Edit", "developers": "Edit"},
    "driftwood-managers": {"operators": "Edit", "developers": "View", "managers": "View"},
}
_LEVELS = {"View": 1, "Edit": 2, "Admin": 4}

#: Sends one request: method, path, body; gives the answer's JSON.
Call = Callable[[str, str, dict[str, Any] | None], Any]


def caller(url: str, user: str, password: str) -> Call:
    """Requests to one Grafana."""
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        sys.exit(f"{url!r} is no address of a Grafana; write http://localhost:3000")
    token = base64.b64encode(f"{user}:{password}".encode()).decode()

    def call(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}
        request = urllib.request.Request(url.rstrip("/") + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:300]
            sys.exit(
                f"Grafana refused {method} {path} with {error.code}: {said}. Are GRAFANA_USER and GRAFANA_PASSWORD those of an administrator?"
            )
        except OSError as error:
            sys.exit(f"Grafana at {url} does not answer ({error}). Is it running, and is that its address?")

    return call


def team(call: Call, name: str) -> int:
    """The id of a team, which is made if it is not there."""
    found = call("GET", f"/api/teams/search?name={urllib.parse.quote(name)}", None)["teams"]
    return int(found[0]["id"]) if found else int(call("POST", "/api/teams", {"name": name})["teamId"])


def grant(call: Call) -> None:
    """Makes the teams and sets who may do what in which folder; administrators always may."""
    ids = {name: team(call, name) for name in sorted({name for teams in FOLDERS.values() for name in teams})}
    for folder, teams in FOLDERS.items():
        items = [{"teamId": ids[name], "permission": _LEVELS[level]} for name, level in teams.items()]
        call("POST", f"/api/folders/{folder}/permissions", {"items": items})


def main(words: list[str]) -> None:
    """Sets everything in the Grafana that is named."""
    if len(words) != 1 or not os.environ.get("GRAFANA_PASSWORD"):
        sys.exit("usage: GRAFANA_PASSWORD=… python permissions.py http://localhost:3000")
    grant(caller(words[0], os.environ.get("GRAFANA_USER", "admin"), os.environ["GRAFANA_PASSWORD"]))
    print(
        "the teams operators, developers and managers have their folders; add people to them in Grafana",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
