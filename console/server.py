"""The web application: pages and routes behind one guard, fed by Kafka, served on one port."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from console import api
from console.feed import Event, Feed, Sender, apply
from console.guard import Guard
from console.parts import Console, assemble, now_ms
from console.settings import ConsoleSettings

if TYPE_CHECKING:
    import uvicorn

_STATIC: Final = Path(__file__).parent / "static"
_WS_BYTES: Final = 1 << 20


def routes(console: Console) -> FastAPI:
    """The plain HTTP routes behind the guard, without the pages."""
    app = FastAPI(
        title="Driftwood console",
        description="Triage of log anomalies. Send `Authorization: Bearer TOKEN`, or the session cookie of /login.",
        docs_url=None,  # its page would load scripts from elsewhere; the OpenAPI document is here
        redoc_url=None,
    )
    api.install(app, console)
    app.mount("/static", StaticFiles(directory=_STATIC), name="console-static")
    app.add_middleware(Guard, settings=console.settings, access=console.access, audit=console.audit)
    return app


def build(settings: ConsoleSettings) -> FastAPI:
    """The whole application; it reads Kafka while it is served.

    Raises:
        SettingsError: something that is named cannot be used.
    """
    from nicegui import app as pages_app
    from nicegui import ui

    from console import pages

    sender = Sender(settings)
    console = assemble(settings, sender.send)
    app = routes(console)
    pages.register(console)
    ui.add_head_html('<link rel="stylesheet" href="/static/console.css">', shared=True)
    ui.run_with(
        app,
        title="Driftwood",
        favicon=_STATIC / "favicon.svg",
        dark=None,
        language="en-US",
        tailwind=False,
        reconnect_timeout=30,
        show_welcome_message=False,
    )
    pages_app.on_exception(lambda error: logging.getLogger("driftwood.console").error("a page failed", exc_info=error))
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def deliver(events: list[Event]) -> None:
            loop.call_soon_threadsafe(apply, console.board, events)

        console.feed = Feed(settings, deliver, now_ms)
        console.feed.start()
        if console.store is not None:
            # Its libraries take seconds to load: now, rather than when the first page asks for versions.
            loop.run_in_executor(None, import_module, "models.artefact")
        try:
            async with inner(app):
                yield
        finally:
            await asyncio.to_thread(console.feed.stop)
            await asyncio.to_thread(sender.close)

    app.router.lifespan_context = lifespan
    return app


def server(settings: ConsoleSettings) -> uvicorn.Server:
    """The application on its port, ready to run."""
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            build(settings),
            host=settings.host,
            port=settings.port,
            log_level="warning",
            access_log=False,
            # The guard decides by the peer's own address whether a proxy is to be believed.
            proxy_headers=False,
            server_header=False,
            ws_max_size=_WS_BYTES,
            timeout_keep_alive=20,
            timeout_graceful_shutdown=3,
            limit_concurrency=1_000,
            h11_max_incomplete_event_size=64 << 10,
        )
    )
