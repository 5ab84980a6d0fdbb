"""What every page has: the head with its links, the note on who one is, the banner when something is away, dark and light."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Final, TypeVar

from nicegui import run, ui

from console.access import Asked, Role, User
from console.pages.elements import box, button, link, words
from console.parts import Console, now_ms
from console.safe_text import span, time_of_day
from models.errors import DriftwoodError

T = TypeVar("T")
_PAGES: Final = (("/", "Anomalies"), ("/services", "Services"), ("/lines", "Lines"), ("/learning", "Learning"))
_THEME: Final = "driftwood_theme"
_AGAIN_S: Final = 5.0


class Visitor:
    """Whoever looks at a page. Asked again at every action: a login that has ended, or a role taken away, acts at once."""

    def __init__(self, console: Console) -> None:
        request = ui.context.client.request
        self._console = console
        self._asked: Asked = request.scope["state"]["asked"]
        self.theme = request.cookies.get(_THEME, "")
        self.first = self.user()

    def user(self) -> User:
        """Who it is now.

        Raises:
            DriftwoodError: the login has ended.
        """
        user = self._console.access.identify(self._asked)
        if user is None:
            raise DriftwoodError("Your login has ended. Load the page again to log in.")
        return user

    def may(self, least: Role) -> bool:
        """Whether to show what needs this role; the server asks again when it is used."""
        return self.first.may(least)


@contextlib.contextmanager
def page(console: Console, here: str, classes: str = "") -> Iterator[Visitor]:
    """The frame of a page; what is made inside stands in its middle."""
    visitor = Visitor(console)
    ui.dark_mode({"dark": True, "light": False}.get(visitor.theme))
    ui.context.client.title = f"{dict(_PAGES)[here]} · Driftwood"
    with box("app"):
        with box("head", "header"):
            link("driftwood", "/", "brand")
            with box("nav", "nav"):
                for path, name in _PAGES:
                    found = link(name, path, "on" if path == here else "")
                    if path == here:
                        found.props["aria-current"] = "page"
            box("grow")
            _health(console)
            button("◐", _toggle, "btn small", "Dark, light, or as the system has it").props["aria-label"] = (
                "Dark or light"
            )
            user = visitor.first
            if user.how == "local":
                note = words("no login: whoever uses this machine is admin", "chip warn")
                note.props["title"] = (
                    "Make users with: driftwood console --users-file users.json --add-user NAME --role admin"
                )
            else:
                words(f"{user.name} · {user.role.name.lower()}", "who")
            if user.how == "cookie":
                button("Log out", _log_out, "btn small")
        _banner(console)
        ui.timer(_AGAIN_S, lambda: _leave_if_ended(visitor))
        with box(f"main {classes}", "main"):
            yield visitor


def _leave_if_ended(visitor: Visitor) -> None:
    """A page that stays open shows nothing more to somebody who may not see it any more."""
    try:
        visitor.user()
    except DriftwoodError:
        ui.navigate.to("/login")


def _toggle() -> None:
    # The theme is the browser's own affair; the server reads the cookie when it builds the next page.
    ui.run_javascript(
        f"""const next = {{"": "dark", dark: "light", light: ""}};
        const now = (document.cookie.match(/{_THEME}=(\\w*)/) || [0, ""])[1];
        document.cookie = "{_THEME}=" + next[now] + ";path=/;max-age=31536000;samesite=lax";
        setDark({{"dark": true, "light": false}}[next[now]] ?? null);"""
    )


def _log_out() -> None:
    ui.run_javascript(
        """fetch("/api/logout", {method: "POST", headers: {"Content-Type": "application/json"}, body: "{}"})
        .then(() => window.location.assign("/login"));"""
    )


def _health(console: Console) -> None:
    dot = words("", "health")

    def look() -> None:
        health = console.health
        dot.text = {"live": "live", "loading": "loading …", "away": "broker away"}[health.state]
        dot.classes(replace=f"health h-{health.state}")

    look()
    ui.timer(1.0, look)


def _banner(console: Console) -> None:
    with box("banner") as banner:
        banner.props["role"] = "alert"
        text = words("")

    def look() -> None:
        health = console.health
        banner.visible = bool(health.said) and health.state != "loading"
        if banner.visible:
            since = (
                f"Since {time_of_day(health.since_ms)[:8]} UTC ({span(now_ms() - health.since_ms)}): "
                if health.state == "away"
                else ""
            )
            text.text = since + health.said
            banner.classes(replace="banner bad" if health.state == "away" else "banner")

    look()
    ui.timer(1.0, look)


async def attempt(what: Callable[..., T], *arguments: object) -> T | None:
    """Do something that blocks, in a thread; None, and a message to the user, where it cannot be done."""
    try:
        return await run.io_bound(what, *arguments)
    except DriftwoodError as error:
        ui.notify(str(error), type="negative", position="bottom", multi_line=True, timeout=8_000, close_button="Close")
        return None


async def shown_or(what: Callable[..., T], *arguments: object) -> T | str:
    """The same, but the message is given back, to stand in the page."""
    try:
        found = await run.io_bound(what, *arguments)
    except DriftwoodError as error:
        return str(error)
    return "The console is stopping." if found is None else found


def soon(do: Callable[[], Awaitable[None]]) -> None:
    """Once the page is there: what takes longer than a page may."""
    ui.timer(0.01, do, once=True)
