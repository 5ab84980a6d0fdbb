"""Asks a Loki for ranges of lines: page by page for `driftwood tail-loki`, as raw records for `driftwood train loki://…`."""

from __future__ import annotations

from collections.abc import Iterator

from models.errors import DataSetError
from models.logql import ENCODING_HEADER, QUERY_PATH, Cursor, LokiQuery, request, step
from udfs.clients.http import HttpClient, authorization
from udfs.clients.patience import Patience


class LokiPages:
    """Answers of one Loki to range queries.

    Args:
        query: where it is, and how it is logged in to.
        patience: the waits between tries.
        is_fresh: ask for no cached answer, which may be older than lines that came late.
    """

    def __init__(self, query: LokiQuery, patience: Patience, *, is_fresh: bool = False) -> None:
        self._patience = patience
        headers = ENCODING_HEADER | authorization(query.user, query.password, bearer=query.token)
        if is_fresh:
            headers["Cache-Control"] = "no-cache"
        if query.tenant:
            headers["X-Scope-OrgID"] = query.tenant
        self._http = HttpClient(query.base_url, headers, query.ca_file, patience)

    def get(self, fields: dict[str, str]) -> bytes:
        """The body of one answer.

        Raises:
            DataSetError: Loki was away for too long, or refused the query.
        """
        self._patience.begin()
        answer = self._http.get(QUERY_PATH, fields)
        if answer.status != 200:
            raise DataSetError(
                f"Loki did not read the range ({answer.status}: {' '.join(answer.text.split())[:500]}). "
                "Check the query, user and password or token, ?tenant=, and ?limit=."
            )
        return answer.body

    def close(self) -> None:
        """Closes the connection."""
        self._http.close()


class LokiReader:
    """An iterator of raw JSON records, oldest first, each once.

    To stop and go on later, take `pages()` and keep `cursor` after each: a reader built with it goes on from there.

    Args:
        query: what to read, and where.
        cursor: where to start; the query's start when None.
        patience: the waits; tests give one that does not sleep.
    """

    def __init__(self, query: LokiQuery, cursor: Cursor | None = None, patience: Patience | None = None) -> None:
        self._query = query
        self.cursor = cursor or Cursor(query.start_ns)
        advice = "Check that Loki is up, then start again."
        self._loki = LokiPages(
            query, patience or Patience(query.retry, f"Loki at {query.base_url}", advice, DataSetError)
        )

    def pages(self) -> Iterator[list[bytes]]:
        """The records of one request after the other; when one is given, `cursor` stands behind it.

        Raises:
            DataSetError: Loki was away for too long, or refused the query.
        """
        while (fields := request(self._query, self.cursor)) is not None:
            records, self.cursor = step(self._query, self.cursor, self._loki.get(fields))
            if records:
                yield records
        self._loki.close()

    def __iter__(self) -> Iterator[bytes]:
        for records in self.pages():
            yield from records
