"""The lines page: lines that nobody flagged, to say that one was missed; and a whole request across services, in order of time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from urllib.parse import urlencode

from nicegui import ui

from console.access import Role
from console.lines import MOST, Line, Search
from console.pages.elements import box, button, chip, empty, field, link, words
from console.pages.layout import Visitor, attempt, page, shown_or, soon
from console.parts import Console
from console.safe_text import date_and_time, shortened, time_of_day

_AROUND_MS: Final = 10 * 60_000
_REQUEST_MS: Final = 3_600_000
_PAGE: Final = 200


def register(console: Console) -> None:
    """Put the page at /lines."""

    @ui.page("/lines")
    def _(text: str = "", service: str = "", session: str = "", around: int = 0) -> None:
        with page(console, "/lines", "wide") as visitor:
            LinesView(console, visitor, text[:500], service[:200], session[:300], around)


class LinesView:
    """A search and what it found."""

    def __init__(self, console: Console, visitor: Visitor, text: str, service: str, session: str, around: int) -> None:
        self._console, self._visitor = console, visitor
        self._session, self._around = session, around
        self._sent: list[tuple[str, str, ui.element]] = []  # missed: command, by whom, where that is shown
        self._searches = 0
        with box("crumbs"):
            words("Whole request" if session else "Lines", tag="h1")
            if session:
                words(session, "mono dim")
                link("all lines", "/lines", "btn small")
        source = console.lines
        if source is None:
            empty(
                "No lines can be looked for",
                "Give the console a Loki (loki_url) or the topic of lines that the job reads (logs).",
            )
            return
        with box("bar"):
            self._text = field("words that all occur in the line", "grow", text, most=500)
            self._text.on("keydown.enter", self._search)
            names = {"": "All services"} | {name: shortened(name, 40) for name in console.board.services()}
            if service:
                names.setdefault(service, shortened(service, 40))
            self._service = (
                ui.select(names, value=service)
                .props("dense borderless options-dense aria-label=Service")
                .classes("reason short")
            )
            self._flagged = ui.checkbox("flagged ones too", value=bool(session or around)).props("dense")
            button("Search", self._search, "btn primary")
        words(f"Looked for in {source.name}; secrets are redacted as in the job. Times are UTC.", "dim small", tag="p")
        self._found = box()
        soon(self._search)
        ui.timer(0.25, self._tick)

    async def _search(self) -> None:
        source = self._console.lines
        if source is None:
            return
        reach = _REQUEST_MS if self._session else _AROUND_MS
        search = Search(
            text=str(self._text.value or "")[:500],
            service=str(self._service.value or ""),
            session=self._session,
            since_ms=max(0, self._around - reach) if self._around else 0,
            until_ms=self._around + reach if self._around else 0,
            unflagged_only=not self._flagged.value,
        )
        self._searches += 1
        this = self._searches
        self._found.clear()
        with self._found, box("empty"):
            box("spinner")
        found = await shown_or(source.find, search)
        if this != self._searches:
            return  # asked for something else meanwhile
        self._found.clear()
        self._sent.clear()
        with self._found:
            if isinstance(found, str):
                empty("The lines cannot be looked for", found)
            elif not found:
                empty("No line matches", "Try fewer words, another service, or look for flagged ones too.")
            else:
                # A request is a story and is read from its beginning; a search shows the newest first.
                self._table(found[::-1] if self._session or self._around else found)

    def _table(self, lines: Sequence[Line]) -> None:
        services = {line.service for line in lines}
        head = f"{len(lines):,} lines" if len(lines) > 1 else "1 line"
        more = f"; there may be more than these {MOST:,}" if len(lines) == MOST else ""
        words(
            f"{head}{f' of {len(services)} services' if len(services) > 1 else ''}, {date_and_time(min(line.ts for line in lines))} to {time_of_day(max(line.ts for line in lines))[:8]}{more}",
            "dim small",
            tag="p",
        )
        before = _before(lines)
        with box("lines"):
            for at, line in enumerate(lines[:_PAGE]):
                self._row(line, before[at])
        if len(lines) > _PAGE:
            words(f"The first {_PAGE} are shown; search for more words to see the others.", "dim small")

    def _row(self, line: Line, before: str) -> None:
        with box("lrow flagged" if line.anomaly_id else "lrow"):
            words(time_of_day(line.ts), "num dim").props["title"] = f"{date_and_time(line.ts)} UTC"
            words(shortened(line.service, 32), "service")
            words(line.level, f"level lv-{line.level}")
            words(shortened(line.message, 2_000), "mono wrap")
            with box("lend"):
                if line.anomaly_id:
                    link("anomaly", "/?" + urlencode({"open": line.anomaly_id}), "btn small bad")
                    return
                if line.session and line.session != self._session:
                    link("request", "/lines?" + urlencode({"session": line.session, "around": line.ts}), "btn small")
                with box("lend") as end:
                    mark = self._console.missed(line.service, line.message)
                    if mark is not None:
                        self._follow(mark.given.command_id, mark.given.by, end)
                    elif self._visitor.may(Role.TRIAGER):
                        button(
                            "You missed this",
                            self._missed(line, before, end),
                            "btn small",
                            "Such lines are told from now on",
                        )

    def _missed(self, line: Line, before: str, end: ui.element) -> Callable[[], Awaitable[None]]:
        async def missed() -> None:
            desk = self._console.desk
            command = await attempt(lambda: desk.missed(self._visitor.user(), line.service, line.message, before))
            if command is not None:
                self._follow(command.command_id, command.by, end)

        return missed

    def _follow(self, command_id: str, by: str, end: ui.element) -> None:
        """Show that such a line was called missed, and what the job says to that."""
        self._sent.append((command_id, by, end))
        self._tell(command_id, by, end)

    def _tell(self, command_id: str, by: str, end: ui.element) -> None:
        answer = self._console.desk.answer(command_id)
        end.props["data-state"] = answer.state
        end.clear()
        with end:
            chip("missed", "bad").props["title"] = "Such lines are told from now on"
            words(f"by {by}", "dim small")
            words("obeyed" if answer.state == "obeyed" else answer.said, f"ack st-{answer.state}")
            if self._visitor.may(Role.TRIAGER):
                button("Undo", lambda: self._undo(command_id, end), "btn small")

    async def _undo(self, command_id: str, end: ui.element) -> None:
        desk = self._console.desk
        command = await attempt(lambda: desk.undo(self._visitor.user(), command_id))
        if command is not None:
            self._sent = [one for one in self._sent if one[2] is not end]
            end.clear()
            with end:
                words("taken back", "dim")

    def _tick(self) -> None:
        for command_id, by, end in self._sent:
            if self._console.desk.answer(command_id).state != end.props.get("data-state"):
                self._tell(command_id, by, end)


def _before(lines: Sequence[Line]) -> list[str]:
    """The message before each line in its session, as far as it is among these; empty where it is not known."""
    order = sorted(range(len(lines)), key=lambda at: (lines[at].ts, lines[at].source or ("", 0, 0, 0)))
    last: dict[tuple[str, str], str] = {}
    found = [""] * len(lines)
    for at in order:
        line = lines[at]
        if line.session:
            found[at] = last.get((line.service, line.session), "")
            last[line.service, line.session] = line.message
    return found
