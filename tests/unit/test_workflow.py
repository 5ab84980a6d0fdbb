"""What the workflow detector, its graph and its pictures promise."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import orjson
import pytest
from typer.testing import CliRunner

from flink_jobs.cli import app
from models.detectors.contract import Corpus, Learned
from models.detectors.workflow import WorkflowParams
from models.detectors.workflow_graph import Graph
from models.detectors.workflow_picture import to_dot, to_svg
from models.errors import ArtefactError, DataSetError, SettingsError
from tests.unit.detector_cases import (
    CLOCK,
    LENGTH,
    NAMES,
    SHOP,
    Line,
    batches,
    corpus,
    is_faulty,
    lines,
    missing,
    stopped,
    swapped,
)

FAULTY = (5, 20, 33, 47)
SVG = "{http://www.w3.org/2000/svg}"


def waiting(made, rng):
    """The right steps in the right order, one of them after 45 s."""
    return [*made[:3], *(replace(line, ts=line.ts + 45_000) for line in made[3:])]


def no_start(made, rng):
    """The session begins with its second step."""
    return made[1:]


@pytest.fixture(scope="module")
def learned():
    return WorkflowParams().learn(corpus())


@pytest.fixture
def detector(learned):
    return WorkflowParams().build(learned, NAMES)


def planted(fault, wait_ms=5_000):
    seen = batches(lines(80, seed=9, fault=fault, faulty=FAULTY), wait_ms=wait_ms)[0]
    return seen, is_faulty(seen, FAULTY)


@pytest.mark.parametrize("fault", [swapped, missing, no_start, waiting])
def test_a_session_that_leaves_the_workflow_scores_above_every_normal_line(fault, detector):
    seen, is_bad = planted(fault, wait_ms=90_000)
    score = detector.step(seen).line
    worst = [np.nanmax(score[seen.key == 1_000 + number]) for number in FAULTY]
    assert min(worst) > 2
    assert np.nanmax(score[~is_bad]) < 0.1


def test_an_end_where_none_ever_ended_is_found(detector):
    seen, _ = planted(stopped)
    end = detector.step(seen).end
    is_bad = np.isin(seen.ends.key, [1_000 + number for number in FAULTY])
    assert end[is_bad].min() > 2 > 0.1 > end[~is_bad].max()
    at = int(np.flatnonzero(is_bad)[0])
    assert "“request <id> answered in <num> ms” is not among" in detector.explain(seen, at, is_end=True).sentence


def test_each_kind_of_fault_is_said_in_its_own_words(detector):
    def told(fault, code):
        seen, is_bad = planted(fault, wait_ms=90_000)
        detector.step(seen)
        return detector.explain(seen, int(np.flatnonzero(is_bad & (seen.code == code))[0]))

    left_out = told(missing, 8)
    assert "“price of basket <id> computed in <num> ms” is not among the 5 lines before" in left_out.sentence
    assert left_out.expected[0] == (4, 1.0)
    assert "times before it within 5 lines" in told(swapped, 3).sentence
    assert "the longest that is normal" in told(waiting, 5).sentence or "longest" in told(waiting, 6).sentence


def test_lines_without_session_late_ones_and_unknown_ones_are_not_judged(detector):
    seen, _ = planted(swapped)
    assert np.isnan(detector.step(seen).line[seen.key == CLOCK]).all()
    assert np.isnan(detector.step(replace(seen, is_late=np.ones(len(seen), np.bool_))).line).all()
    assert np.isnan(detector.step(replace(seen, code=np.ones(len(seen), np.int32))).line).all()


def learned_from(paths):
    """The workflow of a service whose sessions take these paths in turn, their lines one after another."""
    made = [
        Line(code, 1_700_000_000_000 + 10_000 * number + 100 * at, 1_000 + number, int(SHOP), 1.0)
        for number, path in enumerate(paths)
        for at, code in enumerate(path)
    ]
    return Graph.from_learned(WorkflowParams().learn(Corpus(batches(made), NAMES, LENGTH)), NAMES)


def row(*codes):
    """A window and the class after it."""
    return np.array([[0] * (LENGTH + 1 - len(codes)) + list(codes[:-1])], np.int32), np.array([codes[-1]], np.int32)


def test_a_new_order_of_steps_that_interleave_anyway_weighs_little():
    free = learned_from([(2, 3, 4, 5, 8), (2, 4, 3, 5, 8), (2, 3, 5, 4, 8), (2, 5, 3, 4, 8), (2, 5, 4, 3, 8)] * 40)
    fixed = learned_from([(2, 3, 4, 5, 8)] * 200)
    other = row(2, 4, 5)  # in the one world new but harmless, in the other a step left out
    assert free.score(*other)[0] < 0.5 < 2 < fixed.score(*other)[0]


def test_two_steps_that_exclude_each_other_are_strange_together():
    graph = learned_from([(2, 3, 5, 8), (2, 3, 6, 8)] * 100)
    assert graph.score(*row(2, 3, 5, 8))[0] < 0.1
    assert graph.order(*row(2, 3, 5, 6))[0].max() > 1.5


def test_a_new_successor_weighs_less_where_successors_are_many():
    few = learned_from([(2, 3, 4, 8)] * 210)
    many = learned_from([(2, 3, code, 8) for code in (2, 3, 4, 5, 6, 7, 8)] * 30)
    assert few.transition(*row(2, 3, 9))[0] > 2 > many.transition(*row(2, 3, 9))[0] > 0.5


def test_an_unknown_line_in_the_window_may_be_the_step_that_is_missed(detector):
    graph = learned_from([(2, 3, 4, 8)] * 200)
    assert graph.missing(*row(2, 1, 4, 8))[0].max() == pytest.approx(graph.missing(*row(2, 4, 8))[0].max() / 2)


def test_a_service_that_is_dropped_is_forgotten_with_its_sessions(detector):
    seen, _ = planted(swapped)
    detector.step(seen)
    assert len(detector.to_bytes()) > 80 * 24
    detector.drop(int(SHOP))
    detector.check()
    assert len(detector.to_bytes()) < 24


def test_the_state_stays_within_its_bound(learned):
    detector = WorkflowParams(max_sessions=16).build(learned, NAMES)
    for seen in batches(lines(80, seed=9), range(20, 1_000, 20)):
        detector.step(seen)
        detector.check()


def test_too_few_sessions_are_refused_with_both_figures():
    with pytest.raises(DataSetError, match="20 sessions; at least 50"):
        WorkflowParams().learn(corpus(20))


def test_a_graph_that_does_not_fit_the_names_is_refused(learned):
    with pytest.raises(ValueError, match="out of range"):
        WorkflowParams().build(learned, NAMES[:6])
    with pytest.raises(ValueError, match="differ in length"):
        WorkflowParams().build(Learned({**learned.arrays, "edge_count": np.zeros(1, np.int64)}), NAMES)


# ---- pictures


HOSTILE = 'x"]; evil [label="</title><script>alert(1)</script>\\ \x1b[31m\u202e\n&'


def test_the_drawing_is_whole_and_holds_each_step_and_transition(learned):
    root = ElementTree.fromstring(to_svg(learned, NAMES))
    titles = [title.text for title in root.iter(f"{SVG}title")]
    assert sorted(titles) == sorted(["session starts", "session ends", *NAMES[2:9]])
    assert len(root.findall(f"{SVG}path")) == len(learned.arrays["edges"])


def test_time_runs_downwards_in_the_drawing(learned):
    root = ElementTree.fromstring(to_svg(learned, NAMES))
    height = {
        group.find(f"{SVG}title").text: float(group.find(f"{SVG}rect").get("y")) for group in root.iter(f"{SVG}g")
    }
    assert height["session starts"] < height[NAMES[2]] < height[NAMES[3]] < height[NAMES[4]] < height[NAMES[5]]
    assert height[NAMES[5]] == height[NAMES[6]] < height[NAMES[7]] < height[NAMES[8]] < height["session ends"]


def test_hostile_text_stays_text_in_both_pictures(learned):
    names = [*NAMES[:3], HOSTILE, *NAMES[4:]]
    svg = to_svg(learned, names)
    root = ElementTree.fromstring(svg)
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg", "style", "defs", "marker", "path", "text", "g", "title", "rect",
    }  # fmt: skip
    assert "\x1b" not in svg
    assert "\u202e" not in svg
    dot = to_dot(learned, names)
    assert '  n3 [label="x\\"]; evil [label=\\"</title><script>alert(1)</script>\\\\ [31m &"];\n' in dot


def test_a_workflow_of_many_transitions_shows_the_sixty_most_frequent():
    rng = np.random.default_rng(3)
    graph = [tuple(rng.integers(2, 9, 6).tolist()) for _ in range(600)]
    made = [
        Line(code, 1_700_000_000_000 + 10_000 * number + 100 * at, 1_000 + number, int(SHOP), 1.0)
        for number, path in enumerate(graph)
        for at, code in enumerate(path)
    ]
    busy = WorkflowParams().learn(Corpus(batches(made), NAMES, LENGTH))
    assert len(busy.arrays["edges"]) > 60
    assert len(ElementTree.fromstring(to_svg(busy, NAMES)).findall(f"{SVG}path")) == 60
    assert to_dot(busy, NAMES).count(" -> ") == 60


# ---- the command


@pytest.fixture
def artefacts(learned, monkeypatch):
    held = {"shop": SimpleNamespace(service="shop", learned={"workflow": learned}, names=NAMES)}
    monkeypatch.setattr("models.artefact.load_all", lambda folder: held)
    return held


def driftwood(*arguments):
    return CliRunner().invoke(app, ["workflow", "MODEL", *arguments])


def test_the_command_prints_the_transitions(artefacts):
    shown = driftwood("--json")
    assert shown.exit_code == 0
    first = orjson.loads(shown.stdout)["transitions"][0]
    assert first == {"from": "session starts", "to": NAMES[2], "count": 400, "usual_ms": None, "longest_ms": None}
    assert "shop: 400 sessions, 10 transitions" in driftwood().stdout


def test_the_command_draws_to_either_kind_of_file(artefacts, tmp_path):
    for name, head in (("flow.svg", "<svg "), ("flow.dot", "digraph ")):
        assert driftwood("--out", str(tmp_path / name)).exit_code == 0
        assert (tmp_path / name).read_text().startswith(head)
    assert isinstance(driftwood("--out", str(tmp_path / "flow.png")).exception, SettingsError)
    assert isinstance(driftwood("--out", str(tmp_path / "no" / "flow.svg")).exception, DataSetError)


def test_the_command_says_which_model_it_wants(artefacts):
    assert "it holds: shop" in str(driftwood("--service", "cart").exception)
    artefacts["cart"] = SimpleNamespace(service="cart", learned={}, names=NAMES)
    assert "name one with --service: cart, shop" in str(driftwood().exception)
    assert isinstance(driftwood("--service", "cart").exception, ArtefactError)
    assert driftwood("--service", "shop").exit_code == 0
