"""Anomalies as Elasticsearch bulk requests, and what each item of the answer asks for.

`_id` is `<anomaly_id>-<revision>`, so a request sent twice writes each document once. OpenSearch speaks the same protocol.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson

from models.delivery import RetryParams, SinkUrl, anomalies, dead_letter, event_time_ms, is_passing, iso_ms
from models.errors import SettingsError

#: Source: Elasticsearch reference, "Create index": lower case, none of \ / * ? " < > | space , # : and no leading - _ +.
_INDEX = re.compile(r"(?![-_+.])[^A-Z\\/*?\"<>| ,#:]{1,255}")
MAX_ID_BYTES = 512


@dataclasses.dataclass(frozen=True)
class ElasticParams:
    """Where and how anomalies are written to Elasticsearch.

    `index` is one fixed name: an index, an alias or a data stream (which takes `operation` create only). No field of a
    record is ever part of it.
    """

    host: str
    index: str
    port: int = 9200
    is_tls: bool = False
    user: str = ""
    password: str = dataclasses.field(default="", repr=False)
    api_key: str = dataclasses.field(default="", repr=False)
    ca_file: str = ""
    operation: str = "create"
    batch_bytes: int = 5 << 20
    batch_documents: int = 2_000
    retry: RetryParams = dataclasses.field(default_factory=RetryParams)

    def __post_init__(self) -> None:
        wrong = []
        if not _INDEX.fullmatch(self.index):
            wrong.append(f"{self.index!r} is no index name (lower case, no / * ? , # : or spaces, no leading - _ + .)")
        if self.operation not in ("create", "index"):
            wrong.append("operation must be create or index")
        if self.api_key and self.user:
            wrong.append("give an api_key or a user with a password, not both")
        if wrong:
            raise SettingsError(f"The Elastic sink cannot be used: {'; '.join(wrong)}.")

    @classmethod
    def from_url(cls, url: str) -> ElasticParams:
        """The settings in an address: `elastic://[user:password@]host[:9200]/index?api_key=…`.

        `elastic+https://` speaks TLS. Other options: operation, ca_file, batch_bytes, deadline_s, timeout_s, max_tries.
        `api_key` is the encoded form that Elasticsearch shows (base64 of id:key); the plain `id:key` is encoded here.

        Raises:
            SettingsError: with every fault at once.

        >>> ElasticParams.from_url("elastic://es.example/anomalies?operation=index").index
        'anomalies'
        """
        at = SinkUrl(url, {"elastic": 9200, "elastic+http": 9200, "elastic+https": 9200})
        api_key = at.text("api_key")
        options: dict[str, Any] = {
            "host": at.host,
            "index": at.path.strip("/"),
            "port": at.port,
            "is_tls": at.is_tls,
            "user": at.user,
            "password": at.password,
            "api_key": base64.b64encode(api_key.encode()).decode() if ":" in api_key else api_key,
            "ca_file": at.text("ca_file"),
            "operation": at.text("operation", cls.operation),
            "batch_bytes": int(at.number("batch_bytes", cls.batch_bytes, 1024, 100 << 20)),
            "retry": at.retry(),
        }
        at.finish()
        return cls(**options)

    @property
    def base_url(self) -> str:
        """Scheme, host and port; no secret in it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.is_tls else ''}://{host}:{self.port}"


@dataclasses.dataclass(frozen=True, slots=True)
class Document:
    """One anomaly as two lines of a bulk request, and the anomaly itself for a dead letter."""

    lines: bytes
    source: Mapping[str, Any]
    raw: bytes


def documents(blob: bytes, params: ElasticParams) -> tuple[list[Document], list[bytes]]:
    r"""The documents of one JSON-lines element, and dead letters for lines that are no anomaly.

    `@timestamp` is added, as Kibana and data streams want it; a parameter's value becomes a text, since a field that is a
    number in one document and a text in the next is a mapping conflict.

    >>> documents(b'{"anomaly_id":"a","ts":0}', ElasticParams("h", "i"))[0][0].lines
    b'{"create":{"_id":"a-0"}}\n{"anomaly_id":"a","ts":0,"@timestamp":"1970-01-01T00:00:00.000Z"}\n'
    """
    found, letters = anomalies(blob)
    out = []
    for anomaly, raw in found:
        source = anomaly.get("source")
        source = source if isinstance(source, dict) else {}
        identity = f"{anomaly['anomaly_id']}-{anomaly.get('revision') or 0}"
        if len(identity.encode()) > MAX_ID_BYTES:
            detail = f"the anomaly's id is longer than the {MAX_ID_BYTES} bytes that Elasticsearch takes"
            letters.append(dead_letter("id_too_long", "elastic", detail, source, raw))
            continue
        document = dict(anomaly)
        if (time_ms := event_time_ms(anomaly.get("ts"))) is not None:
            document["@timestamp"] = iso_ms(time_ms)
        if isinstance(parameters := anomaly.get("parameters"), list):
            document["parameters"] = [_text_value(parameter) for parameter in parameters]
        action = orjson.dumps({params.operation: {"_id": identity}})
        out.append(Document(action + b"\n" + orjson.dumps(document) + b"\n", source, raw))
    return out, letters


