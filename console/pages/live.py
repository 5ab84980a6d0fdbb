"""The anomalies page: the live list of anomalies or incidents on the left, one of them on the right."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final, cast
from urllib.parse import quote

from nicegui import ui
from nicegui.element import Element
from nicegui.events import GenericEventArguments

from console.board import Filter, Repeats, Row
from console.commands import SPANS, Label
from console.incidents import OPEN, Incident
from console.pages.detail import Detail
from console.pages.elements import box
from console.pages.incident import SEVERITIES, STATES, IncidentDetail
from console.pages.layout import Visitor, attempt, page
from console.parts import Console, now_ms
from console.safe_text import date_and_time, shortened, time_of_day
from models.control import Command
from models.visible import visible

_PAGE: Final = 100
_MOST_SHOWN: Final = 10_000
_TICK_S: Final = 0.25
_FOLLOW_S: Final = 1.0  # a list that follows moves no oftener than this
_HOURS: Final = ("", "0.25", "1", "8", "24", "168")  # as triage.js offers them
_TEXTS: Final = ("service", "detector", "mode", "status", "label", "text", "fingerprint", "session", "incident")
_INCIDENTS: Final = 200
_BARS: Final = 24
_SEVERITIES: Final = {"critical": "high", "error": "high", "warning": "middle", "informational": "low"}
_LABELS: Final = ("normal", "anomalous", "suppressed")
_SAID: Final = {
    "normal": "Marked normal",
    "anomalous": "Marked anomalous",
    "suppressed": "Suppressed",
}


class Triage(Element, component="triage.js"):
    """The list in the browser; see triage.js."""

    def __init__(self, initial: dict[str, Any]) -> None:
        super().__init__()
        self._props["initial"] = initial


def register(console: Console) -> None:
    """Put the page at /."""

    @ui.page("/")
    def _(service: str = "", fingerprint: str = "", session: str = "", incident: str = "", open: str = "") -> None:  # noqa: A002 — a word of the address
        filters = {"service": service, "fingerprint": fingerprint, "session": session, "incident": incident}
        with page(console, "/", "two") as visitor:
            LiveView(console, visitor, filters, open)

    @ui.page("/incidents/{incident_id}")
    def _(incident_id: str) -> None:
        with page(console, "/", "two") as visitor:
            LiveView(console, visitor, {}, incident_id[:64], is_grouped=True)


def one_line(message: str) -> str:
    """The message as a row shows it: its lines joined by a sign."""
    return shortened(" ⏎ ".join(visible(part.strip()) for part in message[:1_000].splitlines()), 300)


def tone(row: Row) -> str:
    """How loud a row is drawn: by the severity that the verdict gives it, else by its score."""
    if row.told.status in ("refuted", "withdrawn") or row.told.mode == "shadow":
        return "faint"
    if row.told.severity in _SEVERITIES:
        return _SEVERITIES[row.told.severity]
    return "high" if row.told.score >= 0.8 else "middle" if row.told.score >= 0.6 else "low"


class LiveView:
    """One visitor's list.

    It shows rows up to a place (`up_to`); what arrives later waits until it is asked for, or until the list is at its top, follows, and no mouse is
    over it.
    """

    def __init__(
        self, console: Console, visitor: Visitor, filters: dict[str, str], opened: str, *, is_grouped: bool = False
    ) -> None:
        self._console, self._board, self._visitor = console, console.board, visitor
        self._given = dict.fromkeys((*_TEXTS, "hours"), "") | filters
        self._is_grouped = is_grouped
        self._is_paused = self._is_held = False
        self._is_following = True
        self._version = -1
        self._up_to = self._board.newest_seq
        self._shown: dict[str, tuple[int, str]] = {}
        self._lists_incidents = False  # as the job tells of them
        self._up_to_incident = 0
        self._shown_incidents: dict[str, int] = {}  # id → revision, where the job tells of incidents
        self._before: int | None = None
        self._pending: dict[str, dict[str, Any]] = {}  # commands on their way: id → what the browser shows of it
        self._reloaded = 0.0
        self._last_state: dict[str, Any] = {}
        first = self._rows_state()
        with box("left"):
            self._list = Triage({**first, **self._flags(), "selected": opened})
        with box("right") as right:
            self.detail = Detail(console, visitor, right, self.mark, self.undo)
            self.incident = IncidentDetail(console, right, self._open_anomaly)
        for name, do in (
            ("filter", self._filter), ("group", self._group), ("open", self._open), ("more", self._more), ("fresh", self._show_fresh),
            ("follow", self._follow), ("pause", self._pause), ("hold", self._hold), ("act", self._act), ("undo", self._undo), ("undo_of", self._undo_of),
        ):  # fmt: skip
            self._list.on(name, do)
        if opened:
            self._show(opened, is_incident=is_grouped)
        ui.timer(_TICK_S, self._tick)

    # ---- what is shown

    @property
    def _wanted(self) -> Filter:
        hours = self._given["hours"]
        since_ms = now_ms() - int(float(hours) * 3_600_000) if hours else 0
        given: dict[str, Any] = {name: self._given[name] for name in _TEXTS}
        return Filter(**given, since_ms=since_ms)

    def _rows_state(self) -> dict[str, Any]:
        """The first rows, up to now; and what the list must know of them."""
        self._up_to = self._board.newest_seq
        self._up_to_incident = self._board.incidents.newest_seq
        self._shown_incidents = {}
        self._lists_incidents = self._is_grouped and len(self._board.incidents) > 0
        if self._lists_incidents:
            incidents = self._board.incidents_of(self._wanted)
            self._shown, self._before, total = {}, None, len(incidents)
            rows = [self._incident(incident) for incident in incidents[:_INCIDENTS]]
        elif self._is_grouped:
            groups = self._board.repeats(self._wanted)
            self._shown, self._before, total = {}, None, len(groups)
            rows = [_repeats(group) for group in groups]
        else:
            found = self._board.page(self._wanted, _PAGE, up_to=self._up_to)
            self._before, total = found.before, found.total
            self._shown = {}
            rows = [self._row(row) for row in found.rows]
        return {"rows": rows, "more": self._before, "total": total, "grouped": self._is_grouped, "filter": self._given}

    def _incident(self, incident: Incident) -> dict[str, Any]:
        self._shown_incidents[incident.incident_id] = incident.revision
        bars = incident.bars(_BARS)
        more = len(incident.services) - 1
        is_faint = incident.mode == "shadow" or incident.state not in OPEN
        return {
            "id": incident.incident_id,
            "time": time_of_day(incident.last_ms)[:8],
            "date": f"last at {date_and_time(incident.last_ms)} UTC",
            "since": date_and_time(incident.started_ms)[5:16],
            "service": shortened(visible(incident.cause.service), 40) + (f" and {more:,} more" if more > 0 else ""),
            "level": "",
            "message": one_line(incident.title),
            "count": incident.count,
            "label": "open",
            "state": incident.state,
            "stateTone": STATES.get(incident.state, "quiet"),
            "severity": visible(incident.severity),
            "severityTone": SEVERITIES.get(incident.severity, ""),
            "mode": incident.mode,
            "tone": "faint" if is_faint else _SEVERITIES.get(incident.severity, "low"),
            "bars": _heights(bars),
        }

    def _row(self, row: Row) -> dict[str, Any]:
        told, label = row.told, self._board.label(row)
        mark = self._board.marks.of(told.anomaly_id)
        self._shown[told.anomaly_id] = (told.revision, label)
        return {
            "id": told.anomaly_id,
            "time": time_of_day(told.ts)[:8],
            "date": f"{date_and_time(told.ts)} UTC",
            "service": shortened(visible(told.service), 40),
            "level": visible(told.level),
            "message": one_line(told.message),
            "score": told.score,
            "detector": told.detector,
            "mode": told.mode,
            "status": told.status,
            "label": label,
            "by": mark.given.by if mark else "",
            "tone": tone(row),
        }

    def _flags(self) -> dict[str, Any]:
        options = {"services": self._board.services(), "detectors": self._board.detectors()}
        given = {name: self._given[name] for name in _TEXTS if self._given[name]}
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in given.items())
        return {
            "fresh": self._fresh(),
            "follow": self._is_following,
            "paused": self._is_paused,
            "loading": self._console.health.state == "loading",
            "options": options,
            "exportUrl": "/api/export.csv" + (f"?{query}" if query else ""),
        }

    def _fresh(self) -> int:
        if self._lists_incidents:
            seq = self._board.incidents.seq
            found = self._board.incidents_of(self._wanted)
            return sum(seq(incident.incident_id) > self._up_to_incident for incident in found)
        return self._board.page(self._wanted, 0, after=self._up_to).total

    # ---- what happens

    def _tick(self) -> None:
        """Tell the browser what has changed since the last time."""
        self.incident.tick()
        if self._version == self._board.version and not self._pending and self._last_state.get("loading") is False:
            return
        self._version = self._board.version
        flags = self._flags()
        if flags["fresh"] and self._is_following and not self._is_paused and not self._is_held:
            if time.monotonic() - self._reloaded > _FOLLOW_S:
                self._reload()
                return
            flags["fresh"], self._version = 0, -1  # soon
        if flags != self._last_state:
            self._last_state = flags
            self._list.run_method("state", flags)
        changed = []
        for number, known in list(self._shown.items()):
            row = self._board.row(number)
            if row is not None and known != (row.told.revision, self._board.label(row)):
                changed.append(self._row(row))
        for incident_id, revision in list(self._shown_incidents.items()):
            incident = self._board.incidents.get(incident_id)
            if incident is not None and incident.revision != revision:
                changed.append(self._incident(incident))
        if changed:
            self._list.run_method("patch", changed)
        self._follow_commands()
        self.detail.tick()

    def _reload(self, *, to_top: bool = False) -> None:
        self._reloaded = time.monotonic()
        state = self._rows_state()
        self._last_state = self._flags()
        self._list.run_method("load", {**state, **self._last_state}, to_top)
        self._follow_commands()
        self.detail.tick()

    def _follow_commands(self) -> None:
        for command_id, toast in list(self._pending.items()):
            answer = self._console.desk.answer(command_id)
            mark = self._board.marks.by_command(command_id)
            can_undo = mark is not None and mark.is_standing and answer.state != "refused"
            now = {**toast, "state": answer.state, "said": answer.said, "canUndo": can_undo}
            if now != toast:
                self._pending[command_id] = now
                self._list.run_method("toast", now)
            # The answer may be read before the command itself, which makes the mark that can be taken back.
            if answer.state == "refused" or (answer.state == "obeyed" and (can_undo or not toast["isMark"])):
                del self._pending[command_id]

    def _filter(self, event: GenericEventArguments) -> None:
        given = event.args if isinstance(event.args, dict) else {}
        self._given = {name: str(given.get(name) or "")[:500] for name in self._given}
        if self._given["hours"] not in _HOURS:
            self._given["hours"] = ""
        self._reload(to_top=True)

    def _group(self, event: GenericEventArguments) -> None:
        self._is_grouped = event.args is True
        self._reload(to_top=True)

    def _open(self, event: GenericEventArguments) -> None:
        self._show(str(event.args or "")[:64], is_incident=self._lists_incidents)

    def _show(self, name: str, *, is_incident: bool) -> None:
        if is_incident and name:
            self.detail.leave()
            self.incident.show(name)
        else:
            self.incident.leave()
            self.detail.show(name)

    def _open_anomaly(self, anomaly_id: str) -> None:
        self._show(anomaly_id, is_incident=False)

    def _meant(self, name: object) -> str:
        """The anomaly that a key acts on: the row's, or where incidents are listed the one that is open."""
        if not self._lists_incidents:
            return str(name or "")[:64]
        if not self.detail.anomaly_id:
            ui.notify("Marks are of anomalies: open one of the incident's first.", position="bottom")
        return self.detail.anomaly_id

    def _more(self) -> None:
        if self._before is None or self._is_grouped or len(self._shown) >= _MOST_SHOWN:
            return
        found = self._board.page(self._wanted, _PAGE, self._before, self._up_to)
        self._before = found.before
        self._list.run_method("append", [self._row(row) for row in found.rows], self._before)

    def _show_fresh(self) -> None:
        self._reload(to_top=True)

    def _follow(self, event: GenericEventArguments) -> None:
        self._is_following = event.args is True
        self._version = -1

    def _pause(self, event: GenericEventArguments) -> None:
        self._is_paused = event.args is True
        self._version = -1

    def _hold(self, event: GenericEventArguments) -> None:
        self._is_held = event.args is True
        self._version = -1

    # ---- what people say

    async def mark(self, anomaly_id: str, label: str, why: str = "", length: str = "ever") -> None:
        """Give feedback on an anomaly, and follow it until the job has obeyed."""
        if label not in _LABELS or length not in SPANS:
            return
        desk = self._console.desk
        command = await attempt(lambda: desk.mark(self._visitor.user(), anomaly_id, cast(Label, label), why, length))
        if command is not None:
            end = "" if label != "suppressed" else " for ever" if length == "ever" else f" for {length}"
            self._sent(command, _SAID[label] + end, is_mark=True)

    async def undo(self, command_id: str) -> None:
        """Take a mark back."""
        desk = self._console.desk
        command = await attempt(lambda: desk.undo(self._visitor.user(), command_id))
        if command is not None:
            self._sent(command, "Taken back", is_mark=False)

    def _sent(self, command: Command, text: str, *, is_mark: bool) -> None:
        self._pending[command.command_id] = {"id": command.command_id, "text": text, "isMark": is_mark}
        self._tick()

    async def _act(self, event: GenericEventArguments) -> None:
        given = event.args if isinstance(event.args, dict) else {}
        anomaly_id = self._meant(given.get("id"))
        if anomaly_id:
            await self.mark(anomaly_id, str(given.get("label")), length=str(given.get("span") or "ever"))

    async def _undo(self, event: GenericEventArguments) -> None:
        await self.undo(str(event.args)[:64])

    async def _undo_of(self, event: GenericEventArguments) -> None:
        anomaly_id = self._meant(event.args)
        mark = self._board.marks.of(anomaly_id)
        if mark is None and anomaly_id:
            ui.notify("There is no mark on it to take back.", position="bottom")
        elif mark is not None:
            await self.undo(mark.given.command_id)


def _heights(bars: Sequence[int]) -> list[int]:
    most = max([1, *bars])
    return [0 if not count else max(3, round(24 * count / most)) for count in bars]


def _repeats(group: Repeats) -> dict[str, Any]:
    told = group.newest.told
    label = next(iter(group.labels)) if len(group.labels) == 1 else "open"
    return {
        "id": told.anomaly_id,
        "time": time_of_day(group.last_ts)[:8],
        "date": f"last at {date_and_time(group.last_ts)} UTC",
        "since": date_and_time(group.first_ts)[5:16],
        "service": shortened(visible(told.service), 40),
        "level": visible(told.level),
        "message": one_line(told.message),
        "count": group.count,
        "label": label,
        "tone": tone(group.newest),
        "bars": _heights(group.histogram),
    }
