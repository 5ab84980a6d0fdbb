"""The services page: what state each one is in and what it waits for; one of them in full, with what may be set by hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

from nicegui import ui

from console.access import Role, User
from console.commands import Desk
from console.pages.elements import TONES, bar, box, button, chip, empty, fact, field, link, words
from console.pages.layout import Visitor, attempt, page, shown_or, soon
from console.pages.templates import TemplatesView
from console.parts import Console, now_ms
from console.safe_text import date_and_time, shortened, span
from models.control import Command

if TYPE_CHECKING:
    from console.store import Version

_MODES: Final = ("auto", "learning", "shadow", "live")
_MODE_TONES: Final = {"live": "ok", "shadow": "quiet", "learning": "warn"}
_TICK_S: Final = 1.0
_SILENT_MS: Final = 10 * 60_000
Give = Callable[[User], Command]


def register(console: Console) -> None:
    """Put the page at /services."""

    @ui.page("/services")
    def _(service: str = "") -> None:
        with page(console, "/services", "wide") as visitor:
            if service:
                ServiceView(console, visitor, service)
            else:
                Overview(console)


class Overview:
    """A table of all services."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._version = -1
        words("Services", tag="h1")
        self._body = box()
        self._tick()
        ui.timer(_TICK_S, self._tick)

    def _tick(self) -> None:
        board = self._console.board
        if board.version == self._version:
            return
        self._version = board.version
        self._body.clear()
        with self._body:
            names = board.services()
            if not names:
                empty(
                    "No service is known yet",
                    "Point the job at a topic of logs: each service that appears there starts to learn by itself.",
                )
                return
            with box("table", "table"):
                with box("", "thead"), box("", "tr"):
                    for head in (
                        "Service",
                        "State",
                        "What it waits for",
                        "Lines",
                        "Unknown",
                        "Told, last day",
                        "Budget",
                        "Newest line",
                    ):
                        words(head, tag="th")
                with box("", "tbody"):
                    for name in names:
                        self._row(name, board.statuses.get(name, {}))

    def _row(self, name: str, status: Mapping[str, Any]) -> None:
        told, budget = self._console.board.told_a_day(name), _number(status.get("budget_per_day"))
        with box("", "tr"):
            with box("", "td"):
                link(shortened(name, 60), "/services?" + urlencode({"service": name}), "service")
            with box("", "td"):
                _mode(status)
            words(status.get("why") or ("" if status else "The job has not told of it yet."), "dim wrap", tag="td")
            words(f"{int(_number(status.get('lines'))):,}", "num", tag="td")
            words(f"{100 * _number(status.get('unknown_ratio')):.1f} %", "num", tag="td")
            with box("num", "td"):
                link(f"{told:,}", "/?" + urlencode({"service": name}), "bad" if budget and told > 3 * budget else "")
            words(f"{budget:g} / day" if budget else "–", "num dim", tag="td")
            words(date_and_time(status.get("last_ts")) if status.get("last_ts") else "–", "num dim", tag="td")


