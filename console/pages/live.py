"""The anomalies page: the live list on the left, one anomaly on the right."""

from __future__ import annotations

import time
from typing import Any, Final, cast
from urllib.parse import quote

from nicegui import ui
from nicegui.element import Element
from nicegui.events import GenericEventArguments

from console.board import Filter, Incident, Row
from console.commands import SPANS, Label
from console.pages.detail import Detail
from console.pages.elements import box
from console.pages.layout import Visitor, attempt, page
from console.parts import Console, now_ms
from console.safe_text import date_and_time, shortened, time_of_day, visible
from models.control import Command

_PAGE: Final = 100
_MOST_SHOWN: Final = 10_000
_TICK_S: Final = 0.25
_FOLLOW_S: Final = 1.0  # a list that follows moves no oftener than this
_HOURS: Final = ("", "0.25", "1", "8", "24", "168")  # as triage.js offers them
_TEXTS: Final = ("service", "detector", "mode", "status", "label", "text", "fingerprint", "session")
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
    def _(service: str = "", fingerprint: str = "", session: str = "", open: str = "") -> None:  # noqa: A002 — a word of the address
        with page(console, "/", "two") as visitor:
            LiveView(console, visitor, {"service": service, "fingerprint": fingerprint, "session": session}, open)


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

    def __init__(self, console: Console, visitor: Visitor, filters: dict[str, str], opened: str) -> None:
        self._console, self._board, self._visitor = console, console.board, visitor
        self._given = dict.fromkeys((*_TEXTS, "hours"), "") | filters
        self._is_grouped = self._is_paused = self._is_held = False
        self._is_following = True
        self._version = -1
        self._up_to = self._board.newest_seq
        self._shown: dict[str, tuple[int, str]] = {}
        self._before: int | None = None
        self._pending: dict[str, dict[str, Any]] = {}  # commands on their way: id → what the browser shows of it
        self._reloaded = 0.0
        self._last_state: dict[str, Any] = {}
        first = self._rows_state()
        with box("left"):
            self._list = Triage({**first, **self._flags(), "selected": opened})
        with box("right") as right:
            self.detail = Detail(console, visitor, right, self.mark, self.undo)
        for name, do in (
            ("filter", self._filter), ("group", self._group), ("open", self._open), ("more", self._more), ("fresh", self._show_fresh),
            ("follow", self._follow), ("pause", self._pause), ("hold", self._hold), ("act", self._act), ("undo", self._undo), ("undo_of", self._undo_of),
        ):  # fmt: skip
            self._list.on(name, do)
        if opened:
            self.detail.show(opened)
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
        if self._is_grouped:
            incidents = self._board.incidents(self._wanted)
            self._shown, self._before, total = {}, None, len(incidents)
            rows = [_incident(incident) for incident in incidents]
        else:
            found = self._board.page(self._wanted, _PAGE, up_to=self._up_to)
            self._before, total = found.before, found.total
            self._shown = {}
            rows = [self._row(row) for row in found.rows]
        return {"rows": rows, "more": self._before, "total": total, "grouped": self._is_grouped, "filter": self._given}

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
        return self._board.page(self._wanted, 0, after=self._up_to).total

    # ---- what happens

    def _tick(self) -> None:
        """Tell the browser what has changed since the last time."""
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
        self.detail.show(str(event.args or "")[:64])

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
        await self.mark(str(given.get("id"))[:64], str(given.get("label")), length=str(given.get("span") or "ever"))

    async def _undo(self, event: GenericEventArguments) -> None:
        await self.undo(str(event.args)[:64])

    async def _undo_of(self, event: GenericEventArguments) -> None:
        mark = self._board.marks.of(str(event.args)[:64])
        if mark is None:
            ui.notify("There is no mark on it to take back.", position="bottom")
        else:
            await self.undo(mark.given.command_id)


def _incident(incident: Incident) -> dict[str, Any]:
    told = incident.newest.told
    most = max(incident.histogram, default=1) or 1
    label = next(iter(incident.labels)) if len(incident.labels) == 1 else "open"
    return {
        "id": told.anomaly_id,
        "time": time_of_day(incident.last_ts)[:8],
        "date": f"last at {date_and_time(incident.last_ts)} UTC",
        "since": date_and_time(incident.first_ts)[5:16],
        "service": shortened(visible(told.service), 40),
        "level": visible(told.level),
        "message": one_line(told.message),
        "count": incident.count,
        "label": label,
        "tone": tone(incident.newest),
        "bars": [0 if not count else max(3, round(24 * count / most)) for count in incident.histogram],
    }
