"""The parts of one console, put together once and given to the pages and the API."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from console.access import Access
from console.audit import Audit
from console.board import Board, Row
from console.commands import Desk, Send
from console.feed import Feed, Health
from console.fields import mappings, number
from console.lines import Search, Source, source_of
from console.links import explore_url, lines_query
from console.marks import Mark
from console.scorer import Scorer
from console.settings import ConsoleSettings
from console.training import Trainings

if TYPE_CHECKING:
    from console.store import Store
    from console.template_preview import Preview
    from models.control import EditTemplate

#: A status that is so much younger than a command was written after the job read it.
_ANSWER_MS: Final = 10_000


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

    def missed(self, service: str, message: str) -> Mark | None:
        """Who called such a line missed, where the job has not refused that and, as far as it has said, still has it in force."""
        mark = self.board.marks.missed(service, message)
        if mark is None:
            return None
        given, status = mark.given, self.board.statuses.get(service, {})
        state = self.desk.answer(given.command_id).state
        if any(one.get("command_id") == given.command_id for one in mappings(status.get("wanted"))):
            return mark
        is_forgotten = state == "sent" and number(status, "at_ms") > given.version + _ANSWER_MS
        return None if state == "refused" or is_forgotten else mark

    def preview(self, draft: EditTemplate) -> Preview:
        """What a change of templates would do to recent lines of its service. Blocking: call it in a thread.

        Raises:
            SinkError: the lines cannot be looked for.
        """
        from console.template_preview import preview

        board, service = self.board, draft.service
        search = Search(service=service, unflagged_only=False)
        lines = self.lines.find(search) if self.lines is not None else []
        edits = mappings(board.statuses.get(service, {}).get("edits"))
        return preview(draft, [line.message for line in lines], dict(board.templates.get(service, {})), edits)

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
