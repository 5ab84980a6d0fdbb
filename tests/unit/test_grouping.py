"""Grouping accuracy, the miner behind `driftwood templates`, and the command itself."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest
import typer
import zstandard
from typer.testing import CliRunner

from flink_jobs.commands.templates import command
from models.errors import DataSetError
from models.grouping import Miner, contents, evaluate_templates, grouping_accuracy, mine

SHARED = Path(__file__).parents[3] / "shared" / "data" / "loghub_2k_dev"
app = typer.Typer()
app.command()(command)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if isinstance(result.exception, DataSetError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_a_line_counts_only_if_its_whole_group_is_right():
    assert grouping_accuracy([1, 1, 2, 3], "aabb") == 0.5
    assert grouping_accuracy([1, 1, 1, 2], "aabb") == 0.0
    assert grouping_accuracy("xyx", [7, 8, 7]) == 1.0
    assert grouping_accuracy([], []) == 1.0
    with pytest.raises(ValueError, match="2 predictions for 1 lines"):
        grouping_accuracy([1, 2], [1])


def test_batches_do_not_matter_to_the_miner():
    messages = [f"user u{at % 7} read {at} bytes" for at in range(50)] + ["disk full"] * 3
    one = Miner()
    for message in messages:
        one.add([message])
    shard, seq = mine(messages)
    assert one.seq.tolist() == seq
    assert one.grouped().counts() == [50, 3]
    assert len(shard) == 2


def test_raw_lines_lose_their_heads():
    lines = [b"2024-05-16 10:00:01,250 INFO disk is full", b"disk is full"]
    assert contents(lines, 1_700_000_000_000) == ["disk is full", "disk is full"]


def test_a_folder_of_systems_is_scored_by_system(tmp_path):
    folder = tmp_path / "Shop"
    folder.mkdir()
    (folder / "Shop_2k.log").write_text("paid 5\npaid 6\ndisk full\n")
    (folder / "Shop_2k.log_structured.csv").write_text("Content,EventId\npaid 5,E1\npaid 6,E1\ndisk full,E2\n")
    report = evaluate_templates(tmp_path)
    assert report["systems"]["Shop"] == {
        "lines": 3,
        "true_templates": 2,
        "templates": 2,
        "grouping_accuracy": 1.0,
        "grouping_accuracy_raw": 1.0,
    }
    assert report["average"] == {"grouping_accuracy": 1.0, "grouping_accuracy_raw": 1.0}


def test_a_folder_without_the_files_is_refused_with_a_reason(tmp_path):
    with pytest.raises(DataSetError, match="no folder"):
        evaluate_templates(tmp_path / "none")
    with pytest.raises(DataSetError, match="one subfolder a system"):
        evaluate_templates(tmp_path)
    (tmp_path / "X").mkdir()
    (tmp_path / "X" / "x_structured.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataSetError, match="Content"):
        evaluate_templates(tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is missing")
def test_grouping_accuracy_on_public_logs_stays_high_with_one_configuration():
    report = evaluate_templates(SHARED)
    figures = {name: system["grouping_accuracy"] for name, system in report["systems"].items()}
    assert report["average"]["grouping_accuracy"] >= 0.95, figures
    assert report["average"]["grouping_accuracy_raw"] >= 0.95, report
    assert min(figures.values()) >= 0.75, figures


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress, zstandard.ZstdCompressor().compress])
def test_the_command_writes_one_row_a_line_and_prints_the_templates(tmp_path, pack):
    file, out = tmp_path / "x.log", tmp_path / "out.csv"
    file.write_bytes(pack(b"paid 5 coins\r\npaid 6 coins\n\ndisk full\n"))
    printed = run(file, "--out", out)
    with out.open(newline="") as written:
        rows = list(csv.DictReader(written))
    assert [row["LineId"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["EventTemplate"] for row in rows] == ["paid <num> coins"] * 2 + ["", "disk full"]
    assert rows[0]["EventId"] == rows[1]["EventId"] != rows[3]["EventId"]
    assert "paid <num> coins" in printed
    assert "4 lines, 3 templates" in printed


def test_the_command_reads_a_column_and_prints_json(tmp_path):
    file = tmp_path / "x.csv"
    file.write_text('Id,Content\n1,"job a1, done"\n2,"job b2, done"\n')
    report = json.loads(run(file, "--csv-column", "Content", "--json"))
    assert report["lines"] == 2
    assert [(row["count"], row["template"]) for row in report["templates"]] == [(2, "job <id>, done")]


@pytest.mark.parametrize(
    ("content", "options", "reason"),
    [
        (None, (), "is not there"),
        (b"", (), "holds no lines"),
        (b"\x7fELF\0\0\0", (), "is binary"),
        (b"\x1f\x8b\x08broken", (), "is damaged"),
        (b"a,b\n1,2\n", ("--csv-column", "Content"), "its columns are: a, b"),
        (b"paid 5\n", ("--out", "/nowhere/out.csv"), "cannot be written"),
    ],
)
def test_the_command_says_what_is_wrong_with_a_file(tmp_path, content, options, reason):
    file = tmp_path / "x"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(DataSetError, match=reason):
        run(file, *options)
    with pytest.raises(DataSetError, match="is a folder"):
        run(tmp_path)
