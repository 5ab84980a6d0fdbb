"""HTTP requests that wait out what passes and hand back every other answer."""

from __future__ import annotations

import base64
import dataclasses
import gzip
from collections.abc import Mapping
from datetime import UTC, datetime

import urllib3

from models.delivery import is_passing, retry_after_s
from udfs.clients.patience import Patience


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """Status and body; status 0 when there was no answer, with the reason as the body."""

    status: int
    body: bytes
    retry_after_s: float | None = None

    @property
    def text(self) -> str:
        """The body as text, whatever bytes it holds."""
        return self.body.decode(errors="replace")


def authorization(user: str, password: str, bearer: str = "", api_key: str = "") -> dict[str, str]:
    """The Authorization header for whichever credentials are given; none for none."""
    if bearer:
        return {"Authorization": f"Bearer {bearer}"}
    if api_key:
        return {"Authorization": f"ApiKey {api_key}"}
    if user:
        return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
    return {}


class HttpClient:
    """One connection, kept open, to one server.

    Args:
        base_url: scheme, host, port and path prefix.
        headers: sent with each request; secrets stay in here.
        ca_file: certificates to trust instead of the system's.
        patience: how long to wait for a server that does not take the request.
    """

    def __init__(self, base_url: str, headers: Mapping[str, str], ca_file: str, patience: Patience) -> None:
        self._base_url = base_url
        self._headers = dict(headers)
        self._patience = patience
        options = {"ca_certs": ca_file} if ca_file else {}
        self._pool = urllib3.PoolManager(maxsize=1, retries=False, **options)

    def post(self, path: str, body: bytes, content_type: str) -> Answer:
        """The answer to a gzipped POST, after as many waits as it took.

        Raises:
            SinkError: there was none, or only "try again", until the tries or the time were used up.
        """
        # mtime=0: the same payload is the same bytes, whenever it is sent. Level 1: JSON shrinks tenfold even so.
        packed = gzip.compress(body, compresslevel=1, mtime=0)
        return self._persist("POST", path, packed, {"Content-Type": content_type, "Content-Encoding": "gzip"}, {})

    def get(self, path: str, fields: Mapping[str, str]) -> Answer:
        """The answer to a GET, after as many waits as it took.

        Raises:
            DriftwoodError: of the patience's kind, as in `post`.
        """
        return self._persist("GET", path, None, {}, fields)

    def close(self) -> None:
        """Closes the connection."""
        self._pool.clear()

    def _persist(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], fields: Mapping[str, str]
    ) -> Answer:
        while True:
            answer = self._once(method, path, body, headers, fields)
            if not is_passing(answer.status):
                return answer
            self._patience.wait(f"{answer.status or 'no answer'}: {answer.text[:300].strip()}", answer.retry_after_s)

    def _once(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], fields: Mapping[str, str]
    ) -> Answer:
        timeout_s = self._patience.timeout_s
        try:
            response = self._pool.request(
                method,
                self._base_url + path,
                body=body,
                fields=dict(fields) or None,
                headers=self._headers | dict(headers),
                timeout=urllib3.Timeout(total=timeout_s),
                redirect=False,  # credentials are not carried elsewhere
            )
        except urllib3.exceptions.HTTPError as error:
            return Answer(0, f"{type(error).__name__}: {error}".encode())
        after_s = retry_after_s(response.headers.get("Retry-After"), datetime.now(UTC))
        return Answer(response.status, response.data, after_s)
