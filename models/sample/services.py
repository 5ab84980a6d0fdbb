"""What each service of the shop can say, in which shape it is shipped, and what it does without being asked.

A step's text holds placeholders. A placeholder with a range in `draws` is drawn for each line; the others (order, user,
product…) come from the request. Texts of one service differ in their first two words, as a careful team writes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class StepSpec:
    """One kind of line: its level, its text, and the range of each number drawn for it."""

    level: str
    text: str
    draws: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A background job: the step it writes, how often, and when inside its period.

    Offsets are chosen so that no two jobs of a service fall together: the order of their lines is part of what is normal.

    Units:
        period_ms, offset_ms: milliseconds of event time.
    """

    step: str
    period_ms: int
    offset_ms: int


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A service: the collector's shape its lines arrive in (a name in `models.sample.shapes`), its steps and its jobs."""

    shape: str
    steps: dict[str, StepSpec]
    jobs: tuple[JobSpec, ...]


def _line(text: str, level: str = "INFO", **draws: tuple[int, int]) -> StepSpec:
    return StepSpec(level, text, draws)


PROBE = JobSpec("probed", 5_000, 0)
FLUSH = JobSpec("flushed", 15_000, 2_500)
_COMMON = {
    "probed": _line("Health probe answered ok in {ms} ms", ms=(1, 9)),
    "flushed": _line("Flushed {n} metrics to the collector in {ms} ms", n=(80, 140), ms=(4, 30)),
}

