from __future__ import annotations

import base64
from typing import Any

import orjson
import pytest

from models.elastic import Action, Document, ElasticParams, decide, documents, payload, requests, sort_items
from models.errors import SettingsError

PARAMS = ElasticParams("h", "anomalies")


def made(*numbers: int, **fields: Any) -> list[Document]:
    lines = [
        orjson.dumps({"anomaly_id": f"a{n}", "revision": 0, "ts": 1000 + n, "source": {"offset": n}} | fields)
        for n in numbers
    ]
    got, letters = documents(b"\n".join(lines), PARAMS)
    assert letters == []
    return got


def answer(*results: dict[str, Any], operation: str = "create") -> bytes:
    return orjson.dumps({"took": 1, "errors": True, "items": [{operation: result} for result in results]})


def test_a_bulk_body_is_pairs_of_lines_ending_in_a_newline():
    body = payload(made(1, 2))
    assert body.endswith(b"\n")
    lines = [orjson.loads(line) for line in body.splitlines()]
    assert lines[0] == {"create": {"_id": "a1-0"}}
    assert lines[1]["@timestamp"] == "1970-01-01T00:00:01.001Z"
    assert [line["create"]["_id"] for line in lines[::2]] == ["a1-0", "a2-0"]


def test_each_revision_is_a_document_of_its_own():
    assert b'"_id":"a1-2"' in payload(made(1, revision=2))


def test_values_of_parameters_are_texts_whatever_they_were():
    (document,) = made(1, parameters=[{"value": 5}, {"value": "x"}, {"value": None}, {"value": [1]}])
    values = [parameter["value"] for parameter in orjson.loads(document.lines.splitlines()[1])["parameters"]]
    assert values == ["5", "x", None, "[1]"]


def test_an_id_too_long_for_elastic_becomes_a_dead_letter():
    _, (letter,) = documents(orjson.dumps({"anomaly_id": "x" * 600}), PARAMS)
    assert orjson.loads(letter)["reason"] == "id_too_long"


def test_requests_stay_within_their_limits_and_lose_nothing():
    params = ElasticParams("h", "i", batch_bytes=300, batch_documents=3)
    batches = list(requests(made(*range(10)), params))
    assert all(len(batch) <= 3 for batch in batches)
    assert all(len(payload(batch)) <= 300 or len(batch) == 1 for batch in batches)
    assert b"".join(payload(batch) for batch in batches) == payload(made(*range(10)))


@pytest.mark.parametrize(
    ("status", "action"),
    [
        (200, Action.ITEMS),
        (413, Action.HALVE),
        (429, Action.RETRY),
        (503, Action.RETRY),
        (0, Action.RETRY),
        (401, Action.FAIL),
        (400, Action.FAIL),
        (404, Action.FAIL),
    ],
)
def test_each_answer_has_its_action(status: int, action: Action):
    assert decide(status, "why")[0] is action


def test_refused_credentials_name_the_settings():
    assert "api_key" in decide(401, "")[1]


def test_items_are_stored_put_off_or_refused_one_by_one():
    mapping = {
        "type": "document_parsing_exception",
        "reason": "failed to parse field [ts]",
        "caused_by": {"type": "illegal_argument_exception", "reason": "not a date"},
    }
    result = sort_items(
        made(0, 1, 2, 3, 4, 5),
        answer(
            {"_id": "a0-0", "status": 201, "result": "created"},
            {"_id": "a1-0", "status": 409, "error": {"type": "version_conflict_engine_exception", "reason": "exists"}},
            {"_id": "a2-0", "status": 400, "error": mapping},
            {"_id": "a3-0", "status": 429, "error": {"type": "es_rejected_execution_exception", "reason": "full"}},
            {"_id": "a4-0", "status": 403, "error": {"type": "cluster_block_exception", "reason": "disk is full"}},
            {"_id": "a5-0", "status": 503, "error": {"type": "unavailable_shards_exception", "reason": "no shard"}},
        ),
    )
    assert result.stored == 2
    assert [document.source["offset"] for document in result.again] == [3, 4, 5]
    (letter,) = [orjson.loads(letter) for letter in result.letters]
    assert (letter["reason"], letter["offset"]) == ("document_parsing_exception", 2)
    assert "not a date" in letter["detail"]
    assert result.fault == ""


def test_a_conflict_on_index_is_no_success():
    result = sort_items(made(0), answer({"status": 409, "error": {"type": "version_conflict"}}, operation="index"))
    assert (result.stored, len(result.letters)) == (0, 1)


@pytest.mark.parametrize(
    ("status", "kind", "word"),
    [(403, "security_exception", "api_key"), (404, "index_not_found_exception", "auto_create_index")],
)
def test_a_refusal_that_every_document_would_meet_is_a_fault_of_the_settings(status: int, kind: str, word: str):
    result = sort_items(made(0), answer({"status": status, "error": {"type": kind, "reason": "x"}}))
    assert word in result.fault


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"items":[]}', b"[]"])
def test_an_answer_that_is_not_elastics_is_a_fault(body: bytes):
    assert "another server" in sort_items(made(0), body).fault


def test_an_address_names_everything_and_its_secrets_stay_out_of_sight():
    params = ElasticParams.from_url("elastic+https://es.example:9243/anomalies-prod?api_key=id:topsecret")
    assert params.base_url == "https://es.example:9243"
    assert params.index == "anomalies-prod"
    assert base64.b64decode(params.api_key) == b"id:topsecret"
    assert params.api_key not in repr(params)
    assert ElasticParams.from_url("elastic://me:pw@h/i").password == "pw"
    assert "pw" not in repr(ElasticParams.from_url("elastic://me:pw@h/i"))


@pytest.mark.parametrize("index", ["", "Upper", "a/b", "a*", "_hidden", "a b", "a,b", ".."])
def test_a_name_that_is_no_index_is_refused(index: str):
    with pytest.raises(SettingsError, match="index name"):
        ElasticParams("h", index)


def test_two_kinds_of_credentials_are_refused():
    with pytest.raises(SettingsError, match="not both"):
        ElasticParams("h", "i", user="u", api_key="k")
