"""What every request passes first: our own name, our own origin, a bounded body that comes in time, a known user, and headers for the answer.

```
http, websocket ─→ Host ours? ─→ Origin ours? ─→ JSON? ─→ who asks? ─→ the application, its answer with security headers
                     421            403           415      401 or /login
```
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit

import orjson

from console.access import COOKIE, Access, Asked, User
from console.audit import Audit
from console.settings import ConsoleSettings
from models.errors import SettingsError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Reached without a login.
PUBLIC: Final = frozenset({"/login", "/healthz", "/readyz", "/static/console.css", "/static/login.js"})
_SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_BODY_S: Final = 15.0  # in which a body must have come

# NiceGUI compiles templates in the browser (unsafe-eval) and starts from an inline script; all else comes from here, and nothing goes elsewhere:
# even a script that got in could send nothing out.
_POLICY: Final = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_STRICT: Final = "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self'; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
_HEADERS: Final = (
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), microphone=(), geolocation=()"),
)


def asked_of(scope: Scope) -> Asked:
    """What identifies the request of an ASGI scope."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope.get("headers", ())}
    client = scope.get("client")
    return Asked(client[0] if client else "", headers, _cookie(headers.get("cookie", "")))


def _cookie(header: str) -> str:
    for part in header.split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value.strip('"')
    return ""


def _place(url: str) -> tuple[str, str]:
    """(name, name and port) of an address; empty where it is none."""
    try:
        parts = urlsplit(url)
        return (parts.hostname or "").lower(), parts.netloc.lower()
    except ValueError:
        return "", ""


class Guard:
    """The outermost layer of the application."""

    def __init__(self, app: ASGIApp, settings: ConsoleSettings, access: Access, audit: Audit) -> None:
        self._app = app
        self._settings = settings
        self._access = access
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let the application answer."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        asked = asked_of(scope)
        fault = self._fault(scope, asked)
        if fault is not None:
            self._audit.write(
                "refused", "?", asked.peer, f"{scope.get('method', 'websocket')} {scope['path']}: {fault[1]}"
            )
            await _refuse(scope, receive, send, *fault)
            return
        try:
            user = self._access.identify(asked)
        except SettingsError as error:  # the users file was damaged while we run
            await _refuse(scope, receive, send, 503, str(error))
            return
        if user is None and scope["path"] not in PUBLIC:
            await self._send_to_login(scope, asked, receive, send)
            return
        scope.setdefault("state", {}).update(user=user, asked=asked)
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
        else:
            await self._app(scope, self._bounded(scope, receive), _with_headers(scope, send, self._is_tls()))

    def _is_tls(self) -> bool:
        return self._settings.public_url.startswith("https:")

    def _fault(self, scope: Scope, asked: Asked) -> tuple[int, str] | None:
        """What is wrong with a request whoever asks: (status, what to do)."""
        host = asked.headers.get("host", "").lower()
        names = {own.strip("[]") for own in self._settings.hosts}
        if self._access.is_local and _place(f"//{host}")[0] not in names:
            return 421, f"This console is not {host}; open it as localhost, or set public_url."
        if scope["type"] == "http" and scope["method"] in _SAFE:
            return None
        origin = asked.headers.get("origin", "").lower()
        ours = {host, _place(self._settings.public_url)[1]} - {""}
        if origin and _place(origin)[1] not in ours:  # `null`, as a sandboxed frame sends, is no site of ours either
            return (
                403,
                "The request came from a page of another site; if the console lies behind a proxy, set public_url.",
            )
        if scope["type"] == "websocket":
            return None
        length = asked.headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > self._settings.max_body_bytes:
            return 413, f"A request has at most {self._settings.max_body_bytes:,} bytes."
        kind = asked.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json" and not scope["path"].startswith("/_nicegui_ws/"):
            return 415, "Send JSON, with the header Content-Type: application/json."
        return None

    async def _send_to_login(self, scope: Scope, asked: Asked, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "GET" and "text/html" in asked.headers.get("accept", ""):
            query = scope.get("query_string", b"").decode("latin-1")
            there = quote(scope["path"] + (f"?{query}" if query else ""), safe="/")
            await send(
                {
                    "type": "http.response.start",
                    "status": 303,
                    "headers": [(b"location", f"/login?next={there}".encode()), (b"content-length", b"0")],
                }
            )
            await send({"type": "http.response.body", "body": b""})
            return
        self._audit.write("refused", "?", asked.peer, f"{scope.get('method', 'websocket')} {scope['path']}: no login")
        await _refuse(
            scope,
            receive,
            send,
            401,
            "Log in at /login, or send Authorization: Bearer TOKEN (driftwood console --add-token NAME).",
        )

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """The same, but it ends a body that is too long or too slow."""
        if scope["method"] in _SAFE:
            return receive
        left = self._settings.max_body_bytes
        has_all = False

        async def bounded() -> Message:
            nonlocal left, has_all
            if has_all:  # what comes now is only that the client has gone
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), _BODY_S)
            except TimeoutError:
                return {"type": "http.disconnect"}
            if message["type"] == "http.request":
                left -= len(message.get("body", b""))
                has_all = not message.get("more_body", False)
                if left < 0:
                    return {"type": "http.disconnect"}
            return message

        return bounded


def user_of(scope: Scope) -> User:
    """Who asks, of a request that has passed the guard."""
    user: User = scope["state"]["user"]
    return user


def _with_headers(scope: Scope, send: Send, is_tls: bool) -> Send:
    path: str = scope["path"]
    is_plain = path.startswith(("/api/", "/login", "/static/", "/healthz", "/readyz"))
    extra = [*_HEADERS, ("content-security-policy", _STRICT if is_plain else _POLICY)]
    if not path.startswith(("/_nicegui/", "/static/")):
        extra.append(("cache-control", "no-store"))  # what a log said does not stay in a browser's cache
    if is_tls:
        extra.append(("strict-transport-security", "max-age=31536000"))
    encoded = [(name.encode(), value.encode()) for name, value in extra]

    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = {name.lower() for name, _ in encoded}
            message["headers"] = [*(pair for pair in message["headers"] if pair[0].lower() not in given), *encoded]
        await send(message)

    return answer


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, said: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": said[:120]})
        return
    body = orjson.dumps({"error": said})
    headers: Iterable[tuple[bytes, bytes]] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *((name.encode(), value.encode()) for name, value in _HEADERS),
        (b"cache-control", b"no-store"),
    ]
    if status == 401:
        headers = [*headers, (b"www-authenticate", b"Bearer")]
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})
