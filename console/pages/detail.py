"""One anomaly in full: why, what stood there, what was expected, who voted, what came before, and what people said."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode

from nicegui import ui

from console.access import Role
from console.board import Row
from console.commands import SPANS
from console.marks import Mark
from console.pages.elements import TONES, bar, box, button, chip, fact, field, link, words
from console.pages.layout import Visitor
from console.parts import Console
from console.safe_text import date_and_time, segments, shortened, time_of_day

MarkIt = Callable[[str, str, str, str], Awaitable[None]]
UndoIt = Callable[[str], Awaitable[None]]
_FULL: Final = 6.0  # evidence, or as much as the strongest has, that fills a bar
_EXPECTED: Final = 8
_SEVERITIES: Final = {"critical": "bad", "error": "bad", "warning": "warn", "informational": "quiet"}
_CONTEXT: Final = 50
_LINE: Final = 20_000  # characters of a message


class Detail:
    """The right side of the anomalies page."""

    def __init__(self, console: Console, visitor: Visitor, parent: ui.element, mark: MarkIt, undo: UndoIt) -> None:
        self._console, self._visitor, self._parent = console, visitor, parent
        self._mark, self._undo = mark, undo
        self._anomaly_id = ""
        self._seen: tuple[object, ...] = ()
        self._why: ui.input | None = None
        self.show("")

    @property
    def anomaly_id(self) -> str:
        """The anomaly that is shown; empty for none."""
        return self._anomaly_id

    def leave(self) -> None:
        """Something else is shown there now."""
        self._anomaly_id = ""

    def show(self, anomaly_id: str) -> None:
        """Show an anomaly; an empty id shows none."""
        self._anomaly_id, self._why = anomaly_id, None
        self._parent.classes(add="open" if anomaly_id else "", remove="" if anomaly_id else "open")
        self._parent.clear()
        row = self._console.board.row(anomaly_id)
        with self._parent:
            if not anomaly_id:
                with box("empty"):
                    words("Choose an anomaly", tag="h2")
                    words("j and k walk through the list, n marks it normal, ? shows all keys.", "dim", tag="p")
            elif row is None:
                with box("empty"):
                    words("This anomaly is not here any more", tag="h2")
                    words(
                        f"The console keeps the newest {self._console.board.most:,}; Grafana or Loki has the older ones.",
                        "dim",
                        tag="p",
                    )
                    button("Close", lambda: self.show(""))
            else:
                self._build(row)

    def tick(self) -> None:
        """Follow what has changed."""
        row = self._console.board.row(self._anomaly_id)
        if row is None or self._state(row) == self._seen:
            return
        if self._seen and self._seen[0] != row.told.revision:
            self.show(self._anomaly_id)
            return
        self._seen = self._state(row)
        self._verdict.clear()
        with self._verdict:
            self._feedback(row)

    def _state(self, row: Row) -> tuple[object, ...]:
        desk, marks = self._console.desk, self._console.board.marks
        history = marks.history(row.told.anomaly_id)
        covering = self._console.board.covering(row)
        return (
            row.told.revision,
            *((mark.given.command_id, mark.undone_by, desk.answer(mark.given.command_id).state) for mark in history),
            covering.given.command_id if covering else "",
        )

    def _build(self, row: Row) -> None:
        record = row.record()
        self._seen = self._state(row)
        told = row.told
        with box("dhead"):
            words(told.service, "service", tag="b")
            if told.level:
                words(told.level, f"level lv-{told.level}")
            if told.severity:
                chip(told.severity, _SEVERITIES.get(told.severity, ""))
            words(f"{date_and_time(told.ts)} UTC", "dim")
            if told.mode == "shadow":
                chip("shadow", "quiet")
            if told.status != "new":
                chip(told.status)
            box("grow")
            words(f"{told.score:.2f}", "bigscore").props["title"] = "score; told from 0.50 on"
            button("×", self._close, "btn small close", "Close ( esc )")
        words(told.explanation or "No explanation was given.", "why", tag="p")
        with box("verdict") as self._verdict:
            self._feedback(row)
        self._line(record)
        self._links(row)
        self._expected(record)
        self._votes(row)
        self._evidence(record)
        self._context(record)
        self._timeline(row)
        self._facts(row, record)

    def _close(self) -> None:
        self.show("")

    # ---- what people say

    def _feedback(self, row: Row) -> None:
        board = self._console.board
        mark, covering = board.marks.of(row.told.anomaly_id), board.covering(row)
        if mark is not None:
            self._said(mark)
        elif covering is not None:
            with box("said"):
                chip("muted", "quiet")
                words(
                    f"The same was marked {covering.given.label} by {covering.given.by}, so its repeats are not told."
                )
                self._undo_button(covering)
        if self._visitor.may(Role.TRIAGER):
            with box("actions"):
                for label, text, classes in (("normal", "Normal", "ok"), ("anomalous", "Anomalous", "bad")):
                    found = button(text, self._act(row, label), f"btn {classes}", f"{text} ( {label[0]} )")
                    found.props["data-act"] = label
                with box("seg"):
                    words("Suppress", "dim")
                    for length in SPANS:
                        button(
                            "for ever" if length == "ever" else length,
                            self._act(row, "suppressed", length),
                            "",
                            "Not told for so long, and not learned ( s )",
                        )
                before = self._why.value if self._why is not None else ""
                self._why = field("reason (optional)", value=before)
        else:
            words("You may look; marking needs the role triager.", "dim small")
        for old in board.marks.history(row.told.anomaly_id):
            if mark is None or old.given.command_id != mark.given.command_id:
                words(_history(old), "dim small", tag="p")

    def _act(self, row: Row, label: str, length: str = "ever") -> Callable[[], Awaitable[None]]:
        async def act() -> None:
            why = str(self._why.value or "") if self._why is not None else ""
            if self._why is not None:
                self._why.value = ""
            await self._mark(row.told.anomaly_id, label, why, length)

        return act

    def _said(self, mark: Mark) -> None:
        given = mark.given
        answer = self._console.desk.answer(given.command_id)
        with box("said"):
            chip(given.label, TONES[given.label])
            until = f" until {date_and_time(given.until_ms)} UTC of the log's time" if given.until_ms else ""
            words(f"by {given.by} at {date_and_time(given.version)} UTC{until}{': ' + given.why if given.why else ''}")
            words(
                {"obeyed": "obeyed", "refused": f"refused: {answer.said}"}.get(answer.state, answer.said),
                f"ack st-{answer.state}",
            )
            self._undo_button(mark)

    def _undo_button(self, mark: Mark) -> None:
        if self._visitor.may(Role.TRIAGER):
            button("Undo", lambda: self._undo(mark.given.command_id), "btn small", "Take it back ( u )")

    # ---- what was found

    def _line(self, record: Mapping[str, Any]) -> None:
        message = str(record.get("message") or "")[:_LINE]
        nearest = record.get("nearest") if isinstance(record.get("nearest"), dict) else None
        values = [str(found.get("value") or "") for found in _rows(record.get("parameters"))]
        differing = [str(token) for token in (nearest or {}).get("differing") or ()]
        with box("line", "pre"):
            for text, mark in segments(message, values, differing):
                words(text, mark, keep_newlines=True)
        named = [found for found in _rows(record.get("parameters")) if found.get("name")]
        if named:
            with box("values"):
                for found in named[:12]:
                    words(f"{found['name']} ", "dim small")
                    words(
                        f"{found.get('value')}{' ' + str(found['unit']) if found.get('unit') else ''}  ", "value small"
                    )
        if nearest is not None:
            words("Nearest normal line", "label")
            words(nearest.get("text") or "", "line near", tag="pre", keep_newlines=True)

    def _links(self, row: Row) -> None:
        told = row.told
        with box("links"):
            if told.session:
                link(
                    f"Whole request {shortened(told.session, 24)}",
                    "/lines?" + urlencode({"session": told.session, "around": told.ts}),
                    "btn small",
                )
            link("Lines around it", "/lines?" + urlencode({"service": told.service, "around": told.ts}), "btn small")
            incident = self._console.board.incident_of(row)
            link(
                "Its incident",
                f"/incidents/{quote(incident.incident_id, safe='')}"
                if incident is not None
                else "/?" + urlencode({"fingerprint": told.fingerprint, "open": told.anomaly_id}),
                "btn small",
            )
            explore = self._console.explore_url(row)
            if explore:
                link("Grafana Explore ↗", explore, "btn small", is_outside=True)

    def _expected(self, record: Mapping[str, Any]) -> None:
        found = _rows(record.get("expected"))[:_EXPECTED]
        if not found:
            return
        words("Expected here instead", "label")
        with box("grid3"):
            for entry in found:
                share = _number(entry.get("probability"))
                words(f"{100 * share:.1f} %", "num")
                bar(share, "green")
                words(entry.get("template") or entry.get("template_id") or "?", "mono")

    def _votes(self, row: Row) -> None:
        words("Votes", "label").props["title"] = "Evidence: 2 is as odd as 1 normal line in 100, 3 as 1 in 1,000"
        most = max([_FULL, *(evidence for _, evidence in row.told.votes)])
        with box("grid3"):
            for name, evidence in row.told.votes:
                words(f"{evidence:.1f}", "num" if evidence >= 2 else "num dim")
                bar(evidence / most, "loud" if evidence >= 2 else "")
                words(name, "" if evidence >= 2 else "dim")

    def _evidence(self, record: Mapping[str, Any]) -> None:
        found = _rows(record.get("evidence"))
        if len(found) < 2 and not any(piece.get("kind") == "end" for piece in found):
            return
        words("What makes the incident", "label")
        most = max([1.0, *(_number(piece.get("weight")) for piece in found)])
        with box("grid3"):
            for piece in found:
                weight = _number(piece.get("weight"))
                words(f"{weight:.1f}", "num")
                bar(weight / most)
                words(
                    f"{'session ended after: ' if piece.get('kind') == 'end' else ''}{piece.get('template') or '?'}",
                    "mono",
                )

    def _context(self, record: Mapping[str, Any]) -> None:
        found = _rows(record.get("context"))[-_CONTEXT:]
        if not found:
            return
        words("Before it, in the same session" if record.get("session") else "Before it, in the same service", "label")
        with box("context", "ol"):
            for entry in found:
                words(entry.get("template") or "?", "mono", tag="li")
            words(shortened(str(record.get("template") or ""), 400), "mono here", tag="li")

    def _timeline(self, row: Row) -> None:
        if len(row.tellings) < 2:
            return
        words("Timeline", "label")
        with box("timeline", "ol"):
            for telling in row.tellings:
                with box("", "li"):
                    words(time_of_day(telling.at_ms or telling.ts)[:8], "num dim")
                    chip(telling.status, "quiet" if telling.status == "refuted" else "")
                    words(f"strength {telling.strength:.1f}", "dim")
                    words(telling.explanation)

    def _facts(self, row: Row, record: Mapping[str, Any]) -> None:
        told = row.told
        topic, partition, offset, index = told.source
        with box("facts", "dl"):
            fact("Template", record.get("template") or "?", "mono")
            false_per_day = _number(record.get("false_per_day"))
            fact("As strong by chance", f"{false_per_day:.3g} a day" if false_per_day else "hardly ever")
            if told.session:
                fact("Session", told.session, "mono")
            if told.host:
                fact("Host", told.host, "mono")
            fact("Model", record.get("model_version") or "?", "mono")
            fact("Record", f"{topic} / {partition} / {offset}{f' / {index}' if index else ''}", "mono")
            fact("Anomaly", f"{told.anomaly_id}, revision {told.revision}", "mono")
            fact(
                "Patterns",
                ", ".join(pattern for pattern, _ in told.patterns) or "none given: feedback acts on this anomaly only",
                "mono",
            )


def _history(mark: Mark) -> str:
    given = mark.given
    end = f", taken back by {mark.undone_by}" if mark.undone_by else ""
    return f"{date_and_time(given.version)} {given.label} by {given.by}{': ' + given.why if given.why else ''}{end}"


def _rows(value: object) -> list[Mapping[str, Any]]:
    return [row for row in value if isinstance(row, Mapping)] if isinstance(value, list) else []


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
