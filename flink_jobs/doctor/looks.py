"""Asks each part of a deployment how it is; one that does not answer is a failed check, and the others are asked all the same."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

import orjson
import redis
import urllib3

from flink_jobs.addresses import parse_sink, parse_source
from flink_jobs.doctor.canary import is_canary
from flink_jobs.doctor.checks import Check, many, some
from flink_jobs.doctor.parts import Job, judge_buffer, judge_clocks, judge_job
from flink_jobs.doctor.topics import Lag, Topic, Wanted, judge_dead_letters, judge_lag, judge_services, judge_topics
from flink_jobs.kafka_client import security_keywords, topic_settings, unreachable
from flink_jobs.runtime.processes import ServiceError
from flink_jobs.runtime.rest import FlinkRest, causes
from flink_jobs.settings import KafkaAddress, Settings
from models.errors import DriftwoodError, SettingsError
from models.loki import LokiParams
from models.training_buffer import RedisParams
from udfs.clients.http import authorization
from udfs.clients.training_buffer import connect, read_services

if TYPE_CHECKING:
    from kafka import KafkaAdminClient, KafkaConsumer

_CONNECT_MS: Final = 10_000
_POLL_MS: Final = 500
_HTTP_S: Final = 10.0
_READ_S: Final = 30.0
#: Of the topics of dead letters and of status, the newest so many are read.
_NEWEST: Final = 20_000


@dataclass(frozen=True)
class Looks:
    """What is looked at.

    Attributes:
        settings: of the deployment.
        flink: address of the REST interface; empty to leave it out.
        newest: records of each source whose dead letters are counted.
        may_write: push one line to each Loki.
    """

    settings: Settings
    flink: str
    newest: int = 10_000
    may_write: bool = False

    def checks(self) -> Iterator[Check]:
        """All of them, as they are made."""
        offsets: dict[str, float] = {}
        models = yield from self._models()
        statuses: list[dict[str, Any]] | None = None
        for servers, wanted in self._wanted().items():
            found = yield from self._kafka(servers, wanted)
            statuses = found if found is not None else statuses
        if not self._wanted():
            yield Check("kafka", "skipped", "No kafka:// source or sink is configured.")
        if statuses is not None:
            yield from judge_services(statuses, _now_ms(), models=models)
        yield from self._flink(offsets)
        sinks = [parse_sink(url) for url in self.settings.sink]
        for sink in sinks:
            if isinstance(sink, RedisParams):
                yield from _redis(sink, offsets)
            elif isinstance(sink, LokiParams):
                yield from _loki(sink, offsets, may_write=self.may_write)
        for kind, name in ((RedisParams, "redis"), (LokiParams, "loki")):
            if not any(isinstance(sink, kind) for sink in sinks):
                yield Check(name, "skipped", f"No {name}:// sink is configured.")
        yield from judge_clocks(offsets)

    # ---- models

    def _models(self) -> Generator[Check, None, list[str] | None]:
        """The services with a model are what it returns; None where there is no folder."""
        place = self.settings.model
        if place is None:
            yield Check(
                "models",
                "skipped",
                "No model folder is configured: the job learns templates only, or takes its models from the store.",
            )
            return None
        from models.artefact import load_all

        try:
            artefacts = load_all(place)
        except DriftwoodError as error:
            yield Check("models", "fail", str(error), "Train again, or copy the whole folder anew.")
            return None
        if not artefacts:
            yield Check("models", "fail", f"{place} holds no model.", "Train one with driftwood train.")
            return []
        yield Check("models", "ok", f"{many(len(artefacts), 'model')} can be loaded: {some(sorted(artefacts))}.")
        return sorted(artefacts)

    # ---- Kafka

    def _sinks(self) -> list[KafkaAddress]:
        return [sink for sink in map(parse_sink, self.settings.sink) if isinstance(sink, KafkaAddress)]

    def _sources(self) -> list[KafkaAddress]:
        return [source for source in map(parse_source, self.settings.source) if isinstance(source, KafkaAddress)]

    def _wanted(self) -> dict[str, list[Wanted]]:
        """The topics in use, by bootstrap servers."""
        found: dict[str, list[Wanted]] = {}
        for source in self._sources():
            found.setdefault(source.servers, []).extend(Wanted(topic, "source") for topic in source.topics)
        for sink in self._sinks():
            for kind in ("anomalies", "rejects", "templates", "verdicts", "status"):
                if topic := sink.place(kind):
                    found.setdefault(sink.servers, []).append(
                        Wanted(topic, "kept" if kind in ("templates", "status") else "sink")
                    )
        if self.settings.control:
            control = KafkaAddress.control(self.settings.control)
            found.setdefault(control.servers, []).append(Wanted(control.topics[0], "control"))
        return found

    def _kafka(self, servers: str, wanted: Sequence[Wanted]) -> Generator[Check, None, list[dict[str, Any]] | None]:
        """The statuses on the status topic are what it returns; None without such a topic."""
        from kafka import KafkaAdminClient, KafkaConsumer
        from kafka.errors import KafkaError

        name = f"kafka {servers}"
        security: dict[str, Any] = {}
        try:
            security = security_keywords(
                {key: value.get_secret_value() for key, value in self.settings.kafka_properties.items()}
            )
            common = {"bootstrap_servers": servers.split(","), "bootstrap_timeout_ms": _CONNECT_MS, **security}
            with KafkaAdminClient(**common) as admin:
                brokers = len(admin.describe_cluster()["brokers"])
                yield Check(name, "ok", f"{many(brokers, 'broker')} there.")
                there = _topics(admin, [want.topic for want in wanted])
                yield from judge_topics(wanted, there, brokers=brokers, parallelism=self.settings.parallelism)
                consumer = KafkaConsumer(**common, enable_auto_commit=False, isolation_level="read_committed")
                try:
                    yield from self._records(admin, consumer, servers, there)
                    return self._statuses(consumer, servers, there)
                finally:
                    consumer.close()
        except SettingsError as error:
            yield Check(name, "fail", str(error), "Correct kafka_properties.")
        except (KafkaError, OSError, ValueError) as error:
            what, _, step = str(unreachable(servers, security, error)).partition("; ")
            yield Check(name, "fail", what, step)
        return None

    def _records(
        self, admin: KafkaAdminClient, consumer: KafkaConsumer, servers: str, there: dict[str, Topic]
    ) -> Iterator[Check]:
        from kafka import TopicPartition

        rejects = [
            topic for sink in self._sinks() if sink.servers == servers and (topic := sink.place("rejects")) in there
        ]
        letters = [letter for topic in rejects for letter in _read_newest(consumer, topic, _NEWEST)]
        for source in self._sources():
            group = source.options.get("group", self.settings.job_name)
            for topic in source.topics:
                if source.servers != servers or topic not in there:
                    continue
                partitions = [TopicPartition(topic, n) for n in range(there[topic].partitions)]
                consumer.assign(partitions)
                ends = consumer.end_offsets(partitions)
                begins = consumer.beginning_offsets(partitions)
                committed = _committed(admin, group, partitions)
                done = sum(committed.get(partition, begins[partition]) for partition in partitions)
                missing = sum(partition not in committed for partition in partitions)
                yield judge_lag(Lag(topic, group, done, sum(ends.values()), missing, len(partitions)))
                share = self.newest // len(partitions) + 1
                first = {p.partition: max(begins[p], committed.get(p, ends[p]) - share) for p in partitions}
                looked_at = sum(max(0, committed.get(p, ends[p]) - first[p.partition]) for p in partitions)
                recent = [
                    letter
                    for letter in letters
                    if letter.get("topic") == topic
                    and letter.get("offset", -1) >= first.get(letter.get("partition"), 1 << 62)
                ]
                if rejects:
                    yield judge_dead_letters(topic, looked_at, [letter for letter in recent if not is_canary(letter)])

    def _statuses(self, consumer: KafkaConsumer, servers: str, there: dict[str, Topic]) -> list[dict[str, Any]] | None:
        topics = [
            topic for sink in self._sinks() if sink.servers == servers and (topic := sink.place("status")) in there
        ]
        if not topics:
            return None
        newest: dict[str, dict[str, Any]] = {}
        for topic in topics:
            for status in _read_newest(consumer, topic, _NEWEST):
                if "service" in status:
                    newest[str(status["service"])] = status
        return list(newest.values())

    # ---- Flink

    def _flink(self, offsets: dict[str, float]) -> Iterator[Check]:
        if not self.flink:
            yield Check("flink", "skipped", "No address of a Flink cluster is given (--flink).")
            return
        rest = FlinkRest(self.flink)
        try:
            overview = rest.call("/jobs/overview")["jobs"]
            slots = rest.call("/overview")
            free = f"{slots['slots-available']} of {slots['slots-total']} slots are free"
            yield Check(
                "flink", "ok" if slots["slots-total"] else "fail", f"The cluster at {self.flink} answers; {free}."
            )
            running = [job for job in overview if job["state"] not in ("FINISHED", "CANCELED")]
            named = sorted(
                (job for job in running if job["name"] == self.settings.job_name), key=lambda job: job["start-time"]
            )
            yield from judge_job(
                _job(rest, named[-1]) if named else None,
                self.settings.job_name,
                sorted({job["name"] for job in running}),
                _now_ms(),
            )
            answer = urllib3.request("GET", f"{self.flink}/config", timeout=_HTTP_S, retries=False)
            if "Date" in answer.headers:
                offsets["flink"] = _offset_ms(answer.headers["Date"])
        except (ServiceError, urllib3.exceptions.HTTPError) as error:
            yield Check(
                "flink", "fail", str(error), "Start the cluster, or give the address of its JobManager with --flink."
            )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _offset_ms(date: str) -> float:
    """How far a Date header is ahead; it has whole seconds, of which the middle is taken."""
    moment = parsedate_to_datetime(date).astimezone(UTC).timestamp()
    return moment * 1000 + 500 - _now_ms()


def _topics(admin: KafkaAdminClient, names: Sequence[str]) -> dict[str, Topic]:
    """The topics that are there; those in question with their settings."""
    there = admin.list_topics()
    wanted = [name for name in dict.fromkeys(names) if name in there]
    settings = topic_settings(admin, wanted) if wanted else {}
    found = {name: Topic(0, 0) for name in there}
    for topic in admin.describe_topics(wanted) if wanted else ():
        replicas = min((len(p["replica_nodes"]) for p in topic["partitions"]), default=0)
        found[topic["name"]] = Topic(len(topic["partitions"]), replicas, settings.get(topic["name"], {}))
    return found


def _committed(admin: KafkaAdminClient, group: str, partitions: Sequence[Any]) -> dict[Any, int]:
    """The offsets that a group has committed."""
    from kafka.errors import CoordinatorNotAvailableError, GroupIdNotFoundError, NotCoordinatorError

    try:
        found = admin.list_group_offsets({group: list(partitions)})[group]
    # A broker that has never seen a group has no coordinator for it either.
    except (GroupIdNotFoundError, CoordinatorNotAvailableError, NotCoordinatorError):
        return {}
    return {partition: value.offset for partition, value in found.items() if value.offset >= 0}


def _read_newest(consumer: KafkaConsumer, topic: str, count: int) -> list[dict[str, Any]]:
    """The newest records of a topic that are JSON objects, in order of their offsets."""
    from kafka import TopicPartition

    partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
    consumer.assign(partitions)
    ends, begins = consumer.end_offsets(partitions), consumer.beginning_offsets(partitions)
    for partition in partitions:
        consumer.seek(partition, max(begins[partition], ends[partition] - count // len(partitions)))
    found: list[dict[str, Any]] = []
    deadline = time.monotonic() + _READ_S
    while any(consumer.position(p) < ends[p] for p in partitions) and time.monotonic() < deadline:
        for records in consumer.poll(timeout_ms=_POLL_MS, max_records=5_000).values():
            for record in records:
                try:
                    value = orjson.loads(record.value or b"null")
                except orjson.JSONDecodeError:
                    continue
                if isinstance(value, dict):
                    found.append(value)
    return found


def _job(rest: FlinkRest, entry: dict[str, Any]) -> Job:
    job = entry["jid"]
    checkpoints = rest.call(f"/jobs/{job}/checkpoints")
    newest = (checkpoints.get("latest") or {}).get("completed") or {}
    failures = rest.call(f"/jobs/{job}/exceptions").get("exceptionHistory", {}).get("entries", [])
    vertices = rest.call(f"/jobs/{job}")["vertices"]
    pressure = [
        vertex["name"]
        for vertex in vertices
        if rest.call(f"/jobs/{job}/vertices/{vertex['id']}/backpressure").get("backpressureLevel") == "high"
    ]
    state = rest.status(job)
    timestamps = rest.call(f"/jobs/{job}").get("timestamps", {})
    return Job(
        name=entry["name"],
        state=state,
        since_ms=int(timestamps.get(entry["state"]) or entry["start-time"]),
        restarts=rest.restarts(job),
        checkpoint_ms=newest.get("latest_ack_timestamp"),
        failed=int(checkpoints.get("counts", {}).get("failed", 0)),
        interval_ms=int(rest.call(f"/jobs/{job}/checkpoints/config").get("interval", 10_000)),
        pressure=pressure,
        failure=_last_cause(failures[0]["stacktrace"]) if failures else "",
        failure_ms=int(failures[0]["timestamp"]) if failures else 0,
    )


def _last_cause(trace: str) -> str:
    """The first cause of a failure, in one line."""
    said = [line for line in causes(trace).splitlines() if line.strip()]
    return (said[-1] if said else "")[:300]


def _redis(params: RedisParams, offsets: dict[str, float]) -> Iterator[Check]:
    where = f"{params.host}:{params.port}"
    try:
        with connect(params) as client:
            seconds, micros = client.time()
            offsets[f"redis {where}"] = seconds * 1000 + micros / 1000 - _now_ms()
            entries = {service: client.xlen(params.sequences_key(service)) for service in read_services(client, params)}
            memory = client.info("memory")
            yield from judge_buffer(
                where,
                entries,
                int(memory["used_memory"]),
                int(memory.get("maxmemory", 0)),
                str(memory.get("maxmemory_policy", "")),
            )
    except redis.exceptions.RedisError as error:
        yield Check(
            f"redis {where}",
            "fail",
            f"Redis does not answer as it should ({type(error).__name__}: {error}).",
            "Check that it runs, and user, password and rights.",
        )


def _loki(params: LokiParams, offsets: dict[str, float], *, may_write: bool) -> Iterator[Check]:
    name = f"loki {params.host}:{params.port}"
    headers = authorization(params.user, params.password, bearer=params.token)
    if params.tenant:
        headers["X-Scope-OrgID"] = params.tenant
    options: dict[str, Any] = {"ca_certs": params.ca_file} if params.ca_file else {}
    with urllib3.PoolManager(retries=False, timeout=_HTTP_S, headers=headers, **options) as pool:
        try:
            answer = pool.request("GET", f"{params.base_url}/loki/api/v1/labels")
            if date := answer.headers.get("Date"):
                offsets[name] = _offset_ms(date)
            if answer.status != 200:
                yield Check(
                    name,
                    "fail",
                    f"Loki answered {answer.status}: {_said(answer.data)}",
                    "Check ?tenant=, user and password or token, and that it is ready.",
                )
                return
            if not may_write:
                yield Check(name, "ok", "Loki answers; whether it takes lines was not tried (--write).")
                return
            line = [str(time.time_ns()), "driftwood doctor was here"]
            body = orjson.dumps({"streams": [{"stream": {"job": "driftwood-doctor"}, "values": [line]}]})
            pushed = pool.request(
                "POST",
                f"{params.base_url}/loki/api/v1/push",
                body=body,
                headers=headers | {"Content-Type": "application/json"},
            )
            if pushed.status == 204:
                yield Check(name, "ok", 'Loki answers and takes lines; one went to {job="driftwood-doctor"}.')
            else:
                yield Check(
                    name,
                    "fail",
                    f"Loki refused a line with {pushed.status}: {_said(pushed.data)}",
                    "Its limits or rights are in its answer.",
                )
        except urllib3.exceptions.HTTPError as error:
            yield Check(
                name,
                "fail",
                f"Loki at {params.base_url} does not answer ({type(error).__name__}).",
                "Check that it runs, and host, port and path prefix.",
            )


def _said(body: bytes) -> str:
    return " ".join(body.decode(errors="replace").split())[:200]
