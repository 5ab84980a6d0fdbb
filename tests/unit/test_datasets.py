"""Data set folders and log files: what is read, what is trained on, what is refused."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import zstandard

from models.datasets import DataSet, hide_level, read_lines, to_batches
from models.errors import DataSetError


def folder(path, about, labels=None, logs=b'{"message":"a"}\n'):
    path.mkdir(exist_ok=True)
    (path / "dataset.json").write_text(json.dumps(about))
    if labels is not None:
        (path / "labels.csv").write_text(labels)
    (path / "logs.jsonl.zst").write_bytes(zstandard.compress(logs))
    return path


def is_training(dataset, ts, session=None, sessions=()):
    session = np.array(session if session is not None else [-1] * len(ts), np.int32)
    return dataset.is_training(np.array(ts, np.int64), session, list(sessions)).tolist()


@pytest.mark.parametrize("pack", [lambda b: b, gzip.compress, zstandard.compress])
def test_lines_come_out_of_any_compression(tmp_path, pack):
    path = tmp_path / "app.log"
    path.write_bytes(pack(b"one\r\n\n two \nthree"))
    assert list(read_lines(path)) == [b"one", b" two ", b"three"]


def test_a_missing_or_damaged_file_is_said_so(tmp_path):
    with pytest.raises(DataSetError, match="is not there"):
        list(read_lines(tmp_path / "none.log"))
    with pytest.raises(DataSetError, match="is a folder"):
        list(read_lines(tmp_path))
    (tmp_path / "bad.zst").write_bytes(zstandard.compress(b"x\n" * 9)[:6] + b"\xff" * 20)
    with pytest.raises(DataSetError, match="damaged"):
        list(read_lines(tmp_path / "bad.zst"))


def test_a_line_number_is_its_offset():
    batches = list(to_batches((str(i).encode() for i in range(7)), "t", size=3))
    assert [raw.offset.tolist() for raw in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert batches[2].values == [b"6"]


def test_training_sessions_are_those_of_the_list(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "train.txt").write_text("a\nb\n")
    path = folder(tmp_path / "s", {"unit": "session", "train_sessions": "train.txt"}, "session,label\nc,1\nd,0\n")
    dataset = DataSet.open(path)
    assert is_training(dataset, [1, 1, 1, 1], [0, 1, 2, -1], ["a", "c", "b"]) == [True, False, True, False]
    assert [(unit.key, unit.is_anomalous) for unit in dataset.units] == [("c", True), ("d", False)]
    assert len(dataset.sha256()) == 64


def test_training_ends_at_the_time_given(tmp_path):
    labels = "start,end,label,kind,service\n1970-01-01T00:00:03Z,1970-01-01T00:00:04.5Z,1,x,cart\n"
    dataset = DataSet.open(
        folder(tmp_path / "w", {"unit": "window", "train_until": "1970-01-01T00:00:02Z", "grace_s": 1.5}, labels)
    )
    assert is_training(dataset, [1999, 2000]) == [True, False]
    assert (dataset.units[0].start_ms, dataset.units[0].end_ms, dataset.grace_ms) == (3000, 4500, 1500)


def test_training_windows_may_be_a_list_or_a_file(tmp_path):
    times = [["1970-01-01T00:00:01Z", "1970-01-01T00:00:02Z"], [5000, 6000]]
    as_list = DataSet.open(folder(tmp_path / "l", {"unit": "window", "train_windows": times}))
    assert is_training(as_list, [999, 1000, 2000, 2001, 5500]) == [False, True, True, False, True]
    path = folder(tmp_path / "f", {"unit": "window", "train_windows": "train.csv"})
    (path / "train.csv").write_text("start,end\n1970-01-01T00:00:01Z,1970-01-01T00:00:02Z\n")
    assert is_training(DataSet.open(path), [999, 1000]) == [False, True]


def test_without_a_split_nothing_is_trained_on(tmp_path):
    dataset = DataSet.open(folder(tmp_path / "n", {"unit": "line"}, "line,label\n3,1\n"))
    assert not dataset.has_training_part
    assert is_training(dataset, [1]) == [False]


@pytest.mark.parametrize(
    ("about", "labels", "message"),
    [
        ({"unit": "day"}, None, "unit is 'day'"),
        ({"unit": "session", "train_sessions": "none.txt"}, None, "none.txt"),
        ({"unit": "session"}, "name,label\n", None),
        ({"unit": "session"}, "name,label\na,1\n", "lacks the columns session"),
        ({"unit": "session"}, "session,label\na,yes\n", "label 'yes'"),
        ({"unit": "window", "train_until": "soon"}, None, "'soon' is no time"),
        ({"unit": "window", "grace_s": -1}, None, "grace_s is -1"),
        ({"unit": "window", "train_windows": [1]}, None, "list of"),
    ],
)
def test_a_folder_that_is_wrong_is_refused_with_the_reason(tmp_path, about, labels, message):
    path = folder(tmp_path / "x", about, labels)
    if message is None:
        assert DataSet.open(path).units == ()
        return
    with pytest.raises(DataSetError, match=message):
        DataSet.open(path)


def test_a_folder_without_description_or_logs_is_refused(tmp_path):
    with pytest.raises(DataSetError, match=r"dataset\.json is missing"):
        DataSet.open(tmp_path)
    (tmp_path / "dataset.json").write_text('{"unit": "line"}')
    with pytest.raises(DataSetError, match=r"logs\.jsonl\.zst"):
        DataSet.open(tmp_path)


@pytest.mark.parametrize(
    ("line", "hidden"),
    [
        (b'{"log":{"level":"error"},"body":"[WARN] x"}', b'{"log":{},"body":"x"}'),
        (b'{"severityText":"INFO","msg":"error budget: Info: ERROR"}', b'{"msg":"error budget: Info: ERROR"}'),
        (b"plain text without a level", b"plain text without a level"),
        (b"[ERROR] no", b"[] no"),
        (b"{broken ERROR", b"{broken "),
    ],
)
def test_levels_are_blanked_in_fields_and_at_the_head_of_messages(line, hidden):
    assert hide_level(line) == hidden


def test_files_that_are_no_text_and_a_field_that_is_no_name_are_refused_by_name(tmp_path):
    (tmp_path / "logs.jsonl").write_text("{}")
    labels, sessions, about = tmp_path / "labels.csv", tmp_path / "s.txt", tmp_path / "dataset.json"
    about.write_text('{"unit": "session", "train_sessions": "s.txt"}')
    sessions.write_bytes(b"\xff\xfe\x80")
    with pytest.raises(DataSetError, match=r"s\.txt.*train_sessions.*UTF-8"):
        DataSet.open(tmp_path)
    sessions.write_text("a")
    for wrong in (b"\xff\xfe\x80" * 9, b"session,label\n" + b"a" * 200_000 + b",1\n"):
        labels.write_bytes(wrong)
        with pytest.raises(DataSetError, match=r"labels\.csv is no csv file"):
            DataSet.open(tmp_path)
    about.write_text('{"unit": "session", "session_field": 5}')
    with pytest.raises(DataSetError, match="session_field is 5"):
        DataSet.open(tmp_path)
