"""Redaction: what goes, what stays, and that nothing raw is left anywhere."""

import json
import time

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.parsing import DEFAULT_RULES, IBAN_RULE, ParseParams, Raw, RedactionRule, all_rules, parse
from models.parsing.redaction import PLACEHOLDER, redactor_of
from models.parsing.rules import iban, luhn

KEY = b"0123456789abcdef"
REDACTOR = redactor_of(DEFAULT_RULES, KEY)

SECRETS = [
    ('{"user":"joe","password":"hun\\"ter2!"}', "hun"),
    (r'{"log":"{\"token\":\"abc def99\"}"}', "abc def99"),
    ("password=hunter2", "hunter2"),
    ("db_password: hunter2, ok", "hunter2"),
    ("--api-key hunter2 --verbose", "hunter2"),
    ('"client_secret" => "hunter2"', "hunter2"),
    ("x-api-key: 'hunt er2'", "hunt er2"),
    ("AccountKey=hunter2==;EndpointSuffix=core", "hunter2"),
    ("Server=db;Uid=app;Pwd=hunter2;", "hunter2"),
    ("Authorization: Basic aHVudGVyMg==", "aHVudGVyMg"),
    ("authorization=Bearer hunter2hunter2", "hunter2"),
    ('{"Authorization": ["Bearer hunter2hunter2"]}', "hunter2"),
    ('Authorization: Digest username="joe", realm="x", response="6629fae49393a05397450978507c4ef1"', "6629fae4"),
    ("got Bearer 6629fae49393a053 from header", "6629fae4"),
    ("Set-Cookie: sid=hunter2; Path=/", "hunter2"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N", "eyJzdWIi"),
    ("key AKIAIOSFODNN7EXAMPLE used", "AKIAIOSFODNN7EXAMPLE"),
    ("ghp_16C7e42F292c6912E7710c838347Ae178B4a pushed", "16C7e42F"),
    ("-----BEGIN RSA PRIVATE KEY-----\nMIIEhunter2\n-----END RSA PRIVATE KEY----- after", "MIIEhunter2"),
    ("-----BEGIN PRIVATE KEY-----\nMIIEhunter2 and no end", "MIIEhunter2"),
    ("postgres://app:hunter2@db:5432/x", "hunter2"),
    ("redis://:hunter2@cache", "hunter2"),
    ("mail from joe.doe+x@mail.example.com", "joe.doe"),
    ("card 4111 1111 1111 1111.", "4111 1111"),
    ("card 378282246310005,", "378282246310005"),
    ("amex 3782-822463-10005", "822463"),
]
HARMLESS = [
    "using password: YES",
    "token expired, Bearer authentication required",
    "max_tokens=100 tokens: 35",
    "PWD=/home/joe ; USER=root ; COMMAND=/bin/ls",
    "password=***",
    "client 10.0.0.7:8080 closed",
    "block_-4111111111111111 and id 1234-4111111111111111",
    "order 4111111111111112 of 1724000000123456789",
    "icon@2x.png loaded by Worker@774",
    "secret sauce and monkey=12, keyword: none",
]


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_a_secret_goes_and_its_surroundings_stay(text, secret):
    redacted = REDACTOR.redact(text)
    assert secret not in redacted
    assert PLACEHOLDER.search(redacted)
    assert REDACTOR.redact(redacted) == redacted
    assert REDACTOR.redact_column(pl.Series([text])) == {0: redacted}


@pytest.mark.parametrize("text", HARMLESS)
def test_a_text_without_secrets_stays_as_it_is(text):
    assert REDACTOR.redact(text) == text
    assert REDACTOR.redact_column(pl.Series([text])) == {}


WORDS = st.sampled_from(
    r"""password pwd token api|key authorization cookie bearer Basic = :| => " ' \\ \\n -- @ a.b eyJabcde AKIA hunter2 :// x é
    , ; [ { < > -----BEGIN|PRIVATE|KEY----- 4111111111111111 4111|1111 |1111|1111 <redacted:jwt:00000000> secret sk-
    0123456789abcdef0123 |""".replace("\n", " ").split(" ")
).map(lambda word: word.replace("|", " "))


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, max_size=14).map("".join))
def test_a_column_is_redacted_like_its_texts_and_twice_is_once(text):
    redacted = REDACTOR.redact(text)
    assert REDACTOR.redact_column(pl.Series([text])).get(0, text) == redacted
    assert REDACTOR.redact(redacted) == redacted


