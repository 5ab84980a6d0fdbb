"""Pushes anomalies to Loki: one HTTP request after the other, as models/loki_answers.py says."""

from __future__ import annotations

from collections import deque

from models.errors import SinkError
from models.loki import Entry, LokiEntries, LokiParams, payload, requests
from models.loki_answers import Action, decide, resolve
from udfs.clients.http import HttpClient, authorization
from udfs.clients.patience import Patience

PUSH_PATH = "/loki/api/v1/push"
ADVICE = "The job restarts from its last checkpoint and sends the batch again. Check that Loki is up and takes lines."


class LokiClient:
    """A sink that holds nothing between two calls of `deliver` but its connection and the label values seen.

    Args:
        params: where and how.
        patience: the waits; tests give one that does not sleep.
    """

    def __init__(self, params: LokiParams, patience: Patience | None = None) -> None:
        self._params = params
        self._entries = LokiEntries(params)
        self._patience = patience or Patience(params.retry, f"Loki at {params.base_url}", ADVICE)
        headers = authorization(params.user, params.password, bearer=params.token)
        if params.tenant:
            headers["X-Scope-OrgID"] = params.tenant
        self._http = HttpClient(params.base_url, headers, params.ca_file, self._patience)
        self.sent = 0
        self.refused = 0

    @property
    def retried(self) -> int:
        """Requests that were sent again, so far."""
        return self._patience.retried

    def deliver(self, blob: bytes, /) -> list[bytes]:
        """Stores every anomaly of a JSON-lines element; gives the dead letters of those that Loki refuses.

        Raises:
            SinkError: Loki was away, or refused for a setting's sake. Everything must be delivered again.
        """
        entries, letters = self._entries.step(blob)
        work: deque[list[Entry]] = deque(requests(entries, self._params))
        self._patience.begin()
        while work:
            batch = work.popleft()
            answer = self._http.post(PUSH_PATH, payload(batch), "application/json")
            self._patience.went_through()
            decision = decide(answer.status, answer.text)
            if decision.action is Action.FAIL:
                raise SinkError(decision.detail)
            if decision.action is Action.STORED:
                self.sent += len(batch)
                continue
            again, refused = resolve(batch, decision)
            work.extendleft(reversed(again))
            letters += refused
        self.refused += len(letters)
        return letters

    def close(self) -> None:
        """Closes the connection."""
        self._http.close()
