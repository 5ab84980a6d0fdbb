"""A made-up incident, for a message that proves a route."""

from __future__ import annotations

import orjson

from models.alerts.incident import Incident, Told
from models.alerts.outbox import Notice
from models.alerts.sighting import Example, Sighting


def example_notice(at_ms: int) -> Notice:
    """One incident that never was; its text says so.

    >>> example_notice(1_767_225_600_000).incidents[0]["message"]["why"]
    'This is a test of the route; nothing happened.'
    """
    example = Example(
        anomaly_id="0" * 16,
        ts=at_ms,
        service="driftwood-test",
        host=None,
        session=None,
        severity="warning",
        confidence=1.0,
        strength=1.0,
        detector="novelty",
        kind="line",
        template_id="0" * 8,
        template="this is a test message of Driftwood",
        slug="this-is-a-test-message",
        message="this is a test message of Driftwood",
        explanation="Somebody ran `driftwood notifier --test`.",
    )
    incident = Incident.of(Sighting(0, False, "live", "test", 1, example), at_ms)
    incident.add(Sighting(0, False, "live", "test", 1, example), at_ms, is_known=False)
    incident.told = Told(1, "opened", "This is a test of the route; nothing happened.", at_ms, 1, 1)
    incident.revision = 0
    return Notice((orjson.loads(incident.record()),))
