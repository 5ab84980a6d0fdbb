"""Writes anomalies to Elasticsearch: one bulk request after the other, as models/elastic.py says."""

from __future__ import annotations

from collections import deque
from urllib.parse import quote

from models.delivery import dead_letter
from models.elastic import Action, Document, ElasticParams, decide, documents, payload, requests, sort_items
from models.errors import SinkError
from udfs.clients.http import HttpClient, authorization
from udfs.clients.patience import Patience

ADVICE = "The job restarts from its last checkpoint and sends the batch again. Check that Elasticsearch is up and takes documents."


class ElasticClient:
    """A sink that holds nothing between two calls of `deliver` but its connection.

    Args:
        params: where and how.
        patience: the waits; tests give one that does not sleep.
    """

    def __init__(self, params: ElasticParams, patience: Patience | None = None) -> None:
        self._params = params
        self._path = f"/{quote(params.index, safe='')}/_bulk"
        self._patience = patience or Patience(params.retry, f"Elasticsearch at {params.base_url}", ADVICE)
        headers = authorization(params.user, params.password, api_key=params.api_key)
        self._http = HttpClient(params.base_url, headers, params.ca_file, self._patience)
        self.sent = 0
        self.refused = 0

    @property
    def retried(self) -> int:
        """Requests that were sent again, so far."""
        return self._patience.retried

    def deliver(self, blob: bytes, /) -> list[bytes]:
        """Stores every anomaly of a JSON-lines element; gives the dead letters of those that Elasticsearch refuses.

        Raises:
            SinkError: it was away, or refused for a setting's sake. Everything must be delivered again.
        """
        found, letters = documents(blob, self._params)
        work: deque[list[Document]] = deque(requests(found, self._params))
        self._patience.begin()
        while work:
            batch = work.popleft()
            answer = self._http.post(self._path, payload(batch), "application/x-ndjson")
            action, detail = decide(answer.status, answer.text)
            if action is Action.FAIL:
                raise SinkError(detail)
            if action is Action.HALVE:
                letters += self._halve(batch, detail, work)
                continue
            result = sort_items(batch, answer.body)
            if result.fault:
                raise SinkError(result.fault)
            self.sent += result.stored
            letters += result.letters
            if result.again:
                work.appendleft(result.again)
                self._patience.wait(f"{len(result.again)} of {len(batch)} documents were put off")
            else:
                self._patience.went_through()
        self.refused += len(letters)
        return letters

    def _halve(self, batch: list[Document], detail: str, work: deque[list[Document]]) -> list[bytes]:
        if len(batch) == 1:
            return [dead_letter("too_large", "elastic", detail, batch[0].source, batch[0].raw)]
        middle = len(batch) // 2
        work.extendleft((batch[middle:], batch[:middle]))
        return []

    def close(self) -> None:
        """Closes the connection."""
        self._http.close()