class ServiceView:
    """One service."""

    def __init__(self, console: Console, visitor: Visitor, service: str) -> None:
        self._console, self._visitor, self._service = console, visitor, service
        self._version = -1
        self._sent: dict[str, str] = {}
        with box("crumbs"):
            link("Services", "/services")
            words("›", "dim")
            words(service, tag="h1")
        with box("cols"):
            with box("stack"):
                self._state = box("card")
                if visitor.may(Role.ADMIN):
                    with box("card"):
                        self._controls()
                self._muted = box("card")
            with box("stack"):
                self._precision = box("card")
                self._models = box("card")
                with box("card templates"):
                    self._templates = TemplatesView(console, visitor, service)
        with self._models:
            words("Models", tag="h2")
            self._versions = box()
            with self._versions:
                words("Loading …", "dim")
        soon(self._load_models)
        self._tick()
        ui.timer(_TICK_S, self._tick)

    @property
    def _status(self) -> Mapping[str, Any]:
        return self._console.board.statuses.get(self._service, {})

    @property
    def _desk(self) -> Desk:
        return self._console.desk

    def _tick(self) -> None:
        version = self._console.board.version
        is_waiting = any(self._desk.answer(command_id).state in ("sent", "waiting") for command_id in self._sent)
        if version == self._version and not (is_waiting or self._templates.is_waiting):
            return
        self._version = version
        for parent, fill in (
            (self._state, self._fill_state),
            (self._muted, self._fill_muted),
            (self._precision, self._fill_precision),
        ):
            parent.clear()
            with parent:
                fill()
        self._templates.fill()

    def _fill_state(self) -> None:
        status, board = self._status, self._console.board
        words("State", tag="h2")
        if not status:
            words("The job has not told of this service yet; it does so when lines come.", "dim")
            return
        with box("flow"):
            _mode(status)
            since = status.get("mode_since_ms")
            words(f"since {date_and_time(since)} UTC" if since else "", "dim")
            words("by the criteria" if status.get("is_auto") else "set by hand", "dim")
        words(status.get("why") or "", tag="p")
        with box("facts", "dl"):
            fact("Lines", f"{int(_number(status.get('lines'))):,}, scored {int(_number(status.get('scored'))):,}")
            fact(
                "Templates",
                f"{int(_number(status.get('templates'))):,}; {100 * _number(status.get('unknown_ratio')):.1f} % of the newest lines are of unknown ones",
            )
            fact(
                "Told",
                f"{int(_number(status.get('told'))):,} in all, {board.told_a_day(self._service):,} in the last day; the budget for false ones is {_number(status.get('budget_per_day')):g} a day",
            )
            fact("Newest line", f"{date_and_time(status.get('last_ts'))} UTC")
            at_ms = _number(status.get("at_ms"))
            silent_ms = now_ms() - at_ms
            fact(
                "Heard of",
                f"{span(silent_ms)} ago{'; no lines come, or the job stands still' if silent_ms > _SILENT_MS else ''}",
                "warn" if silent_ms > _SILENT_MS else "",
            )
            fact("Model", status.get("model_version") or "none yet", "mono")
        self._fill_sent()

    def _fill_sent(self) -> None:
        for command_id, text in self._sent.items():
            answer = self._desk.answer(command_id)
            with box("said"):
                words(text)
                words(answer.said if answer.state != "obeyed" else "obeyed", f"ack st-{answer.state}")

    def _fill_muted(self) -> None:
        words("Muted patterns", tag="h2")
        muted = [found for found in self._status.get("muted") or () if isinstance(found, Mapping)]
        wanted = [found for found in self._status.get("wanted") or () if isinstance(found, Mapping)]
        if not muted and not wanted:
            words("None. Marking an anomaly normal, or suppressing it, puts its patterns here.", "dim")
        known = self._console.board.templates.get(self._service, {})
        for found in muted:
            parts = str(found.get("pattern") or "").split(":")
            until = found.get("until_ms")
            with box("item"):
                chip(str(found.get("label") or "muted"), TONES.get(str(found.get("label")), "quiet"))
                with box("grow"):
                    words(
                        known.get(parts[2], found.get("pattern")) if len(parts) > 2 else found.get("pattern"),
                        "mono clip",
                    )
                    words(
                        f"{' '.join(parts[:2])}, by {found.get('by')}{f', until {date_and_time(until)}' if until else ', for ever'}",
                        "dim small",
                    )
                self._undo(str(found.get("command_id") or ""))
        for found in wanted:
            with box("item"):
                chip("missed", "bad")
                with box("grow"):
                    words(known.get(str(found.get("template_id")), found.get("template_id")), "mono clip")
                    words(f"told from now on, by {found.get('by')}", "dim small")
                self._undo(str(found.get("command_id") or ""))

    def _undo(self, command_id: str) -> None:
        if self._visitor.may(Role.TRIAGER) and command_id:
            button(
                "Undo",
                self._do("Taken back", lambda user: self._desk.take_back(user, self._service, command_id)),
                "btn small",
            )

    def _fill_precision(self) -> None:
        words("Precision, from feedback", tag="h2")
        found = self._console.board.precision(self._service)
        if not found:
            words("No anomaly of it was marked normal or anomalous yet.", "dim")
            return
        with box("grid3"):
            for name, precision in sorted(found.items(), key=lambda pair: (pair[0] != "all", pair[0])):
                words(f"{100 * (precision.ratio or 0):.0f} %", "num")
                bar(precision.ratio or 0, "green")
                words(
                    f"{name}: {precision.right} of {precision.right + precision.wrong}", "" if name == "all" else "dim"
                )

    def _controls(self) -> None:
        words("By hand", tag="h2")
        why = field("reason (optional)")
        desk, service = self._console.desk, self._service

        def set_mode(mode: str) -> Give:
            return lambda user: desk.set_mode(user, service, mode, why.value)

        def mark_release(user: User) -> Command:
            now = self._console.board.last_ts(service) or now_ms()  # event time, as templates are first seen in
            return desk.release(user, service, label.value, now, why=why.value)

        with box("actions"):
            words("Mode", "dim")
            with box("seg"):
                for mode in _MODES:
                    found = button(
                        "by criteria" if mode == "auto" else mode, self._do(f"Mode {mode}", set_mode(mode)), ""
                    )
                    found.props["data-mode"] = mode
        with box("actions"):
            words("Budget", "dim")
            budget = ui.number(value=_number(self._status.get("budget_per_day")) or None, min=0, max=10_000)
            budget.props("dense borderless aria-label=Budget").classes("reason short")
            words("false alerts a day", "dim")
            button(
                "Set",
                self._do("Budget", lambda user: desk.set_budget(user, service, budget.value, why.value)),
                "btn small",
            )
            button(
                "As the job has it",
                self._do("Budget", lambda user: desk.set_budget(user, service, None, why.value)),
                "btn small",
            )
        with box("actions"):
            words("Release", "dim")
            label = field("name, such as 1.4.2", "short", most=200)
            button(
                "Mark now",
                self._do("Release", mark_release),
                "btn small",
                "Templates first seen in the next half hour are one item",
            )

    def _do(self, text: str, give: Give) -> Callable[[], Awaitable[None]]:
        async def do() -> None:
            command = await attempt(lambda: give(self._visitor.user()))
            if command is not None:
                self._sent = {**dict(list(self._sent.items())[-4:]), command.command_id: text}
                self._version = -1

        return do

    async def _load_models(self) -> None:
        store = self._console.store
        found = (
            await shown_or(store.versions, self._service)
            if store is not None
            else "No model store is set (setting `store`), so versions cannot be listed."
        )
        self._versions.clear()
        with self._versions:
            if isinstance(found, str):
                words(found, "dim", tag="p")
            elif not found:
                words("None yet: the first one is trained when enough lines are known.", "dim", tag="p")
            else:
                for version in found:
                    self._model(version)

    def _model(self, version: Version) -> None:
        is_current = version.version == self._status.get("model_version")
        with box("item"):
            words(version.version, "mono")
            with box("grow"):
                words(
                    f"{version.created[:16].replace('T', ' ')}{f', {version.lines:,} lines' if version.lines else ''}",
                    "small",
                )
                metrics = ", ".join(
                    f"{name} {value:.4g}" for name, value in list(version.metrics.items())[:6] if value is not None
                )
                words(metrics, "dim small wrap")
            if is_current:
                chip("in use", "ok")
            elif self._visitor.may(Role.ADMIN):
                button(
                    "Use this",
                    self._do(
                        f"Model {version.version}",
                        lambda user: self._desk.set_model(user, self._service, version.version),
                    ),
                    "btn small",
                )


def _mode(status: Mapping[str, Any]) -> None:
    mode = str(status.get("mode") or "unknown")
    chip(mode, _MODE_TONES.get(mode, "quiet"))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
