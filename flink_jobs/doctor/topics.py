"""What the topics hold, judged: their settings, how far the job is, what it rejected, and what it tells of its services. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from flink_jobs.doctor.checks import Check, Verdict, many, some

#: A lag in records that takes a busy job some seconds, and one that takes it minutes or more.
LAG_WARN, LAG_FAIL = 100_000, 5_000_000
#: Of the newest records, the share that were no records.
REJECTED_WARN, REJECTED_FAIL = 0.01, 0.2
#: A service that learns for longer waits for something.
LEARNING_WARN_MS: Final = 24 * 3_600_000
#: The job tells of each service about every 10 s while lines come.
STATUS_OLD_MS: Final = 120_000
UNKNOWN_WARN: Final = 0.2
UNKNOWN_AFTER_LINES: Final = 1_000


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as the broker describes it."""

    partitions: int
    replicas: int
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_compacted(self) -> bool:
        """Whether it keeps the newest value of each key."""
        return "compact" in self.settings.get("cleanup.policy", "")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a topic is used for: `source`, `sink`, `kept` (a sink that is compacted) or `control`."""

    topic: str
    use: Literal["source", "sink", "kept", "control"]


def judge_topics(
    wanted: Sequence[Wanted], there: Mapping[str, Topic], *, brokers: int, parallelism: int | None
) -> list[Check]:
    """Whether the topics are there, with settings under which the job's promises hold."""
    checks = []
    for want in wanted:
        name, topic = f"topic {want.topic}", there.get(want.topic)
        if topic is None:
            step = (
                f"Create it, or correct --source; there are: {some(sorted(t for t in there if not t.startswith('__'))) or 'none'}."
                if want.use == "source"
                else "Start the job with create_topics=true, or create it by hand."
            )
            checks.append(Check(name, "fail", f"{want.topic} is not there.", step))
            continue
        found = list(_topic_faults(want, topic, brokers, parallelism))
        checks += [Check(name, verdict, what, step) for verdict, what, step in found]
        if not found:
            checks.append(
                Check(
                    name,
                    "ok",
                    f"{want.topic} has {many(topic.partitions, 'partition')} and {many(topic.replicas, 'replica')}.",
                )
            )
    return checks


def _topic_faults(want: Wanted, topic: Topic, brokers: int, parallelism: int | None) -> list[tuple[Verdict, str, str]]:
    faults: list[tuple[Verdict, str, str]] = []
    alter = f"kafka-configs --alter --entity-type topics --entity-name {want.topic} --add-config"
    if want.use == "kept" and not topic.is_compacted:
        faults.append(
            (
                "fail",
                f"{want.topic} is not compacted: what is told once is forgotten when its time is over.",
                f"{alter} cleanup.policy=compact",
            )
        )
    if want.use in ("source", "sink", "control") and topic.is_compacted:
        faults.append(
            (
                "fail",
                f"{want.topic} is compacted: records with an equal key push each other out.",
                f"{alter} cleanup.policy=delete",
            )
        )
    if want.use == "control" and topic.partitions != 1:
        faults.append(
            (
                "fail",
                f"{want.topic} has {topic.partitions} partitions: commands of one order would be read in another.",
                "Create it anew with one partition.",
            )
        )
    if want.use == "control" and topic.settings.get("retention.ms", "") != "-1":
        faults.append(
            (
                "warn",
                f"{want.topic} forgets commands after a while; a job that starts without state reads them all again.",
                f"{alter} retention.ms=-1",
            )
        )
    if want.use == "source" and parallelism is not None and topic.partitions < parallelism:
        faults.append(
            (
                "warn",
                f"{want.topic} has {topic.partitions} partitions for a parallelism of {parallelism}: {parallelism - topic.partitions} slots read nothing.",
                f"Give it {parallelism} partitions, keyed by service.",
            )
        )
    if topic.replicas < min(brokers, 2):
        faults.append(
            (
                "warn",
                f"{want.topic} has one replica on {brokers} brokers: it is lost with its broker.",
                "Reassign it with 3 replicas.",
            )
        )
    return faults


# ---- what the job has done


@dataclass(frozen=True, slots=True)
class Lag:
    """Of one source topic: `committed` and `end` are sums over its partitions; `uncommitted` has no commit yet."""

    topic: str
    group: str
    committed: int
    end: int
    uncommitted: int
    partitions: int


