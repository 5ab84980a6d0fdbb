from __future__ import annotations

import json
from itertools import chain

import numpy as np
import pytest

from models.sample.bench import BenchParams, bench_columns, bench_lines, novel_window_ratio


def test_lines_are_json_of_about_the_stated_length_with_service_time_and_session() -> None:
    values = list(chain.from_iterable(bench_lines(BenchParams(lines=3_000))))
    assert len(values) == 3_000
    records = [json.loads(value) for value in values]
    assert {"@timestamp", "service", "level", "request_id", "message"} == set(records[0])
    assert len({record["service"] for record in records}) == 6
    assert 235 <= np.mean([len(value) for value in values]) <= 265


def test_all_the_templates_occur_and_parameters_are_random() -> None:
    templates = np.concatenate([columns.template for columns in bench_columns(BenchParams(lines=40_000))])
    assert len(np.unique(templates)) >= 300
    messages = [json.loads(value)["message"] for value in chain.from_iterable(bench_lines(BenchParams(lines=2_000)))]
    assert len(set(messages)) > 1_990


def test_the_share_of_windows_never_seen_is_as_stated_once_the_workflows_are_known() -> None:
    assert 0.09 <= novel_window_ratio(BenchParams(lines=60_000), after=30_000) <= 0.13
    assert novel_window_ratio(BenchParams(lines=60_000, novel_ratio=0.0), after=30_000) == 0.0


def test_sessions_belong_to_one_service_and_end_after_their_length() -> None:
    params = BenchParams(lines=30_000, services=50, open_sessions=200)
    columns = list(bench_columns(params, block=7_000))
    session = np.concatenate([block.session for block in columns])
    service = np.concatenate([block.service for block in columns])
    assert len(np.unique(service)) == 50
    names, counts = np.unique(session, return_counts=True)
    assert counts.max() == params.session_lines
    assert len(np.unique(np.stack([session, service]), axis=1).T) == len(names)


def test_the_same_seed_gives_the_same_lines() -> None:
    once, again = (list(chain.from_iterable(bench_lines(BenchParams(lines=500)))) for _ in range(2))
    assert once == again


def test_a_share_of_the_lines_ends_with_a_word_of_its_own_and_is_else_the_same() -> None:
    plain, worded = (
        [
            json.loads(value)["message"]
            for value in chain.from_iterable(bench_lines(BenchParams(lines=4_000, random_ratio=ratio), block=500))
        ]
        for ratio in (0.0, 0.25)
    )
    words = [message.rsplit(" ", 1)[1] for message, other in zip(worded, plain, strict=True) if message != other]
    assert 0.22 <= len(words) / len(plain) <= 0.28
    assert len(set(words)) == len(words)


@pytest.mark.parametrize(
    "wrong", [{"lines": 0}, {"templates": 10_000}, {"novel_ratio": 0.9}, {"session_lines": 5}, {"random_ratio": 2}]
)
def test_figures_out_of_range_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must|at most"):
        BenchParams(**wrong)
