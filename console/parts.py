"""The parts of one console, put together once and given to the pages and the API."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from console.access import Access
from console.audit import Audit
from console.board import Board, Row
from console.commands import Desk, Send
from console.feed import Feed, Health
from console.lines import Source, source_of
from console.links import explore_url, lines_query
from console.scorer import Scorer
from console.settings import ConsoleSettings
from console.training import Trainings

if TYPE_CHECKING:
    from console.store import Store


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


@dataclass
class Console:
    """Everything that pages and routes ask; `feed` is None where a test fills the board itself."""

    settings: ConsoleSettings
    board: Board
    access: Access
    audit: Audit
    desk: Desk
    scorer: Scorer
    trainings: Trainings
    store: Store | None
    lines: Source | None
    feed: Feed | None = None

    @property
    def health(self) -> Health:
        """How the feed is."""
        return self.feed.health if self.feed is not None else Health("live", 0)

    def explore_url(self, row: Row) -> str:
        """Grafana Explore on the lines of an anomaly's request, or its service, around its time; empty without Grafana."""
        settings = self.settings
        if not settings.grafana_url:
            return ""
        query = lines_query(settings.loki_selector, settings.loki_service_label, row.told.service, row.told.session)
        return explore_url(settings.grafana_url, settings.grafana_datasource, query, row.told.ts)


def assemble(settings: ConsoleSettings, send: Send) -> Console:
    """A console with an empty board, not yet fed.

    Raises:
        SettingsError: users file, store or Redis address cannot be used; ArtefactError: the folder of models cannot.
    """
    client = None
    if settings.redis:
        from redis import Redis

        from models.errors import SettingsError

        try:
            client = Redis.from_url(settings.redis, socket_timeout=3, socket_connect_timeout=3)
        except ValueError as error:
            raise SettingsError(f"redis is {settings.redis.split('@')[-1]!r}: {error}") from error
    board = Board()
    audit = Audit(client, settings.redis_prefix, now_ms)
    store = None
    if settings.store:
        from console.store import Store

        store = Store(settings.store)
    return Console(
        settings=settings,
        board=board,
        access=Access(settings, time.time),
        audit=audit,
        desk=Desk(board, send, audit, now_ms),
        scorer=Scorer(board, store, settings.model),
        trainings=Trainings(client, settings.redis_prefix),
        store=store,
        lines=source_of(settings, board, now_ms),
    )
