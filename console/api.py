"""The plain HTTP routes: what the pages show and do, for programs. OpenAPI at /docs and /openapi.json."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from console.access import COOKIE, ForbiddenError, User
from console.board import Filter, Row
from console.commands import CommandError
from console.fields import mappings
from console.guard import user_of
from console.login import login_page
from console.parts import Console
from console.safe_text import csv_text, date_and_time
from models.errors import ArtefactError, DriftwoodError, SinkError


class NotHereError(DriftwoodError):
    """What was asked for is not, or no longer, known."""


_STATUS: tuple[tuple[type[DriftwoodError], int], ...] = (
    (ForbiddenError, 403),
    (CommandError, 422),
    (ArtefactError, 404),
    (NotHereError, 404),
    (SinkError, 503),
)
_EXPORT = (
    "time_utc", "service", "level", "label", "score", "detector", "message", "explanation",
    "session", "host", "template_id", "mode", "status", "marked_by", "marked_why", "fingerprint", "anomaly_id",
)  # fmt: skip


class Strict(BaseModel):
    """A body in which an unknown field is an error."""

    model_config = ConfigDict(extra="forbid")


class ScoreBody(Strict):
    """Lines to be scored by a service's model."""

    service: str = Field(min_length=1, max_length=200)
    lines: list[str] = Field(min_length=1, max_length=2_000)


class FeedbackBody(Strict):
    """What is said of an anomaly; or, with `label` missed, of a line of a service."""

    label: Literal["normal", "suppressed", "anomalous", "missed"]
    anomaly_id: str = Field(default="", max_length=64)
    service: str = Field(default="", max_length=200)
    message: str = Field(default="", max_length=8_000)
    before: str = Field(default="", max_length=8_000)
    why: str = Field(default="", max_length=1_000)
    span: Literal["1 h", "1 day", "ever"] = "ever"


class UndoBody(Strict):
    """The piece of feedback to take back; or, with its service, what that has in force: a muted pattern, a wanted line, a change of templates."""

    command_id: str = Field(min_length=1, max_length=64)
    service: str = Field(default="", max_length=200)
    why: str = Field(default="", max_length=1_000)


class EditBody(Strict):
    """A change of a service's templates: `join` takes template_id and into, `pin` template_id, `keep` word, `mask` name and pattern."""

    service: str = Field(min_length=1, max_length=200)
    action: Literal["join", "pin", "keep", "mask"]
    template_id: str = Field(default="", max_length=8)
    into: str = Field(default="", max_length=8)
    word: str = Field(default="", max_length=100)
    name: str = Field(default="", max_length=20)
    pattern: str = Field(default="", max_length=300)
    why: str = Field(default="", max_length=1_000)

    def fields(self) -> dict[str, str]:
        """What the command is made of."""
        return self.model_dump(include={"action", "template_id", "into", "word", "name", "pattern"})


class LoginBody(Strict):
    """Name and password."""

    name: str = Field(min_length=1, max_length=64)
    password: str = Field(min_length=1, max_length=1_024)


def _filter(
    service: str = "",
    detector: str = "",
    mode: Literal["", "live", "shadow"] = "",
    status: Literal["", "new", "strengthened", "refuted", "withdrawn"] = "",
    label: Literal["", "open", "normal", "suppressed", "anomalous", "muted"] = "",
    text: Annotated[str, Query(max_length=500)] = "",
    fingerprint: str = "",
    session: str = "",
    since_ms: Annotated[int, Query(ge=0)] = 0,
    until_ms: Annotated[int, Query(ge=0)] = 0,
    incident: str = "",
) -> Filter:
    """The filters of the list, as query parameters."""
    return Filter(service, detector, mode, status, label, text, fingerprint, session, since_ms, until_ms, incident)


Wanted = Annotated[Filter, Depends(_filter)]


def _user(request: Request) -> User:
    return user_of(request.scope)


Who = Annotated[User, Depends(_user)]


def install(app: FastAPI, console: Console) -> None:
    """Put the routes and the answers to errors into an application."""
    app.include_router(_open_routes(console))
    app.include_router(_routes(console))

    @app.exception_handler(DriftwoodError)
    async def _answer(_: Request, error: DriftwoodError) -> JSONResponse:
        status = next((code for kind, code in _STATUS if isinstance(error, kind)), 500)
        return JSONResponse({"error": str(error)}, status)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        faults = [f"{'.'.join(map(str, fault['loc'][1:]))}: {fault['msg']}" for fault in error.errors()]
        return JSONResponse({"error": "; ".join(faults)[:2_000]}, 422)


