"""A small service to watch: a catalogue of conditions in PostgreSQL, written with Django, that logs JSON lines.

Tags have intervals of validity, each with the address of a payload. One process, one file, nothing clever: what matters is its log.
"""

import json
import logging
import os
import sys
import time
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime

import django
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.http import JsonResponse
from django.urls import path

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
log = logging.getLogger("catalogue")


class JsonLines(logging.Formatter):
    """One JSON object a record, with the id of the request it belongs to."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as a line."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "request_id": request_id.get(),
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["message"] += "\n" + self.formatException(record.exc_info)
        return json.dumps({name: value for name, value in fields.items() if value is not None})


def configure() -> None:
    """Django's settings, from the environment."""
    logs = os.environ.get("LOG_FILE")
    file = {"class": "logging.handlers.RotatingFileHandler", "filename": logs, "maxBytes": 20_000_000, "backupCount": 2}
    handler = {"formatter": "json", **(file if logs else {"class": "logging.StreamHandler", "stream": sys.stdout})}
    settings.configure(
        SECRET_KEY=os.environ["SECRET_KEY"],
        ALLOWED_HOSTS=["localhost", "sample"],
        ROOT_URLCONF=__name__,
        MIDDLEWARE=[f"{__name__}.logged"],
        DATABASES={
            "default": {
                "ENGINE": os.environ.get("DATABASE_ENGINE", "django.db.backends.postgresql"),
                "HOST": os.environ.get("DATABASE_HOST", ""),
                "NAME": os.environ.get("DATABASE_NAME", "sample"),
                "USER": "sample",
                "PASSWORD": os.environ.get("DATABASE_PASSWORD", ""),
                "CONN_MAX_AGE": 60,
            }
        },
        LOGGING={
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"json": {"()": JsonLines}},
            "handlers": {"log": handler},
            "root": {"handlers": ["log"], "level": "INFO"},
        },
        USE_TZ=True,
    )
    django.setup()


def logged(get_response):
    """Logs every request with its outcome and how long it took."""

    def answer(request):
        if request.path == "/healthz":
            return get_response(request)
        request_id.set(uuid.uuid4().hex[:16])
        began = time.monotonic()
        log.info("%s %s accepted", request.method, request.path)
        response = get_response(request)
        log.info(
            "%s %s answered %d in %d ms",
            request.method,
            request.path,
            response.status_code,
            (time.monotonic() - began) * 1000,
        )
        request_id.set(None)
        return response

    return answer


def tables() -> None:
    """The tables, on first start."""
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS tag (name varchar(64) PRIMARY KEY)")
        cursor.execute(
            "CREATE TABLE IF NOT EXISTS validity (tag varchar(64), first_run int, url text, PRIMARY KEY (tag, first_run))"
        )


def healthz(request):
    """That the service answers."""
    return JsonResponse({"is_healthy": True})


def write(request, tag, first_run):
    """Stores an interval of validity; one that is there already is refused."""
    log.info("storing interval %s from run %d", tag, first_run)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO tag (name) VALUES (%s) ON CONFLICT DO NOTHING", [tag])
        cursor.execute(
            "INSERT INTO validity VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
            [tag, first_run, f"payload/{tag}/{first_run}.root"],
        )
        is_new = cursor.rowcount == 1
    if not is_new:
        log.warning("interval %s from run %d exists already", tag, first_run)
        return JsonResponse({"error": "exists"}, status=409)
    log.info("interval stored, cache of tag %s dropped", tag)
    return JsonResponse({"tag": tag, "first_run": first_run}, status=201)


def read(request, tag, run):
    """Gives the payload that is valid for a run."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT url FROM validity WHERE tag = %s AND first_run <= %s ORDER BY first_run DESC LIMIT 1", [tag, run]
        )
        row = cursor.fetchone()
    if row is None:
        log.warning("no payload of tag %s for run %d", tag, run)
        return JsonResponse({"error": "no payload"}, status=404)
    log.info("payload of tag %s for run %d found", tag, run)
    return JsonResponse({"url": row[0]})


def fault(request):
    """A fault to be found: the database is asked for a table that nobody made."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT * FROM calibration_backup")
    except Exception:
        log.exception("reading the calibration failed, falling back to the nominal values")
        return JsonResponse({"error": "calibration"}, status=500)
    return JsonResponse({})


urlpatterns = [
    path("healthz", healthz),
    path("fault", fault),
    path("tags/<slug:tag>/<int:run>", read),
    path("tags/<slug:tag>/<int:first_run>/new", write),
]

configure()
application = get_wsgi_application()
tables()