def test_equal_values_stay_equal_under_one_key_and_differ_under_another():
    first = REDACTOR.redact("password=hunter2")
    assert first.split("=")[1] == REDACTOR.redact('{"password":"hunter2"}').split('"')[3]
    assert first != redactor_of(DEFAULT_RULES, b"another key of 16")
    assert redactor_of(DEFAULT_RULES, b"").redact("password=hunter2") == "password=<redacted:secret:00000000>"


def test_a_placeholder_is_one_token():
    for text, _ in SECRETS:
        for found in PLACEHOLDER.findall(REDACTOR.redact(text)):
            assert len(found.split()) == 1


def batch(values):
    n = len(values)
    return Raw(values, "t", np.zeros(n, np.int32), np.arange(n), np.full(n, 1_700_000_000_000))


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_no_output_of_any_shape_holds_a_raw_secret(text, secret):
    record = {"ts": 1700000000, "msg": text, "host": text, "service": text, "session": text}
    values = [
        json.dumps(record).encode(),
        text.encode(),
        json.dumps({"log": json.dumps(record)}).encode(),
        json.dumps({"nothing": text}).encode(),
        json.dumps([{"a": text}, 1]).encode(),
        f"<34>Oct 11 22:14:15 host app[1]: {text}".encode(),
        b"\n\xff\xff" + text.encode(),
        (
            '{"nothing":"' + "".join(f"\\u{ord(c):04x}" if c.isalpha() else c for c in text if c not in '"\\\n') + '"}'
        ).encode(),
    ]
    records, rejects = parse(batch(values), ParseParams(redaction_key=KEY))
    outputs = [*records.message, *records.service, *filter(None, records.host), *filter(None, records.session)]
    outputs += [r.redacted_bytes.decode("latin-1") + r.detail for r in rejects]
    assert len(rejects) >= 3
    for output in outputs:
        assert secret not in output
        assert json.dumps(secret)[1:-1] not in output


def test_a_secret_across_the_cut_leaves_no_half_of_it():
    params = ParseParams(redaction_key=KEY, max_line_bytes=1000)
    for start in range(980, 1000):
        (text,) = parse(batch([b"x" * start + b" password=" + b"hunter2" * 5 + b" y" * 9000]), params)[0].message
        assert "hunter" not in text
        assert "…<cut at " in text


def test_cards_and_accounts_are_told_by_their_check_digits():
    assert luhn("5555555555554444")
    assert not luhn("5555555555554445")
    assert not luhn("0000000000000000")
    assert iban("GB29 NWBK 6016 1331 9268 19")
    assert not iban("GB29 NWBK 6016 1331 9268 18")
    redactor = redactor_of(all_rules([IBAN_RULE]), KEY)
    assert redactor.redact("to DE89 3704 0044 0532 0130 00 now").startswith("to <redacted:iban:")


def test_rules_are_settings():
    badge = RedactionRule("badge", r"\bB[0-9]{6}\b")
    params = ParseParams(redaction=all_rules([badge]), redaction_key=KEY)
    records, _ = parse(batch([b"badge B123456 at the door"]), params)
    assert records.message[0].startswith("badge <redacted:badge:")
    off, _ = parse(batch([b"password=hunter2"]), ParseParams(redaction=()))
    assert off.message == ["password=hunter2"]


@pytest.mark.parametrize(
    ("rule", "advice"),
    [
        (RedactionRule("Bad Name", "x"), "a name has"),
        (RedactionRule("x", "("), "no regular expression"),
        (RedactionRule("x", "(?<=a)b"), "give a hint"),
        (RedactionRule("x", "b", validator="nope"), "use one of"),
    ],
)
def test_a_wrong_rule_is_refused_with_advice(rule, advice):
    with pytest.raises(ValueError, match=advice):
        ParseParams(redaction=(rule,))


@pytest.mark.parametrize(
    "text",
    ["a" * 90_000, "eyJ-" * 25_000, "a@" * 12_000, "password=" * 10_000, "://a:" * 20_000, "-----BEGIN PRIVATE KEY" * 4_000,
     "authorization: digest " * 4_000, "cookie: a" * 10_000, "sk-" * 30_000, "4111 " * 20_000, "token:[" * 12_000, '\\"' * 12_000],
    ids=lambda t: t[:12],
)  # fmt: skip
def test_a_hostile_line_takes_no_more_than_linear_time(text):
    began = time.process_time()
    REDACTOR.redact_column(pl.Series([text]))
    REDACTOR.redact(text)
    assert time.process_time() - began < 2