def _open_routes(console: Console) -> APIRouter:
    """What is reached without a login."""
    router = APIRouter(tags=["access"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The console runs."""
        return {"status": "ok"}

    @router.get("/readyz")
    async def readyz() -> Response:
        """The console has read its topics and the broker answers."""
        health = console.health
        return JSONResponse({"status": health.state, "said": health.said}, 200 if health.state == "live" else 503)

    @router.get("/login", include_in_schema=False)
    async def login_form(request: Request) -> Response:
        return Response(login_page(request.url.query), media_type="text/html")

    @router.post("/login")
    async def log_in(body: LoginBody, request: Request) -> Response:
        """Give a session cookie for name and password."""
        peer = request.scope["state"]["asked"].peer
        try:
            cookie = await asyncio.to_thread(console.access.log_in, body.name, body.password, peer)
        except ForbiddenError as error:
            console.audit.write("login_failed", body.name, peer, str(error))
            return JSONResponse({"error": str(error)}, 429)
        if cookie is None:
            console.audit.write("login_failed", body.name, peer)
            return JSONResponse({"error": "Name or password is wrong."}, 401)
        console.audit.write("login", body.name, peer)
        answer = JSONResponse({"name": body.name})
        # Lax: a link in a chat message opens the console with its session; what changes anything is JSON, which no other site can send.
        is_tls = console.settings.public_url.startswith("https:")
        hours = console.settings.session_hours
        answer.set_cookie(
            COOKIE, cookie, max_age=int(hours * 3_600), httponly=True, samesite="lax", secure=is_tls, path="/"
        )
        return answer

    return router


def _routes(console: Console) -> APIRouter:
    router = APIRouter(prefix="/api", tags=["triage"])
    board, desk = console.board, console.desk

    def shown(row: Row) -> dict[str, Any]:
        mark = board.marks.of(row.told.anomaly_id)
        told = row.told
        return {
            "anomaly_id": told.anomaly_id,
            "revision": told.revision,
            "status": told.status,
            "mode": told.mode,
            "ts": told.ts,
            "service": told.service,
            "level": told.level or None,
            "session": told.session or None,
            "score": told.score,
            "detectors": dict(told.votes),
            "message": told.message,
            "explanation": told.explanation,
            "fingerprint": told.fingerprint,
            "label": board.label(row),
            "marked_by": mark.given.by if mark else None,
            "command_id": mark.given.command_id if mark else None,
        }

    @router.get("/me")
    async def me(user: Who) -> dict[str, str]:
        """Who you are here."""
        return {"name": user.name, "role": user.role.name.lower(), "how": user.how}

    @router.post("/logout")
    async def log_out(user: Who, request: Request) -> Response:
        """End the session."""
        asked = request.scope["state"]["asked"]
        console.access.log_out(asked.cookie)
        console.audit.write("logout", user.name, asked.peer)
        answer = JSONResponse({})
        answer.delete_cookie(COOKIE, path="/")
        return answer

    @router.get("/anomalies")
    async def anomalies(
        wanted: Wanted,
        limit: Annotated[int, Query(ge=1, le=1_000)] = 100,
        before: Annotated[int | None, Query(ge=0)] = None,
    ) -> dict[str, Any]:
        """Anomalies, newest first; `before` of an answer asks for the next page."""
        page = board.page(wanted, limit, before)
        return {"anomalies": [shown(row) for row in page.rows], "before": page.before, "total": page.total}

    @router.get("/anomalies/{anomaly_id}")
    async def anomaly(anomaly_id: str) -> dict[str, Any]:
        """One anomaly: its newest record as on the topic, its revisions and its marks."""
        row = board.row(anomaly_id)
        if row is None:
            raise NotHereError(f"There is no such anomaly here; the console keeps the newest {board.most:,}.")
        marks = [
            {**mark.given.model_dump(mode="json"), "undone_by": mark.undone_by}
            for mark in board.marks.history(anomaly_id)
        ]
        revisions = [
            {name: getattr(telling, name) for name in ("revision", "status", "ts", "score", "strength")}
            for telling in row.tellings
        ]
        return {
            **shown(row),
            "record": row.record(),
            "revisions": revisions,
            "marks": marks,
            "explore_url": console.explore_url(row),
        }

    @router.get("/incidents")
    async def incidents(wanted: Wanted) -> list[dict[str, Any]]:
        """Incidents as the job tells of them (docs/incident.schema.json), open ones first; where it tells of none, anomalies grouped by fingerprint."""
        if len(board.incidents):
            return [incident.record() for incident in board.incidents_of(wanted)]
        return [
            {
                "fingerprint": group.newest.told.fingerprint,
                "count": group.count,
                "first_ts": group.first_ts,
                "last_ts": group.last_ts,
                "labels": dict(group.labels),
                "histogram": group.histogram,
                "newest": shown(group.newest),
            }
            for group in board.repeats(wanted)
        ]

    @router.get("/incidents/{incident_id}")
    async def incident(incident_id: str) -> dict[str, Any]:
        """One incident: its newest record as on the topic, and those of its anomalies that are here."""
        found = board.incidents.get(incident_id)
        if found is None:
            raise NotHereError("There is no such incident here; those told of last are kept.")
        return {"record": found.record(), "anomalies": [shown(row) for row in board.rows_in(found)]}

    @router.get("/services")
    async def services() -> list[dict[str, Any]]:
        """Every service with what the job says of it, and the precision by detector from feedback."""
        return [
            {
                "service": name,
                "status": board.statuses.get(name),
                "told_a_day": board.told_a_day(name),
                "precision": {
                    detector: {"right": found.right, "wrong": found.wrong, "ratio": found.ratio}
                    for detector, found in board.precision(name).items()
                },
            }
            for name in board.services()
        ]

    @router.post("/score")
    async def score(body: ScoreBody) -> dict[str, Any]:
        """Template, evidence and verdict of each line, by the service's model, with nothing before them."""
        lines = [line.encode("utf-8", "replace") for line in body.lines]
        version, answers = await asyncio.to_thread(console.scorer.score, body.service, lines)
        return {"service": body.service, "model_version": version, "lines": answers}

    @router.post("/feedback", status_code=202)
    async def feedback(body: FeedbackBody, user: Who) -> dict[str, Any]:
        """Say of an anomaly that it is normal, anomalous or to be suppressed; or of a line that it was missed."""
        if body.label == "missed":
            if not body.service:
                raise CommandError("A missed line needs its service.")
            command = await asyncio.to_thread(desk.missed, user, body.service, body.message, body.before, body.why)
        else:
            command = await asyncio.to_thread(desk.mark, user, body.anomaly_id, body.label, body.why, body.span)
        return {"command_id": command.command_id}

    @router.post("/undo", status_code=202)
    async def undo(body: UndoBody, user: Who) -> dict[str, Any]:
        """Take a piece of feedback, or what a service has in force, back."""
        if body.service:
            command = await asyncio.to_thread(desk.take_back, user, body.service, body.command_id, body.why)
        else:
            command = await asyncio.to_thread(desk.undo, user, body.command_id, body.why)
        return {"command_id": command.command_id}

    @router.get("/templates")
    async def templates(service: str) -> dict[str, Any]:
        """The templates of a service, what each counts as where it was joined, and the changes by hand that are in force."""
        joined = board.counts_as.get(service, {})
        found = [
            {"template_id": name, "template": text, "counts_as": joined.get(name)}
            for name, text in board.templates.get(service, {}).items()
        ]
        return {"templates": found, "edits": mappings(board.statuses.get(service, {}).get("edits"))}

    @router.post("/templates/preview")
    async def template_preview(body: EditBody, user: Who) -> dict[str, Any]:
        """What a change of templates would do to recent lines of the service; nothing is sent."""
        draft = desk.draft_edit(user, body.service, body.fields())
        return asdict(await asyncio.to_thread(console.preview, draft))

    @router.post("/templates", status_code=202)
    async def edit_template(body: EditBody, user: Who) -> dict[str, Any]:
        """Change the templates of a service by hand."""
        command = await asyncio.to_thread(desk.edit_template, user, body.service, body.fields(), body.why)
        return {"command_id": command.command_id}

    @router.get("/commands/{command_id}")
    async def command_answer(command_id: str) -> dict[str, str]:
        """How a command fared: sent, obeyed, refused, or waiting."""
        answer = desk.answer(command_id)
        return {"state": answer.state, "said": answer.said}

    @router.get("/export.csv", response_class=Response, responses={200: {"content": {"text/csv": {}}}})
    async def export(wanted: Wanted) -> Response:
        """All anomalies that the filter admits, as CSV, newest first; no cell of it is a formula."""
        text = await asyncio.to_thread(csv_text, _EXPORT, [_cells(console, row) for row in board.rows(wanted)])
        named = {"content-disposition": 'attachment; filename="anomalies.csv"'}
        return Response(text.encode("utf-8-sig"), media_type="text/csv; charset=utf-8", headers=named)

    @router.get("/workflow/{service}.svg", response_class=Response, responses={200: {"content": {"image/svg+xml": {}}}})
    async def workflow(service: str) -> Response:
        """The workflow that the service's model has learned, as a picture."""
        text = await asyncio.to_thread(_workflow, console, service)
        return Response(text, media_type="image/svg+xml")

    return router


def _cells(console: Console, row: Row) -> tuple[object, ...]:
    told, mark = row.told, console.board.marks.of(row.told.anomaly_id)
    return (
        date_and_time(told.ts), told.service, told.level, console.board.label(row), told.score, told.detector, told.message, told.explanation,
        told.session, told.host, told.template_id, told.mode, told.status,
        mark.given.by if mark else "", mark.given.why if mark else "", told.fingerprint, told.anomaly_id,
    )  # fmt: skip


def _workflow(console: Console, service: str) -> str:
    from models.detectors.workflow_picture import to_svg

    artefact = console.scorer.artefact(service)
    learned = artefact.learned.get("workflow")
    if learned is None:
        raise ArtefactError(f"The model of {service!r} has learned no workflow: its lines had too few sessions.")
    return to_svg(learned, artefact.names)