def _text_value(parameter: Any) -> Any:
    if not isinstance(parameter, dict) or parameter.get("value") is None or isinstance(parameter["value"], str):
        return parameter
    return parameter | {"value": orjson.dumps(parameter["value"]).decode()}


def requests(found: Iterable[Document], params: ElasticParams) -> Iterator[list[Document]]:
    """The documents in requests within the batch limits, in their order."""
    batch: list[Document] = []
    size = 0
    for document in found:
        if batch and (size + len(document.lines) > params.batch_bytes or len(batch) >= params.batch_documents):
            yield batch
            batch, size = [], 0
        batch.append(document)
        size += len(document.lines)
    if batch:
        yield batch


def payload(batch: list[Document]) -> bytes:
    """The NDJSON body of one bulk request; its last line ends with a newline, as the API demands."""
    return b"".join(document.lines for document in batch)


class Action(enum.Enum):
    """What an answer of Elasticsearch to a whole request asks for."""

    ITEMS = "items"  # look at each item
    RETRY = "retry"
    HALVE = "halve"
    FAIL = "fail"


def decide(status: int, body: str) -> tuple[Action, str]:
    """What to do after an answer to a bulk request, with the text for a person; status 0 is no answer at all.

    A 200 says that the request was read, not that a document was stored: the items tell.

    >>> decide(200, "")[0].value, decide(413, "")[0].value, decide(429, "")[0].value
    ('items', 'halve', 'retry')
    """
    said = " ".join(body.split())[:500]
    if status == 200:
        return Action.ITEMS, ""
    if is_passing(status):
        return Action.RETRY, f"{status}: {said}"
    if status == 413:
        return Action.HALVE, said
    if status in (401, 403):
        return Action.FAIL, f"Elasticsearch refused the credentials ({status}: {said}). {_CREDENTIALS}"
    return Action.FAIL, f"Elasticsearch answered {status} ({said}). Check host, port and index of the Elastic sink."


_CREDENTIALS = "Check user and password or ?api_key= of the Elastic sink, and its right to write to the index."
#: Items that a later try may better: a full write queue, and an index closed for writing while a disk is full (the block
#: is lifted by itself once there is room; 429 since 7.x, 403 before).
_PASSING_ERRORS = frozenset(
    ("es_rejected_execution_exception", "cluster_block_exception", "circuit_breaking_exception")
)
#: Items that every document would meet, with the setting behind them.
_SETTING_ERRORS = {
    "security_exception": _CREDENTIALS,
    "index_not_found_exception": "Create the index, or allow action.auto_create_index for it.",
    "index_closed_exception": "Open the index, or name another.",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Sorted:
    """The documents of one request by what became of them. `fault` is set when a setting is wrong."""

    stored: int
    again: list[Document]
    letters: list[bytes]
    fault: str = ""


def sort_items(batch: list[Document], body: bytes) -> Sorted:
    """What became of each document, from the `items` of the answer, which are in the request's order.

    409 to `create` means that the document is there already: an earlier try stored it.

    Source: Elasticsearch reference, "Bulk API", response body.
    """
    try:
        items = orjson.loads(body)["items"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        items = None
    if not isinstance(items, list) or len(items) != len(batch):
        fault = (
            "Elasticsearch answered 200 without one item for each document. Is there another server at this address?"
        )
        return Sorted(0, [], [], fault)
    stored = 0
    again: list[Document] = []
    letters: list[bytes] = []
    for document, item in zip(batch, items, strict=True):
        ((operation, result),) = item.items()
        status = result.get("status", 0)
        error = result.get("error") or {}
        kind = error.get("type", "") if isinstance(error, dict) else str(error)
        if status in (200, 201) or (status == 409 and operation == "create"):
            stored += 1
        elif is_passing(status) or kind in _PASSING_ERRORS:
            again.append(document)
        elif kind in _SETTING_ERRORS or status in (401, 403):
            advice = _SETTING_ERRORS.get(kind, _CREDENTIALS)
            return Sorted(stored, again, letters, f"Elasticsearch refused a document ({status} {kind}). {advice}")
        else:
            detail = f"{status} {_why(error)}"[:1000]
            letters.append(dead_letter(kind or "refused", "elastic", detail, document.source, document.raw))
    return Sorted(stored, again, letters)


def _why(error: Any) -> str:
    """The error and its cause; the cause is where a mapping error says what was wrong."""
    if not isinstance(error, dict):
        return str(error)
    cause = error.get("caused_by")
    inner = f" ({cause.get('reason', '')})" if isinstance(cause, dict) else ""
    return f"{error.get('type', '')}: {error.get('reason', '')}{inner}"
