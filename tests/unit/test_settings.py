"""Settings: where a value comes from, and that every mistake is named before anything starts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flink_jobs import job
from flink_jobs.addresses import FileAddress, KafkaAddress, masked, parse_sink, parse_source
from flink_jobs.settings import load
from models.artefact import Artefact
from models.delivery import RetryParams
from models.errors import SettingsError
from models.fusion import FusionParams
from models.loki import LokiParams
from models.masking import MaskParams
from models.shard import ShardParams
from models.templates import TemplateParams
from models.training_buffer import RedisParams
from tests.unit.shop_model import shop_model

KAFKA = "kafka://localhost:9092/logs"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# -- precedence --------------------------------------------------------------------------------------------------------


def test_flags_come_before_the_environment_before_the_file_before_defaults(folder, monkeypatch):
    assert load().depth == 4
    (folder / "driftwood.toml").write_text("depth = 5\nshards = 16\nsim_th = 0.5\n")
    assert (load().depth, load().shards, load().sim_th) == (5, 16, 0.5)
    monkeypatch.setenv("DRIFTWOOD_DEPTH", "6")
    monkeypatch.setenv("DRIFTWOOD_SHARDS", "32")
    assert (load().depth, load().shards, load().sim_th) == (6, 32, 0.5)
    flagged = load(depth=7)
    assert (flagged.depth, flagged.shards, flagged.sim_th) == (7, 32, 0.5)


def test_a_named_file_takes_the_place_of_the_one_in_the_folder(folder, monkeypatch):
    (folder / "driftwood.toml").write_text("depth = 5\nshards = 16\n")
    (folder / "other.toml").write_text("depth = 6\n")
    named = load(Path("other.toml"))
    assert (named.depth, named.shards) == (6, 8)
    monkeypatch.setenv("DRIFTWOOD_DEPTH", "7")
    assert load(Path("other.toml")).depth == 7
    assert load(Path("other.toml"), depth=8).depth == 8


def test_a_flag_that_was_not_given_hides_nothing(monkeypatch):
    monkeypatch.setenv("DRIFTWOOD_SOURCE", f"{KAFKA} file:a.log")
    assert load(source=None, sink=[], model=None).source == (KAFKA, "file:a.log")
    assert load(source=["file:b.log"]).source == ("file:b.log",)


def test_groups_come_whole_from_one_place_and_their_keys_from_the_environment_too(folder, monkeypatch):
    (folder / "driftwood.toml").write_text('[session_patterns]\nshop = "order (\\\\d+)"\n')
    assert load().session_patterns == {"shop": r"order (\d+)"}
    monkeypatch.setenv("DRIFTWOOD_KAFKA_PROPERTIES__security.protocol", "SASL_SSL")
    assert load().kafka_properties["security.protocol"].get_secret_value() == "SASL_SSL"


@pytest.mark.parametrize("place", ["file", "flag"])
def test_an_unknown_key_is_an_error(folder, place):
    if place == "file":
        (folder / "driftwood.toml").write_text("dephts = 5\n")
    with pytest.raises(SettingsError, match="dephts"):
        load(**({"dephts": "5"} if place == "flag" else {}))


def test_all_mistakes_are_named_at_once():
    with pytest.raises(SettingsError) as caught:
        load(
            source=["http://x", f"{KAFKA}?start=noon"],
            sink=["file:", "redis://:secret@cache?ttl=1"],
            depth=1,
            guarantee="never",
        )
    text = str(caught.value)
    for part in ("http://x", "start=noon", "names no file", "ttl", "depth", "guarantee"):
        assert part in text
    assert "secret" not in text


def test_a_settings_file_that_is_not_there_is_an_error():
    with pytest.raises(SettingsError, match=r"nowhere\.toml does not exist"):
        load(Path("nowhere.toml"))


def test_what_is_shown_holds_no_secret():
    shown = str(
        load(
            source=[f"{KAFKA}?sasl.jaas.config=hush1"],
            sink=["redis://me:hush2@cache", "loki://h?token=hush3&tenant=shop", "elastic://h/i?api_key=hush4"],
            kafka_properties={"sasl.jaas.config": "hush5"},
            redaction_key="hush6",
        ).shown()
    )
    assert "hush" not in shown
    assert "tenant=shop" in shown
    assert masked("redis://:pw@h") == "redis://:***@h"


# -- who votes, and how often a false alert may come -------------------------------------------------------------------


@pytest.mark.parametrize("text", ["ngram,count", " ngram , count, "])
def test_the_detectors_that_vote_are_named_with_commas_between(monkeypatch, folder, text):
    assert load().detectors is None
    assert load(detectors=text).detectors == ("ngram", "count")
    monkeypatch.setenv("DRIFTWOOD_DETECTORS", text)
    assert load().detectors == ("ngram", "count")
    monkeypatch.delenv("DRIFTWOOD_DETECTORS")
    (folder / "driftwood.toml").write_text('detectors = ["ngram", "count"]\n')
    assert load().detectors == ("ngram", "count")


@pytest.mark.parametrize(
    ("flag", "message"), [("ngram,oracle", "no such detector: oracle; choose from deeplog, "), (",", "none given")]
)
def test_a_detector_that_does_not_exist_is_named_with_those_that_do(flag, message):
    with pytest.raises(SettingsError, match=f"detectors: .*{message}"):
        load(detectors=flag)


@pytest.mark.parametrize("budget", [0, -1, 10_001, "many"])
def test_a_budget_that_cannot_be_is_an_error(budget):
    with pytest.raises(SettingsError, match="budget_per_day"):
        load(budget_per_day=budget)


def test_detectors_and_budget_reach_the_core():
    fusion = job.core_params(load(detectors="ngram,count", budget_per_day=7))[1].fusion
    assert (fusion.detectors, fusion.budget_per_day) == (("ngram", "count"), 7)
    assert job.core_params(load())[1].fusion == FusionParams()


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "options"),
    [
        ("earliest", {"scan.startup.mode": "earliest-offset"}),
        ("latest", {"scan.startup.mode": "latest-offset"}),
        ("group", {"scan.startup.mode": "group-offsets"}),
        ("1706695200000", "1706695200000"),
        ("2024-01-31T10:00:00Z", "1706695200000"),
        ("2024-01-31T10:00:00", "1706695200000"),
        ("2024-01-31T12:00:00.5+02:00", "1706695200500"),
        ("2024-01-31T12:00:00%2B0200", "1706695200000"),
        ("2024-01-31", "1706659200000"),
    ],
)
def test_a_kafka_source_starts_where_it_is_told(start, options):
    if isinstance(options, str):
        options = {"scan.startup.mode": "timestamp", "scan.startup.timestamp-millis": options}
    assert KafkaAddress.source(f"{KAFKA}?start={start}").startup() == options


def test_a_kafka_source_starts_where_its_group_is_unless_told():
    assert KafkaAddress.source(KAFKA).startup() == {"scan.startup.mode": "group-offsets"}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (f"{KAFKA}?start=noon", "start=noon is unknown.*2024-01-31T10:00:00Z"),
        (f"{KAFKA}?start=", "start= is unknown"),
        (f"{KAFKA}?start=2024-13-31", "start=2024-13-31 is unknown"),
        (f"{KAFKA}?start=1706695200", "milliseconds"),
        (f"{KAFKA}?start=-5", "start=-5 is unknown"),
        (f"{KAFKA}?start=99999999999999999999", "is unknown"),
        (f"{KAFKA}?until=tomorrow", "until=latest"),
        (f"{KAFKA}?statr=latest", "no option statr; there are: group, start, until"),
        (f"{KAFKA}?rejects=x", "no option rejects"),
        (f"{KAFKA}?start=latest&start=earliest", "start is given twice"),
        (f"{KAFKA}?pattern=logs-.*", "topics and a pattern"),
        ("kafka://localhost:9092/", "no Kafka address"),
        ("kafka://me:pw@localhost:9092/logs", "sasl"),
        ("file:", "names no file"),
        ("file:app.log?folow=1", "no option folow; there are: follow"),
        ("file:app.log?rejects=x", "no option rejects"),
        ("file:app.log?follow=yes", "follow=yes.*follow=1"),
        ("file:app.log?follow=1&follow=0", "follow is given twice"),
        ("file:app.log.gz?follow=1", "compressed"),
        ("file:logs/app?.log", "%3F"),
        ("file:logs/app#1.log", "%23"),
        ("redis://localhost", "a source starts with one of kafka:, file:"),
        ("app.log", "a source starts with"),
    ],
)
def test_a_wrong_source_says_what_is_wrong(url, message):
    with pytest.raises(SettingsError, match=message):
        parse_source(url)
    with pytest.raises(SettingsError, match=message):
        load(source=[url])


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("kafka://h:1/a,b", "exactly one topic"),
        ("kafka://h:1/?pattern=a.*", "exactly one topic"),
        ("kafka://h:1/a?start=latest", "no option start; there are: incidents, rejects, status, templates, verdicts"),
        ("kafka://h:1/a?rejects=a", "two kinds of result to one topic"),
        ("kafka://h:1/templates", "two kinds of result to one topic"),
        ("file:out.jsonl?reject=x", "no option reject; there are: incidents, rejects, status, templates, verdicts"),
        ("file:out.jsonl?follow=1", "no option follow"),
        ("file:?rejects=x", "names no file"),
        ("file:out.jsonl?rejects=a&rejects=b", "rejects is given twice"),
        ("file:.", "is a folder"),
        ("loki://h?deadline_s=x", "deadline_s"),
        ("lokis://h", "a sink starts with one of kafka:, file:, loki:"),
        ("ftp://h/x", "a sink starts with"),
    ],
)
def test_a_wrong_sink_says_what_is_wrong(url, message):
    with pytest.raises(SettingsError, match=message):
        parse_sink(url)
    with pytest.raises(SettingsError, match=message):
        load(sink=[url])


def test_an_address_given_twice_is_an_error():
    with pytest.raises(SettingsError, match=r"'file:a\.log' is given twice"):
        load(source=["file:a.log", "file:b.log", "file:a.log"])


def test_every_kind_of_sink_is_read():
    urls = ["kafka://h:1/a", "file:out.jsonl", "loki+https://h", "redis://h", "rediss://h", "elastic+http://h/i"]
    kinds = [type(parse_sink(url)).__name__ for url in urls]
    assert kinds == ["KafkaAddress", "FileAddress", "LokiParams", "RedisParams", "RedisParams", "ElasticParams"]
    assert load(sink=urls).sink == tuple(urls)


def test_a_file_sink_writes_rejects_and_templates_beside_the_anomalies_unless_told(folder):
    plain = FileAddress.sink("file:out/anomalies.jsonl")
    assert plain.place("anomalies") == folder / "out/anomalies.jsonl"
    assert plain.place("rejects") == folder / "out/logs-rejected.jsonl"
    assert plain.place("templates") == folder / "out/templates.jsonl"
    assert plain.place("verdicts") is None
    told = FileAddress.sink("file:a.jsonl?rejects=/r.jsonl&templates=&verdicts=v.jsonl")
    assert [told.place(kind) for kind in ("rejects", "templates", "verdicts")] == [
        Path("/r.jsonl"),
        None,
        folder / "v.jsonl",
    ]


def test_a_kafka_sink_writes_rejects_and_templates_unless_told():
    plain = KafkaAddress.sink("kafka://h:1/a")
    assert [plain.place(kind) for kind in ("anomalies", "rejects", "templates", "verdicts")] == [
        "a",
        "logs-rejected",
        "templates",
        None,
    ]
    told = KafkaAddress.sink("kafka://h:1/a?rejects=&verdicts=v")
    assert [told.place(kind) for kind in ("rejects", "verdicts")] == [None, "v"]


def test_one_file_holds_one_kind_of_result():
    with pytest.raises(SettingsError, match=r"x\.jsonl would hold anomalies and rejects"):
        load(sink=["file:x.jsonl?rejects=x.jsonl"])
    with pytest.raises(SettingsError, match="would hold"):
        load(sink=["file:a.jsonl", "file:b.jsonl?verdicts=a.jsonl"])
    assert len(load(sink=["file:a.jsonl", "file:b.jsonl"]).sink) == 2  # both write the same rejects, once


@pytest.mark.parametrize("source", ["file:logs?follow=1", "file:logs/*.jsonl?follow=1", "file:logs/out.jsonl"])
def test_a_source_does_not_read_what_a_sink_writes(folder, source):
    (folder / "logs").mkdir()
    with pytest.raises(SettingsError, match="would be read by a source"):
        load(source=[source], sink=["file:logs/out.jsonl"])
    assert load(source=[source], sink=["file:results/out.jsonl"]).sink


# -- before the submission ---------------------------------------------------------------------------------------------


def test_a_sink_that_may_hold_a_checkpoint_too_long_is_an_error():
    patient = RetryParams(deadline_s=175, timeout_s=10)
    sinks = [KafkaAddress.sink("kafka://h:1/a"), LokiParams("h", retry=patient), RedisParams("h", retry=patient)]
    job.check_patience(sinks, 186)
    job.check_patience([LokiParams("h"), RedisParams("h")], 180)
    with pytest.raises(SettingsError, match=r"(?s)Loki: .*185 s.*180 s.*\nRedis: "):
        job.check_patience(sinks, 180)


def artefact(**other: object) -> Artefact:
    return replace(shop_model(), **other)


def shard(**other: object) -> ShardParams:
    return job.core_params(load(**other))[1]


def test_a_model_of_other_windows_is_told_with_what_follows_and_what_to_do():
    models = {"shop": artefact(), "web": artefact(session_gap_ms=60_000), "db": artefact(length=5)}
    gap, length = job.differences(models, shard())
    assert "session_gap_s is 86400 here" in gap
    assert "(web: 60)" in gap
    assert "(db: 5)" in length
    assert all("train again" in text for text in (gap, length))
    assert job.differences({"shop": artefact()}, shard()) == []


def test_a_model_of_lines_mined_in_another_way_is_told():
    models = {
        "shop": artefact(),
        "old": artefact(mining={}),
    }  # what an older model does not tell is not held against it
    assert job.differences(models, shard()) == []
    (depth,) = job.differences(models, shard(depth=6))
    assert depth.startswith("depth is not what it was in the training of shop (shop: 4)")
    depth, likeness, words = sorted(job.differences(models, shard(depth=6, sim_th=0.5, keep_words=["open"])))
    assert likeness.startswith("masking is not what it was in the training of shop:")
    assert words.startswith("sim_th is not what it was in the training of shop (shop: 0.4)")
    assert all("train again" in text for text in (depth, likeness, words))


@pytest.mark.parametrize(
    "other", [{"depth": 5}, {"sim_th": 0.7}, {"masking": MaskParams(keep_words=frozenset({"open"}))}]
)
def test_a_model_tells_how_its_lines_were_mined(other):
    mined = artefact(mining=TemplateParams(**other).mining())
    found = job.differences({"shop": mined}, shard())
    assert [text.split()[0] for text in found] == list(other)
    assert job.differences({"shop": mined}, ShardParams(templates=TemplateParams(**other))) == []
