"""One incident: how bad, since when, where it began, what is in it, and its anomalies."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final
from urllib.parse import urlencode

from nicegui import ui

from console.board import Row
from console.incidents import Example, Incident
from console.pages.elements import TONES, box, button, chip, fact, link, words
from console.parts import Console
from console.safe_text import date_and_time, shortened, span, time_of_day

STATES: Final = {"open": "warn", "escalated": "bad", "resolved": "ok"}
SEVERITIES: Final = {"critical": "bad", "error": "bad", "warning": "warn", "informational": "quiet"}
_SERVICES: Final = 12
_ROWS: Final = 50
_BARS: Final = 60
_LEAST_BARS: Final = 30  # or those of a short incident would be walls
_TICK_S: Final = 1.0


class IncidentDetail:
    """The right side of the anomalies page, where an incident is open.

    Args:
        open_anomaly: shows one of its anomalies instead.
    """

    def __init__(self, console: Console, parent: ui.element, open_anomaly: Callable[[str], None]) -> None:
        self._console, self._parent, self._open_anomaly = console, parent, open_anomaly
        self._incident_id = ""
        self._seen: tuple[int, int] = (-1, -1)  # revision, version of the board
        self._listed: list[tuple[str, str]] = []
        self._looked = 0.0
        self._is_built = False

    def leave(self) -> None:
        """Something else is shown there now."""
        self._incident_id = ""

    def show(self, incident_id: str) -> None:
        """Show an incident."""
        incident = self._console.board.incidents.get(incident_id)
        self._incident_id = incident_id
        self._is_built = incident is not None
        self._parent.classes(add="open")
        self._parent.clear()
        with self._parent:
            if incident is None:
                with box("empty"):
                    words("This incident is not here", tag="h2")
                    words("The console keeps those that were told of last; the topic has the others.", "dim", tag="p")
                    button("Close", self._close)
                return
            self._figures, self._rows = box(), box()
        self._seen, self._listed = (-1, -1), [("", "")]
        self._fill(incident)

    def tick(self) -> None:
        """Follow what has changed, once a second at most."""
        incident = self._console.board.incidents.get(self._incident_id)
        if incident is None:
            return
        if not self._is_built:
            self.show(self._incident_id)  # the console had not read it yet
        elif self._seen != (incident.revision, self._console.board.version) and (
            time.monotonic() - self._looked > _TICK_S
        ):
            self._fill(incident)

    def _close(self) -> None:
        self.leave()
        self._parent.classes(remove="open")
        self._parent.clear()

    def _fill(self, incident: Incident) -> None:
        self._looked = time.monotonic()
        board = self._console.board
        if incident.revision != self._seen[0]:
            self._figures.clear()
            with self._figures:
                self._about(incident)
        self._seen = (incident.revision, board.version)
        rows = board.rows_in(incident)
        listed = [("count", f"{len(rows)} {incident.count}")]
        listed += [(row.told.anomaly_id, board.label(row)) for row in rows[:_ROWS]]
        if listed != self._listed:
            self._listed = listed
            self._rows.clear()
            with self._rows:
                self._anomalies(incident, rows)

    def _about(self, incident: Incident) -> None:
        with box("dhead"):
            chip(incident.state, STATES.get(incident.state, "quiet")).props["data-state"] = incident.state
            if incident.severity:
                chip(incident.severity, SEVERITIES.get(incident.severity, ""))
            if incident.mode == "shadow":
                chip("shadow", "quiet")
            if incident.is_storm:
                chip("storm", "warn").props["title"] = "Several services began to fail within a minute of each other"
            box("grow")
            words(f"{incident.count:,}×", "bigscore").props["title"] = "anomalies in it"
            button("×", self._close, "btn small close", "Close ( esc )")
        words(incident.title or "An incident", "why", tag="p")
        if incident.merged_into:
            link("It is part of another incident", f"/incidents/{incident.merged_into}", "btn small")
        if incident.minutes:
            words(f"By minute, to {time_of_day(incident.last_ms)[:5]}", "label")
            _histogram(incident)
        same = incident.cause.anomaly_id == incident.worst.anomaly_id
        self._example("Where it began, and its worst" if same else "Where it began", incident.cause)
        if not same:
            self._example("Its worst", incident.worst)
        words("What is in it", "label")
        with box("kinds"):
            for kind in incident.kinds:
                words(f"{kind.count:,}×", "num")
                words(shortened(kind.service, 30), "service")
                words(f"{'session ended after: ' if kind.kind == 'end' else ''}{kind.template}", "mono")
        with box("facts", "dl"):
            more = len(incident.services) - _SERVICES
            fact("Services", ", ".join(incident.services[:_SERVICES]) + (f" and {more:,} more" if more > 0 else ""))
            length = span(incident.last_ms - incident.started_ms)
            fact("From", f"{date_and_time(incident.started_ms)} UTC, for {length}")
            if incident.closed_at_ms:
                fact("Over since", f"{date_and_time(incident.closed_at_ms)} UTC")
            if incident.reopened:
                fact("Came back", f"{incident.reopened:,} times")
            if incident.refuted:
                fact("Refuted", f"{incident.refuted:,}, not counted")
            fact("Last message", incident.said or "nobody was told yet")
            fact("Incident", f"{incident.incident_id}, revision {incident.revision}", "mono")

    def _example(self, title: str, example: Example) -> None:
        words(title, "label")
        with box("flow"):
            words(shortened(example.service, 60), "service")
            words(f"{date_and_time(example.ts)} UTC", "dim")
            if self._console.board.row(example.anomaly_id) is not None:
                button("Open", lambda: self._open_anomaly(example.anomaly_id), "btn small")
        words(example.message or example.template, "line", tag="pre", keep_newlines=True)
        if example.explanation:
            words(example.explanation, "dim small", tag="p")

    def _anomalies(self, incident: Incident, rows: list[Row]) -> None:
        words("Its anomalies", "label")
        if not rows:
            words("None of them is among those that the console keeps.", "dim", tag="p")
            return
        for row in rows[:_ROWS]:
            told, label = row.told, self._console.board.label(row)
            open_it = self._opens(told.anomaly_id)
            with box("item anomaly") as item:
                item.props["data-anomaly"] = told.anomaly_id
                words(time_of_day(told.ts)[:8], "num dim")
                words(shortened(told.service, 30), "service")
                words(shortened(" ⏎ ".join(told.message.splitlines()), 200), "mono clip")
                if label != "open":
                    chip(label, TONES.get(label, ""))
                button("Open", open_it, "btn small")
        here = f"{len(rows):,} of {incident.count:,} are here"
        with box("flow"):
            words(here, "dim small")
            link("Show them in the list", "/?" + urlencode({"incident": incident.incident_id}), "btn small")

    def _opens(self, anomaly_id: str) -> Callable[[], None]:
        return lambda: self._open_anomaly(anomaly_id)


def _histogram(incident: Incident) -> None:
    bars = incident.bars(_BARS)
    most = max([1, *bars])
    with ui.element("svg").classes("histogram") as svg:
        svg.props["viewBox"] = f"0 0 {4 * max(_LEAST_BARS, len(bars))} 40"
        svg.props["preserveAspectRatio"] = "none"
        svg.props["role"] = "img"
        svg.props["aria-label"] = f"anomalies by minute, at most {most} in a bar"
        for at, count in enumerate(bars):
            height = 0 if not count else max(3, round(40 * count / most))
            bar = ui.element("rect")
            bar.props.update({"x": 4 * at, "y": 40 - height, "width": 3, "height": height})