def judge_lag(lag: Lag) -> Check:
    """How far the job is behind its source, by its last checkpoint."""
    name = f"lag {lag.topic}"
    if lag.uncommitted == lag.partitions:
        verdict: Verdict = "fail" if lag.end else "warn"
        return Check(
            name,
            verdict,
            f"The group {lag.group} has committed nothing of {lag.topic}: no checkpoint of a job that reads it has completed yet.",
            "Start the job, or look at its checkpoints; if it reads under another name, give ?group= or job_name.",
        )
    behind = max(0, lag.end - lag.committed)
    what = f"The job is {behind:,} records behind the end of {lag.topic}, by its last checkpoint."
    if behind >= LAG_FAIL:
        return Check(
            name, "fail", what, "Raise the parallelism (and partitions), or find what holds it up: see backpressure."
        )
    if behind >= LAG_WARN:
        return Check(
            name,
            "warn",
            what,
            "Look again in a minute: a lag that shrinks is a backlog, one that grows needs more slots.",
        )
    return Check(name, "ok", what)


def judge_dead_letters(topic: str, newest: int, letters: Sequence[Mapping[str, Any]]) -> Check:
    """The share of the newest records of a source that became dead letters.

    Args:
        topic: the source.
        newest: how many records were looked at.
        letters: the dead letters of these, the canary's left out.
    """
    name = f"dead letters {topic}"
    if not newest:
        return Check(name, "skipped", f"{topic} holds no records.", "Send it some: driftwood replay, or a collector.")
    # A message of many records may have many dead letters, and blank messages are normal.
    rows = {
        (letter.get("partition"), letter.get("offset"))
        for letter in letters
        if letter.get("reason") not in ("empty", "tombstone")
    }
    reasons = Counter(str(letter.get("reason")) for letter in letters)
    ratio = len(rows) / newest
    said = "; ".join(f"{reason} {count}" for reason, count in reasons.most_common(3))
    what = f"{len(rows):,} of the newest {newest:,} messages of {topic} were rejected ({ratio:.1%}{': ' + said if said else ''})."
    if ratio < REJECTED_WARN:
        return Check(name, "ok", what)
    step = "Read the detail of the dead letters; most often text_fallback=json or a field name helps, or the topic holds something else."
    return Check(name, "fail" if ratio >= REJECTED_FAIL else "warn", what, step)


def judge_services(statuses: Sequence[Mapping[str, Any]], now_ms: int, *, models: Sequence[str] | None) -> list[Check]:
    """What the job tells of its services: who learns for too long, who is judged by an old model, who went quiet.

    Args:
        statuses: the newest status of each service.
        now_ms: the clock.
        models: services with a model, `default` among them; None where there is no folder to look at.
    """
    if not statuses:
        return [
            Check(
                "services",
                "warn",
                "The job tells of no service: no line came since it tells of them, or it runs without a status topic.",
                "Send lines, and look at the sink's status= option.",
            )
        ]
    names = [str(status["service"]) for status in statuses]
    modes = Counter(str(status.get("mode")) for status in statuses)
    checks = [
        Check(
            "services",
            "ok",
            f"{many(len(names), 'service')}: {', '.join(f'{n} {mode}' for mode, n in modes.most_common())}.",
        )
    ]
    stuck = [
        s
        for s in statuses
        if s.get("mode") == "learning" and s.get("is_auto", True) and now_ms - s["mode_since_ms"] > LEARNING_WARN_MS
    ]
    if stuck:
        checks.append(
            Check(
                "learning",
                "warn",
                f"Learning for more than a day: {some([str(s['service']) for s in stuck])}. {stuck[0]['service']} says: {stuck[0].get('why') or 'nothing'}",
                "Give them lines or time as they say; or train by hand (driftwood train) and set the mode (driftwood feedback).",
            )
        )
    newest_ms = max(int(s.get("at_ms", 0)) for s in statuses)
    if now_ms - newest_ms > STATUS_OLD_MS:
        checks.append(
            Check(
                "status",
                "warn",
                f"The job has told of no service for {(now_ms - newest_ms) / 1000:,.0f} s.",
                "If lines come, the job stands: see the checks of the job and its lag.",
            )
        )
    foreign = [
        s
        for s in statuses
        if s.get("unknown_ratio", 0) > UNKNOWN_WARN
        and s.get("model_version")
        and s.get("scored", 0) > UNKNOWN_AFTER_LINES
    ]
    if foreign:
        checks.append(
            Check(
                "models and lines",
                "warn",
                f"More than {UNKNOWN_WARN:.0%} of the newest lines of {some([str(s['service']) for s in foreign])} have templates that their model does not know.",
                "Train these services again: their logs have changed since.",
            )
        )
    if models is not None and "default" not in models:
        bare = sorted(s for s in set(names) - set(models) if not _has_model(statuses, s))
        if bare:
            checks.append(
                Check(
                    "services without a model",
                    "warn",
                    f"Without a model, and so not judged: {some(bare)}.",
                    "Train them, or one model for all of them with driftwood train --default.",
                )
            )
    return checks


def _has_model(statuses: Sequence[Mapping[str, Any]], service: str) -> bool:
    return any(status["service"] == service and status.get("model_version") for status in statuses)
