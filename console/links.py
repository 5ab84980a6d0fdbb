"""Links out of the console: Grafana Explore with the lines around an anomaly. Pure."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

import orjson

from models.parsing.params import SESSION_FIELDS

_AROUND_MS: Final = 10 * 60_000
#: The parser's session fields (models/parsing/params.py), as Loki names labels.
_SESSION_LABELS: Final = tuple(dict.fromkeys(name.replace(".", "_") for name in SESSION_FIELDS))


def logql_string(text: str) -> str:
    r"""A text as a LogQL string, which is one of Go: nothing in it can end the string.

    >>> logql_string('a"b\\c\nd')
    '"a\\"b\\\\c\\nd"'
    """
    return orjson.dumps(text.replace("\x7f", "").encode(errors="replace").decode()).decode()


def lines_query(selector: str, label: str, service: str = "", session: str = "", text: str = "") -> str:
    r"""A LogQL query: the lines of a service, or of all, that hold a session's id and every word of a text.

    >>> lines_query('{service_name=~".+"}', "service_name", service='ca"rt', text="time out")
    '{service_name="ca\\"rt"} |= "time" |= "out"'
    """
    head = f"{{{label}={logql_string(service)}}}" if service else selector
    parts = [session] if session else []
    return " ".join((head, *(f"|= {logql_string(part)}" for part in (*parts, *text.split()))))


def session_query(selector: str, label: str, service: str, session: str, text: str = "") -> str:
    r"""The same, but the session's id stands in a label or in the structured metadata of the lines.

    >>> session_query("{a=~\".+\"}", "app", "", "s1").split(" or ")[:2]
    ['{a=~".+"} | session="s1"', 'trace_id="s1"']
    """
    names = " or ".join(f"{name}={logql_string(session)}" for name in _SESSION_LABELS)
    return f"{lines_query(selector, label, service, text=text)} | {names}"


def explore_url(grafana_url: str, datasource: str, query: str, ts: int) -> str:
    """Grafana Explore on a query, ten minutes to either side of a time.

    Source: Grafana 10 and later, `panes` of the Explore URL, schemaVersion 1.
    """
    pane = {
        "datasource": datasource,
        "queries": [
            {"refId": "A", "expr": query, "queryType": "range", "datasource": {"type": "loki", "uid": datasource}}
        ],
        "range": {"from": str(ts - _AROUND_MS), "to": str(ts + _AROUND_MS)},
    }
    return f"{grafana_url}/explore?schemaVersion=1&orgId=1&panes={quote(orjson.dumps({'driftwood': pane}).decode(), safe='')}"
