"""The page of a report: one self-contained HTML text, without scripts and without anything from elsewhere.

```
head ── what was measured, and the fused verdict in six numbers
figures ── by detector, with intervals          curves ── ROC, precision-recall
timeline ── scores, windows, verdicts           contributions ── fused against each alone, and without each
workflow ── the learned graph, if given         cases ── worst misses and false alarms
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from models.report import FUSED, Case, Change, Report
from models.report_markup import Child, Element, adopted, element, to_html
from models.report_pictures import curves, interval_bar, moment, swatch, timeline
from models.report_style import STYLE
from models.unit_figures import Errors, Figures

_NONE: Final = "–"
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"  # of the browser: nothing runs, nothing is loaded
_WORKFLOW: Final = "workflow"

Cell = str | Sequence[Child]


def report_page(report: Report, workflow_svg: str | None = None) -> str:
    """The report as HTML.

    Args:
        report: from `build_report`.
        workflow_svg: a picture of the learned workflow; what is no drawing in it is left out. It may use
            `currentColor` and the page's colours: `var(--ink)`, `--muted`, `--line`, `--card`, `--good`, `--bad`.

    Raises: ValueError if the picture is no well-formed SVG.
    """
    page = element(
        "html",
        element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", content=_POLICY, http_equiv="Content-Security-Policy"),
            element("meta", name="referrer", content="no-referrer"),
            element("title", f"Driftwood: {report['dataset']}"),
            element("style", STYLE),
        ),
        element(
            "body",
            *_head(report),
            *_detectors(report),
            *_curves(report),
            *_timeline(report),
            *_contributions(report),
            *_workflow(workflow_svg),
            *_misses(report),
            *_false_alarms(report),
            *_reading(report),
        ),
        lang="en",
    )
    return f"<!doctype html>\n{to_html(page)}\n"


# -- parts of the page -----------------------------------------------------------------------------------------------


def _head(report: Report) -> list[Element]:
    fused, unit = report["fused"], report["unit"]
    normal = report["units"] - report["anomalous"]
    false = fused["flagged"] - fused["true_positives"]
    if report["units"]:
        summary = (
            f"The fused verdict flags {fused['true_positives']:,} of {report['anomalous']:,} anomalous {unit}s "
            f"and {false:,} of {normal:,} normal ones."
        )
    else:
        summary = "The data set has no labels, so there is nothing to compare with."
    errors = fused["errors"]
    tiles = [
        _tile("F1", _number(fused["f1"]), _range(fused["intervals"]["f1"])),
        _tile("Precision", _number(fused["precision"]), _range(fused["intervals"]["precision"])),
        _tile("Recall", _number(fused["recall"]), _range(fused["intervals"]["recall"])),
        _tile("ROC AUC", _number(fused["auc"]), _range(fused["intervals"]["auc"])),
        _tile(_false_an_hour(report), _number(fused["false_alerts_per_normal_hour"], 2), None),
        _tile("Wrong verdicts", f"{errors['count']:,} of {errors['units']:,}", _percent_range(errors)),
    ]
    return [
        element("h1", f"Evaluation: {report['dataset']}"),
        element("p", summary),
        element("div", *tiles, class_="tiles"),
        element("dl", *_facts(report), class_="facts"),
    ]


def _tile(name: str, value: str, range_: str | None) -> Element:
    under = None if range_ is None else element("span", range_, class_="range")
    return element("div", element("span", name, class_="note"), element("b", value), under, class_="tile")


def _facts(report: Report) -> Iterable[Element]:
    split = report["split"]
    training = [
        *([f"lines before {moment(split['train_until_ms'])} UTC"] if split["train_until_ms"] is not None else []),
        *([f"{split['train_sessions']:,} sessions"] if split["train_sessions"] is not None else []),
        *([f"{split['train_windows']:,} windows"] if split["train_windows"] is not None else []),
    ]
    test = f"{report['units']:,} {report['unit']}s, {report['anomalous']:,} of them anomalous"
    if split["test_hours"] is not None:
        test += f", in {split['test_hours']:,.2f} h"
    if split["grace_ms"]:
        test += f"; an anomaly counts for a window until {split['grace_ms'] / 1000:g} s after its end"
    lines = f"{report['lines']:,}" if "lines" in report else None
    if lines and "lines_per_s" in report:
        lines += f", scored at {report['lines_per_s']:,.0f} a second"
    if lines and report.get("hide_levels"):
        lines += ", their levels hidden"
    versions = {**report["versions"], **{f"model of {name}": text for name, text in report.get("models", {}).items()}}
    rows = {
        "Data": f"{report['dataset']}, sha256 {report['data_sha256']}",
        "Trained on": " and ".join(training) or None,
        "Tested on": test,
        "Lines": lines,
        "Anomalies": f"{report['anomalies']:,}, {report['fused']['alerts']:,} of them in labelled {report['unit']}s",
        "Scored through": report.get("through"),
        "Versions": "; ".join(f"{name} {text}" for name, text in versions.items()) or None,
    }
    for name, value in rows.items():
        if value is not None:
            yield element("dt", name)
            yield element("dd", value)


def _detectors(report: Report) -> list[Element]:
    rows: dict[str, Figures] = {FUSED: report["fused"], **report["detectors"]}
    betas = list(report["fused"]["f_beta"])

    def quality(name: str, found: Figures) -> list[Cell]:
        intervals = found["intervals"]
        return [
            [*_with_range(found["f1"], intervals["f1"]), interval_bar(found["f1"], intervals["f1"])],
            *(_with_range(found[metric], intervals[metric]) for metric in ("precision", "recall", "auc", "pr_auc")),
            *(_number(found["f_beta"][beta]) for beta in betas),
        ]

    def alerts(name: str, found: Figures) -> list[Cell]:
        errors = found["errors"]
        return [
            f"{found['flagged']:,}",
            f"{found['true_positives']:,}",
            [f"{errors['count']:,}", element("span", _percent_range(errors) or "", class_="range")],
            _percent(found["false_positive_rate"]),
            _percent(found["false_alarm_ratio"]),
            _number(found["alerts_per_hour"], 2),
            _number(found["false_alerts_per_normal_hour"], 2),
            _number(found["median_delay_s"], 1),
        ]

    unit = report["unit"]
    columns = ["Flagged", "of these anomalous", "Wrong verdicts", "Normal flagged", "Alerts false"]
    return [
        element("h2", "Detectors"),
        _table(["", "F1", "Precision", "Recall", "ROC AUC", "PR AUC", *(f"F{beta}" for beta in betas)], rows, quality),
        element("h3", f"Alerts and errors, by {unit}"),
        _table(["", *columns, "Alerts an hour", _false_an_hour(report), "Delay, s"], rows, alerts),
    ]


def _curves(report: Report) -> list[Element]:
    found, fused = report["curves"], report["fused"]
    if not any(found["roc"].values()) and not any(found["pr"].values()):
        return []
    base = found["base_rate"]
    roc = curves(
        found["roc"],
        "False positive rate",
        "Recall",
        chance=[[0.0, 0.0], [1.0, 1.0]],
        at=(fused["false_positive_rate"], fused["recall"]),
    )
    pr = curves(
        found["pr"],
        "Recall",
        "Precision",
        is_stepped=True,
        chance=None if base is None else [[0.0, base], [1.0, base]],
        at=(fused["recall"], fused["precision"]),
    )
    names = [FUSED, *(name for name in found["roc"] if name != FUSED)]
    legend = [element("li", swatch(name, number - 1), name) for number, name in enumerate(names)]
    return [
        element("h2", "Curves"),
        element("div", element("figure", roc), element("figure", pr), class_="pair"),
        element("ul", *legend, class_="legend"),
        element(
            "p",
            f"The dot is where the fused verdict stands; the dotted line is chance. A {report['unit']} without an "
            "anomaly scores 0, so each curve ends in one long step.",
            class_="note",
        ),
    ]


def _timeline(report: Report) -> list[Element]:
    picture = timeline(report["timeline"])
    if picture is None:
        return []
    start, end = report["timeline"]["start_ms"], report["timeline"]["end_ms"]
    shaded = " Anomalous windows are shaded." if report["timeline"]["windows"] else ""
    rows = (
        " Below, labels (red: anomalous) and verdicts (green: rightly flagged, red: wrongly flagged, hollow: missed)."
    )
    return [
        element("h2", "Scores over time"),
        element(
            "figure",
            picture,
            element(
                "figcaption",
                f"{moment(start)} to {moment(end)} UTC. Fused anomalies by score: ● in an anomalous "
                f"{report['unit']}, ✕ in a normal one, ◇ in none.{shaded + rows if shaded else ''}",
            ),
        ),
    ]


def _contributions(report: Report) -> list[Element]:
    """What each detector adds: the fused verdict against it alone, and without it."""
    gain, ablation = report["fusion_gain"], report["ablation"]
    names = [*gain, *(name for name in ablation if name not in gain)]
    if not names:
        return []
    gain_reach = _reach(gain.values())
    change_reach = _reach(one["f1_change"] for one in ablation.values())

    def cells(name: str, whole: Figures) -> list[Cell]:
        if name == FUSED:
            return [_NONE, _NONE, *_short(whole)]
        left = ablation.get(name)
        change = None if left is None else left["f1_change"]
        return [
            _changed(gain.get(name), gain_reach),
            _changed(change, change_reach),
            *([_NONE] * 4 if left is None else _short(left["figures"])),
        ]

    columns = ["", "Fused less it alone", "Left out: change", "F1", "Precision", "Recall", _false_an_hour(report)]
    return [
        element("h2", "What each detector adds"),
        _table(columns, dict.fromkeys([FUSED, *names], report["fused"]), cells),
        element(
            "p",
            "Differences of F1 over the same units. First, the fused verdict less the detector alone; above 0, fusion "
            "gains. Then the fused verdict with the detector left out, less the whole; below 0, the detector helps. Last, "
            f"the figures of what is left. Bars reach {gain_reach:.2g} and {change_reach:.2g} to either side. A range "
            "that holds 0 is no difference that these data can tell from chance.",
            class_="note",
        ),
    ]


def _reach(changes: Iterable[Change | None]) -> float:
    """How far a bar must reach to either side of 0."""
    ends = [max(abs(change["low"]), abs(change["high"])) for change in changes if change is not None]
    return max([0.01, *ends])


def _short(figures: Figures) -> list[Cell]:
    return [
        *(_number(figures[metric]) for metric in ("f1", "precision", "recall")),
        _number(figures["false_alerts_per_normal_hour"], 2),
    ]


def _workflow(svg: str | None) -> list[Element]:
    if svg is None:
        return []
    return [element("h2", "Workflow"), element("figure", adopted(svg, _WORKFLOW), class_=_WORKFLOW)]


def _misses(report: Report) -> list[Element | None]:
    total = report["anomalous"] - report["fused"]["true_positives"]
    if not total:
        note = "None." if report["anomalous"] else "The test part holds nothing anomalous."
    else:
        unit, unseen = report["unit"], report["unseen"]
        were = f"{unit} was" if total == 1 else f"{unit}s were"
        note = f"{total:,} anomalous {were} not flagged; no single detector saw {unseen:,} of them."
        if total > len(report["misses"]):
            note += f" The {len(report['misses'])} with the highest score of any single detector:"
    return [element("h2", "Misses"), element("p", note), _cases(report["misses"], report["unit"])]


def _false_alarms(report: Report) -> list[Element | None]:
    total = report["fused"]["flagged"] - report["fused"]["true_positives"]
    were = f"{report['unit']} was" if total == 1 else f"{report['unit']}s were"
    note = f"{total:,} normal {were} flagged." if total else "None."
    if total > len(report["false_alarms"]):
        note += f" The {len(report['false_alarms'])} with the highest score:"
    return [element("h2", "False alarms"), element("p", note), _cases(report["false_alarms"], report["unit"])]


def _cases(cases: Sequence[Case], unit: str) -> Element | None:
    return element("ol", *(_case(case, unit) for case in cases), class_="cases") if cases else None


def _case(case: Case, unit: str) -> Element:
    votes = sorted(case["detectors"].items(), key=lambda vote: -vote[1])
    facts = [
        f"at {moment(case['ts'])} UTC" if case["ts"] is not None else None,
        case["service"],
        case["level"],
        f"session {case['session']}" if case["session"] is not None and unit != "session" else None,
        f"line {case['offset']}" if case["offset"] is not None and unit != "line" else None,
        f"template {case['template_id']}" if case["template_id"] is not None else None,
        f"{case['alerts']:,} anomalies" if case["alerts"] > 1 else None,
        "votes: " + ", ".join(f"{name} {vote:.3f}" for name, vote in votes) if votes else None,
    ]
    name = case["unit"]
    if case["start_ms"] is not None and case["end_ms"] is not None:
        name = f"{moment(case['start_ms'])} to {moment(case['end_ms'])} UTC"
    text = case["message"] if case["message"] is not None else case["template"]
    score = "no detector saw anything" if case["score"] is None else f"score {case['score']:.3f}"
    explanation = case["explanation"]
    notes = " · ".join(fact for fact in facts if fact)
    return element(
        "li",
        element("div", element("b", element("bdi", name)), element("span", score), class_="head"),
        None if explanation is None else element("p", element("bdi", explanation)),
        None if text is None else element("code", element("bdi", text), class_="message"),
        element("p", element("bdi", notes), class_="note") if notes else None,
    )


def _reading(report: Report) -> list[Element]:
    unit = report["unit"]
    hour = "the time of normal windows and their grace" if unit == "window" else "the whole test time"
    paragraphs = (
        f"A {unit} is flagged when an anomaly falls in it; its score is the highest one in it. Anomalies outside the "
        f"labelled {unit}s count neither for nor against. An alert is false when it falls in a normal {unit}; false "
        f"alerts an hour are counted over {hour}. The delay is the median from an anomalous window's start to its "
        "first alert. F0.5 weighs precision double, F2 recall.",
        f"Grey ranges are 95 % intervals: a percentile bootstrap over {unit}s with {report['resamples']:,} resamples "
        f"(seed {report['seed']}), paired where two verdicts are compared; Wilson's for wrong verdicts. A bootstrap "
        f"range without width says that the {unit}s were too few or too much alike, not that the figure is certain. "
        f"{_NONE} stands where a figure does not exist.",
    )
    return [element("h2", "How to read this"), *(element("p", text, class_="note") for text in paragraphs)]


# -- tables and numbers ----------------------------------------------------------------------------------------------


def _table(
    columns: Sequence[str], rows: Mapping[str, Figures], cells: Callable[[str, Figures], Sequence[Cell]]
) -> Element:
    """A table with a row for each list of figures, the fused one set off."""
    head = element("tr", *(element("th", column, scope="col") for column in columns))
    body = []
    for name, figures in rows.items():
        made = (element("td", *([cell] if isinstance(cell, str) else cell)) for cell in cells(name, figures))
        kind = "whole" if name == FUSED else None
        body.append(element("tr", element("th", name, scope="row"), *made, class_=kind))
    return element("div", element("table", element("thead", head), element("tbody", *body)), class_="wide")


def _false_an_hour(report: Report) -> str:
    return "False alerts a normal hour" if report["unit"] == "window" else "False alerts an hour"


def _number(value: float | None, digits: int = 3) -> str:
    return _NONE if value is None else f"{value:,.{digits}f}"


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.1f} %"


def _range(interval: Sequence[float] | None) -> str | None:
    return None if interval is None else f"{interval[0]:.3f}–{interval[1]:.3f}"


def _percent_range(errors: Errors) -> str | None:
    interval = errors["interval"]
    return None if interval is None else f"{100 * interval[0]:.2f}–{100 * interval[1]:.2f} %"


def _with_range(value: float | None, interval: Sequence[float] | None) -> list[Child]:
    text = _range(interval)
    return [_number(value), None if text is None else element("span", text, class_="range")]


def _changed(change: Change | None, reach: float) -> list[Child]:
    """A difference with its sign, coloured only where its range leaves 0 out."""
    if change is None:
        return [_NONE]
    kind = "better" if change["low"] > 0 else "worse" if change["high"] < 0 else None
    value, low, high = (
        f"{number:+.3f}".replace("-", "−") for number in (change["value"], change["low"], change["high"])
    )
    return [
        element("span", value, class_=kind),
        element("span", f"{low} to {high}", class_="range"),
        interval_bar(change["value"], (change["low"], change["high"]), -reach, reach),
    ]