SERVICES: dict[str, ServiceSpec] = {
    "front": ServiceSpec(
        "flat_json",
        {
            "received": _line("Received {method} {path} from {ip}"),
            "accepted": _line("Session accepted for user {user}, idle for {s} s", s=(1, 900)),
            "anonymous": _line("Serving anonymous visitor {visitor}"),
            "experiment": _line("Experiment {n} assigned variant {v}", n=(11, 19), v=(1, 4)),
            "routed": _line("Routing request to upstream {upstream}, attempt {attempt}"),
            "busy": _line("Upstream {upstream} answered 503, trying again in {ms} ms", "WARN", ms=(50, 200)),
            "rendered": _line("Rendered view of {bytes} bytes in {ms} ms", bytes=(900, 90_000), ms=(2, 35)),
            "slow": _line("Slow request: {ms} ms against a budget of 400 ms", "WARN", ms=(401, 900)),
            "responded": _line("Responded {status} with {bytes} bytes in {ms} ms", bytes=(900, 90_000), ms=(20, 700)),
            "rotated": _line("Rotated access log, {n} lines archived", n=(500, 3_000)),
            "closed": _line("Connection of {ip} kept open for {s} s", s=(5, 60)),
            **_COMMON,
        },
        (PROBE, FLUSH, JobSpec("rotated", 30_000, 8_300)),
    ),
    "auth": ServiceSpec(
        "ecs",
        {
            "validating": _line("Validating credentials of client {user}"),
            "verified": _line("Signature verified with key {n} in {ms} ms", n=(1, 8), ms=(1, 6)),
            "cached": _line("Profile cache hit for user {user}"),
            "uncached": _line("Profile cache has nothing for user {user}, reading the store"),
            "row": _line("Read profile row {n} in {ms} ms", n=(1_000, 99_999), ms=(2, 25)),
            "scoped": _line("Granted {n} scopes until {s} s from now", n=(1, 6), s=(600, 3_600)),
            "audited": _line("Audit entry {n} written", n=(100_000, 999_999)),
            "login": _line("Login attempt of user {user} from {ip}"),
            "compared": _line("Compared password hash in {ms} ms", ms=(40, 90)),
            "mistyped": _line("Wrong password of user {user}, attempt {n} of 5", "WARN", n=(1, 2)),
            "second": _line("Second factor accepted for user {user}"),
            "issued": _line("Issued session for user {user}, valid for {s} s", s=(1_700, 3_600)),
            "purged": _line("Purged {n} expired sessions in {ms} ms", n=(0, 60), ms=(3, 40)),
            **_COMMON,
        },
        (PROBE, FLUSH, JobSpec("purged", 10_000, 6_400)),
    ),
    "catalogue": ServiceSpec(
        "logfmt",
        {
            "searching": _line("Searching products for term {term}, page {n}", n=(1, 9)),
            "opening": _line("Opening product {sku}"),
            "hit": _line("Cache hit for key {key}, age {s} s", s=(1, 300)),
            "miss": _line("Cache miss for key {key}"),
            "queried": _line("Query returned {n} rows in {ms} ms", n=(1, 60), ms=(4, 60)),
            "slow": _line("Slow query: {ms} ms, plan {n}", "WARN", ms=(400, 900), n=(1, 30)),
            "stored": _line("Stored {n} entries under key {key}", n=(1, 60)),
            "priced": _line("Priced {n} products in EUR", n=(1, 60)),
            "recommended": _line("Recommended {n} products beside {sku} in {ms} ms", n=(3, 9), ms=(5, 40)),
            "answered": _line("Answered with {n} items, {bytes} bytes", n=(1, 60), bytes=(400, 60_000)),
            "refreshed": _line("Refreshed price cache, {n} entries in {ms} ms", n=(900, 1_100), ms=(50, 180)),
            **_COMMON,
        },
        (PROBE, FLUSH, JobSpec("refreshed", 10_000, 8_700)),
    ),
    "cart": ServiceSpec(
        "kubernetes_text",
        {
            "opened": _line("Opened cart {cart} of user {user}"),
            "added": _line("Added {n} of {sku} to cart {cart}", n=(1, 5)),
            "price": _line("Price confirmed for {sku}: {price} EUR"),
            "available": _line("Availability confirmed for {sku} in warehouse {n}", n=(1, 9)),
            "frozen": _line("Frozen cart {cart} for checkout"),
            "voucher": _line("Voucher {n} takes {amount} EUR off", n=(10_000, 99_999), amount=(1, 20)),
            "totals": _line("Totals of cart {cart}: {n} lines, {total} EUR", n=(1, 9)),
            "lock": _line("Waited {ms} ms for the lock of cart {cart}", "WARN", ms=(50, 250)),
            "saved": _line("Saved cart {cart} as version {n}", n=(1, 40)),
            "emptied": _line("Emptied cart {cart} after order {order}"),
            "collected": _line("GC pause of {ms} ms, {n} MB freed", ms=(4, 30), n=(50, 400)),
            **_COMMON,
        },
        (PROBE, FLUSH, JobSpec("collected", 10_000, 6_800)),
    ),
    "orders": ServiceSpec(
        "otlp",
        {
            "drafted": _line("Created draft of order {order} for user {user}"),
            "address": _line("Address verified for order {order}, zone {n}", n=(1, 30)),
            "manual": _line("Zone table has no entry for order {order}, using nearest", "WARN"),
            "reserved": _line("Reserved stock for order {order}: {n} items", n=(1, 9)),
            "requested": _line("Requested payment of {total} EUR for order {order}"),
            "accepted": _line("Accepted payment {payment} for order {order}"),
            "confirmed": _line("Confirmed order {order} after {ms} ms", ms=(200, 900)),
            "published": _line("Published order {order} at offset {n}", n=(100_000, 999_999)),
            "scheduled": _line("Scheduled shipment {n} for order {order}", n=(10_000, 99_999)),
            "declined": _line("Payment declined for order {order}, issuer code {n}", "WARN", n=(5, 62)),
            "released": _line("Released stock of order {order}"),
            "unpaid": _line("Closed order {order} unpaid"),
            "swept": _line("Swept {n} stale drafts in {ms} ms", n=(0, 12), ms=(2, 25)),
            **_COMMON,
        },
        (PROBE, FLUSH, JobSpec("swept", 10_000, 7_600)),
    ),
    "payments": ServiceSpec(
        "millis_json",
        {
            "opened": _line("Opened payment {payment} of {total} EUR for order {order}"),
            "risk": _line("Risk score {n} computed in {ms} ms", n=(1, 60), ms=(3, 20)),
            "authorising": _line("Authorising {total} EUR with gateway {gateway}"),
            "gateway_busy": _line("Gateway {gateway} answered 503, trying again in {ms} ms", "WARN", ms=(80, 300)),
            "authorised": _line("Authorised payment {payment}, code {n}", n=(100_000, 999_999)),
            "refused": _line("Refused payment {payment}, issuer code {n}", "WARN", n=(5, 62)),
            "captured": _line("Captured {total} EUR of payment {payment}"),
            "booked": _line("Ledger entry {n} booked for payment {payment}", n=(100_000, 999_999)),
            "receipt": _line("Receipt {n} stored for payment {payment}", n=(100_000, 999_999)),
            "settled": _line("Settlement batch {n} holds {m} captures", n=(1_000, 9_999), m=(5, 60)),
            **_COMMON,
        },
        (PROBE, FLUSH, JobSpec("settled", 10_000, 9_100)),
    ),
    "stock": ServiceSpec(
        "kubernetes_cri",
        {
            "counting": _line("Counting units of {sku} in warehouse {n}", n=(1, 9)),
            "found": _line("Found {n} units of {sku}", n=(20, 400)),
            "holding": _line("Holding {n} units of {sku} for {s} s", n=(1, 5), s=(300, 900)),
            "picked": _line("Picked shelf {n} for {sku}", n=(100, 999)),
            "low": _line("Low level of {sku}, {n} left", "WARN", n=(1, 12)),
            "moved": _line("Movement {n} written for {sku}", n=(100_000, 999_999)),
            "unlocked": _line("Released lock on {sku} after {ms} ms", ms=(2, 40)),
            "reconciled": _line("Reconciled {n} shelves in {ms} ms", n=(20, 60), ms=(20, 90)),
            **_COMMON,
        },
        (PROBE, FLUSH, JobSpec("reconciled", 10_000, 9_600)),
    ),
    "mail": ServiceSpec(
        "journal",
        {
            "queued": _line("Queued confirmation of order {order}"),
            "addressed": _line("Addressed mail to {email}"),
            "body": _line("Body rendered, {bytes} bytes in {ms} ms", bytes=(2_000, 40_000), ms=(3, 30)),
            "connected": _line("Connected to relay {relay} in {ms} ms", ms=(8, 60)),
            "greylisted": _line("Relay {relay} asks to wait {s} s", "WARN", s=(1, 4)),
            "delivered": _line("Delivered mail {n} to relay {relay}", n=(100_000, 999_999)),
            "recorded": _line("Recorded delivery {n} of order {order}", n=(100_000, 999_999)),
            "depth": _line("Queue depth is {n} mails", n=(0, 25)),
            **_COMMON,
        },
        (PROBE, FLUSH, JobSpec("depth", 10_000, 7_200)),
    ),
}
