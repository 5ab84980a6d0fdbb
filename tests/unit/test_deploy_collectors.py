"""The collectors' configurations and the golden messages of tests/golden/parsing, which the parser reads, belong together."""

import base64
import json
import re
from pathlib import Path

import pytest
import yaml
from opentelemetry.proto.logs.v1.logs_pb2 import LogsData

ROOT = Path(__file__).parents[2]
COLLECTORS = ROOT / "docker" / "collectors"


def golden(name: str) -> dict:
    return json.loads((ROOT / "tests" / "golden" / "parsing" / f"{name}.json").read_text())


@pytest.mark.parametrize("name", ["files", "kubernetes"])
def test_the_golden_message_has_the_labels_that_alloy_sets(name):
    text = (COLLECTORS / f"{name}.alloy").read_text()
    labels = set(re.findall(r'target_label\s*=\s*"(\w+)"', text))
    data = LogsData.FromString(base64.b64decode(golden(f"alloy_{name}")["input_base64"]))
    record = data.resource_logs[0].scope_logs[0].log_records[0]
    attributes = {attribute.key for attribute in record.attributes}
    # The source's own: of files the name, of pods the instance.
    assert attributes == labels | {"loki.attribute.labels", {"files": "filename", "kubernetes": "instance"}[name]}
    assert 'encoding = "otlp_proto"' in text


def test_the_golden_records_have_the_keys_that_fluent_bit_sets():
    pipeline = yaml.safe_load((COLLECTORS / "fluent-bit-files.yaml").read_text())
    given = json.loads(golden("fluent_bit_files")["input"])
    source = pipeline["pipeline"]["inputs"][0]
    sink = pipeline["pipeline"]["outputs"][0]
    named = re.findall(r"\?<(\w+)>", pipeline["parsers"][0]["regex"])
    added = [each["record"].split()[0] for each in pipeline["pipeline"]["filters"] if each["name"] == "record_modifier"]
    assert given.keys() == {sink["timestamp_key"], source["path_key"], "log", *named, *added}
    assert re.fullmatch(pipeline["parsers"][0]["regex"].replace("?<", "?P<"), given["file"])[1] == given["service_name"]
    assert sink["message_key_field"] in given
    # Nine digits of a second.
    assert sink["timestamp_format"] == "iso8601_ns"
    assert re.search(r"\.\d{9}Z$", given["@timestamp"])


def test_every_collector_keeps_what_kafka_does_not_take():
    for path in COLLECTORS.glob("fluent-bit-*.yaml"):
        pipeline = yaml.safe_load(path.read_text())
        assert all(each["storage.type"] == "filesystem" for each in pipeline["pipeline"]["inputs"])
        for sink in pipeline["pipeline"]["outputs"]:
            assert sink["retry_limit"] == "no_limits"
            assert sink["rdkafka.acks"] == "all"
    for name in ("files", "kubernetes"):
        assert re.search(r"required_acks\s*=\s*-1", (COLLECTORS / f"{name}.alloy").read_text())


def test_every_alloy_configuration_is_closed_and_refers_to_what_it_has():
    paths = sorted(COLLECTORS.glob("*.alloy"))
    assert len(paths) == 3
    for path in paths:
        text = re.sub(r"//.*", "", path.read_text())
        bare = re.sub(r'"(?:\\.|[^"\\])*"', '""', text)
        assert all(bare.count(left) == bare.count(right) for left, right in ("{}", "[]", "()")), path.name
        components = {f"{kind}.{label}" for kind, label in re.findall(r'^([a-z_.]+) "(\w+)" \{', text, re.MULTILINE)}
        referred = re.findall(
            r"\b((?:loki|otelcol|discovery|local)\.[a-z_.]+)\.(?:receiver|input|output|targets)\b", bare
        )
        assert referred, path.name
        assert set(referred) <= components, path.name


def test_alloy_forwards_the_record_that_fluent_bit_writes():
    text = (COLLECTORS / "kafka-to-loki.alloy").read_text()
    given = json.loads(golden("fluent_bit_files")["input"])
    expressions = re.search(r"expressions = \{(.*)\}", text)
    assert expressions
    for name, path in re.findall(r'(\w+) = "((?:\\"|[^"])*)"', expressions[1]):
        assert (path.replace('\\"', "").strip() or name) in given, name
