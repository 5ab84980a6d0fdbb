"""The job on its cluster, and the parts around it, judged. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flink_jobs.doctor.checks import Check, ago, many, some

SKEW_WARN_MS, SKEW_FAIL_MS = 2_000, 60_000


@dataclass(frozen=True, slots=True)
class Job:
    """A job as Flink tells of it.

    Attributes:
        state: RUNNING, RESTARTING, …
        since_ms: when it entered the state.
        restarts: since its start.
        checkpoint_ms: when the newest completed checkpoint was; None if none was.
        failed: checkpoints that failed.
        interval_ms: between two checkpoints.
        pressure: names of the operators under high backpressure.
        failure: the newest one's cause, and failure_ms when it was.
    """

    name: str
    state: str
    since_ms: int
    restarts: int = 0
    checkpoint_ms: int | None = None
    failed: int = 0
    interval_ms: int = 10_000
    pressure: Sequence[str] = ()
    failure: str = ""
    failure_ms: int = 0


def judge_job(job: Job | None, wanted: str, others: Sequence[str], now_ms: int) -> list[Check]:
    """Whether the job runs, keeps what it has done, and is not held up."""
    if job is None:
        said = f"; there are: {some(list(others))}" if others else ", nor any other"
        return [
            Check(
                "job",
                "fail",
                f"No job {wanted!r} runs on the cluster{said}.",
                "Start it with ./submit.sh run, or give its job_name.",
            )
        ]
    checks = []
    if job.state == "RUNNING":
        checks.append(
            Check("job", "ok", f"{job.name} runs since {ago(now_ms - job.since_ms)}, restarted {job.restarts} times.")
        )
    else:
        checks.append(
            Check(
                "job",
                "fail",
                f"{job.name} is {job.state}. Its last failure: {job.failure or 'none'}",
                "Look at the cause; the job's logs say more.",
            )
        )
    if job.failure and now_ms - job.failure_ms < 600_000 and job.state == "RUNNING":
        checks.append(
            Check(
                "restarts",
                "warn",
                f"It failed {ago(now_ms - job.failure_ms)} ago: {job.failure}",
                "Mend the cause: what it had done since the last checkpoint is done again.",
            )
        )
    checks.append(_judge_checkpoints(job, now_ms))
    if job.pressure:
        checks.append(
            Check(
                "backpressure",
                "warn",
                f"{some(list(job.pressure))} cannot hand on what they have made: something after them is too slow.",
                "A sink that is away or slow is the usual cause (Loki, Redis, Elastic); else raise the parallelism.",
            )
        )
    else:
        checks.append(Check("backpressure", "ok", "No operator is held up by the one after it."))
    return checks


def _judge_checkpoints(job: Job, now_ms: int) -> Check:
    allowed_ms = 3 * job.interval_ms + 30_000
    since_ms = max(job.since_ms, job.checkpoint_ms or 0)
    if job.checkpoint_ms is None and now_ms - job.since_ms <= allowed_ms:
        return Check("checkpoints", "ok", "No checkpoint has completed yet; the job has just started.")
    if now_ms - since_ms > allowed_ms:
        what = (
            "No checkpoint has completed"
            if job.checkpoint_ms is None
            else f"The last checkpoint completed {ago(now_ms - job.checkpoint_ms)} ago"
        )
        return Check(
            "checkpoints",
            "fail",
            f"{what}, {job.failed} failed; one is due every {job.interval_ms / 1000:g} s.",
            "Nothing is committed meanwhile: readers of committed topics see nothing new. Look for a sink that holds it up, and at the checkpoint folder.",
        )
    return Check("checkpoints", "ok", f"The last one completed {ago(now_ms - since_ms)} ago, {job.failed} failed.")


# ---- the parts around it


def judge_buffer(where: str, entries: Mapping[str, int], used_bytes: int, max_bytes: int, policy: str) -> list[Check]:
    """The training buffer in Redis: what is in it, and whether Redis may throw it away.

    Args:
        where: host and port.
        entries: by service.
        used_bytes: of Redis.
        max_bytes: its limit, 0 for none.
        policy: what it does at its limit.
    """
    name = f"redis {where}"
    empty = sorted(service for service, count in entries.items() if not count)
    what = f"{many(len(entries), 'service')}, {sum(entries.values()):,} entries, {used_bytes / 1e6:,.0f} MB in use."
    checks = []
    if not entries:
        checks.append(
            Check(
                name,
                "warn",
                "Redis answers, and holds no training buffer yet.",
                "Send lines through a job with this sink; check ?prefix=.",
            )
        )
    elif empty:
        checks.append(
            Check(
                name,
                "warn",
                f"{what} Nothing of {some(empty)}.",
                "Their templates are there and their sequences are gone: was a key deleted or evicted?",
            )
        )
    else:
        checks.append(Check(name, "ok", what))
    if max_bytes and used_bytes > 0.9 * max_bytes:
        checks.append(
            Check(
                name,
                "fail" if policy == "noeviction" else "warn",
                f"Redis has {used_bytes / max_bytes:.0%} of its memory in use.",
                "Raise maxmemory, or lower ?max_entries=.",
            )
        )
    if max_bytes and policy.startswith("allkeys"):
        checks.append(
            Check(
                name,
                "warn",
                f"maxmemory-policy is {policy}: Redis may drop a whole service's buffer.",
                "Set maxmemory-policy noeviction for this instance.",
            )
        )
    return checks


def judge_clocks(offsets_ms: Mapping[str, float]) -> list[Check]:
    """How far the clocks of others are from ours, by what they answered; positive: they are ahead."""
    if not offsets_ms:
        return [Check("clocks", "skipped", "Nothing that answered tells the time.")]
    checks = []
    for name, offset_ms in sorted(offsets_ms.items()):
        if abs(offset_ms) < SKEW_WARN_MS:
            continue
        side = "ahead of" if offset_ms > 0 else "behind"
        checks.append(
            Check(
                "clocks",
                "fail" if abs(offset_ms) >= SKEW_FAIL_MS else "warn",
                f"The clock of {name} is {abs(offset_ms) / 1000:,.1f} s {side} this machine's.",
                "Set both by NTP: lines are late or from the future otherwise, and Loki refuses them.",
            )
        )
    return checks or [
        Check("clocks", "ok", f"{', '.join(sorted(offsets_ms))}: within {SKEW_WARN_MS / 1000:g} s of this machine.")
    ]
