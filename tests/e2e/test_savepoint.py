"""Stopped with a savepoint in the middle of a log and restored with another parallelism, the job goes on as if nothing had been."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from tests.e2e.shop_stream import Judged, Message, Sender, ShopStream, assert_equal, same, stored_sequences

#: One stop between each: 1 → 2, then 2 → 1.
PARALLELISM = (1, 2, 1)
#: Anomalies after a stop that a job without the state of before would miss or report otherwise; it is about 50 of 2,600, and 50 to 100 of 1,300.
DEPENDENT = 20
#: Classes that a TaskManager holds, however many jobs it has run; each submission would add 4,000 if it brought PyFlink's own.
CLASSES = 21_000


def _place(record: Any) -> tuple[int, int]:
    return record.partition, record.offset


def _stop_in_the_middle(run: ShopStream, messages: Sequence[Message], before: int) -> str:
    """Sends messages, stops the job with a savepoint while the last of them are still on their way, and gives its path.

    Args:
        run: the job.
        messages: to send.
        before: how many were sent before.
    """
    lead = len(messages) * 3 // 4
    run.send(messages[:lead])
    sender = Sender(run, messages[lead:], per_s=50)
    sender.start()
    run.wait_until_accounted(before + lead)
    savepoint = run.cluster.rest.stop_with_savepoint(run.job, run.cluster.savepoints)
    assert not sender.is_done
    # The restored job finds lines that came while there was none.
    sender.finish()
    return savepoint


def _assert_stopped_cleanly(run: ShopStream, records: Sequence[Any]) -> set[tuple[int, int]]:
    """What is committed is exactly what the core makes of the records so far; gives their places."""
    done = run.accounted()
    so_far = [record for record in records if _place(record) in done]
    assert 0 < len(so_far) == len(done) < len(records)
    assert_equal(run.judged(), run.core_over(so_far))
    return set(done)


def _dependent(run: ShopStream, records: Sequence[Any], done: set[tuple[int, int]], expected: Judged) -> int:
    """How many anomalies of the records after a stop would be lost or differ if the state of before were."""
    fresh = run.core_over([record for record in records if _place(record) not in done]).found
    after = {
        i: anomaly
        for i, anomaly in expected.found.items()
        if (anomaly["source"]["partition"], anomaly["source"]["offset"]) not in done
    }
    return sum(i not in fresh or same(fresh[i]) != same(anomaly) for i, anomaly in after.items())


def test_savepoints_carry_templates_and_open_windows_to_another_parallelism_and_back(stream, shop, redis_server):
    buffer = f"redis://127.0.0.1:{redis_server.port}/0?prefix=savepoint-{time.time_ns()}&max_entries=1000000"
    run = stream(buffer)
    part = len(shop.messages) // len(PARALLELISM)
    cuts: list[set[tuple[int, int]]] = []
    savepoint = None
    for number, parallelism in enumerate(PARALLELISM):
        run.submit(parallelism, savepoint)
        (detect,) = {count for name, count in run.cluster.rest.parallelism(run.job).items() if "detect" in name}
        assert detect == parallelism
        if number < len(PARALLELISM) - 1:
            savepoint = _stop_in_the_middle(run, shop.messages[number * part : (number + 1) * part], number * part)
            cuts.append(_assert_stopped_cleanly(run, run.records()))
        else:
            run.send(shop.messages[number * part :])
            run.wait_until_accounted(len(shop.messages))
        assert run.cluster.rest.exceptions(run.job) == []

    records = run.records()
    judged, expected = run.judged(), run.core_over(records)
    assert_equal(judged, expected)
    assert len(expected.scored) + len(expected.rejected) == len(shop.messages)
    # The state was needed, and was there: windows that were open, and templates that were known and so not told again.
    assert [_dependent(run, records, done, expected) > DEPENDENT for done in cuts] == [True] * len(cuts)
    told = [(record.key, record.value) for record in run.committed(run.templates)]
    assert len(told) == len(set(told)) >= len(expected.catalogue)

    assert stored_sequences(buffer) == expected.sequences  # the template id of every line
    run.assert_no_orphans()
    assert max(run.cluster.rest.classes_loaded().values()) < CLASSES
