"""The style sheet of a report's page: light, dark and on paper; readable from a telephone to a wide screen."""

from __future__ import annotations

from typing import Final

#: Colours of detectors after Okabe and Ito, darker on light ground and lighter on dark; all reach 3:1 against it.
STYLE: Final = """
:root {
  color-scheme: light dark;
  --ground: #fff; --card: #f6f7f9; --ink: #16191d; --muted: #5b636e; --line: #d9dde3;
  --good: #157347; --bad: #c02f1d; --shade: #c02f1d24; --normal: #aab2bd;
  --c0: #0072b2; --c1: #c75200; --c2: #00845f; --c3: #b04f8b;
  --c4: #8a6d00; --c5: #5b4fc7; --c6: #2f7f93; --c7: #767676;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --ground: #14171b; --card: #1d2127; --ink: #e7e9ec; --muted: #a0a8b3; --line: #363c45;
    --good: #5cc48f; --bad: #ff8571; --shade: #ff857130; --normal: #6b7480;
    --c0: #56b4e9; --c1: #f0894a; --c2: #3fc79a; --c3: #e59cc4;
    --c4: #e0c341; --c5: #a79bf5; --c6: #7cc7da; --c7: #b0b0b0;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 60rem; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", "Liberation Sans", sans-serif;
}
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; padding-bottom: .2rem; border-bottom: 1px solid var(--line); }
h3 { font-size: .95rem; margin: 1.6rem 0 .3rem; }
p { margin: .4rem 0; max-width: 46rem; }
.note, figcaption, .range, .facts dt { color: var(--muted); }
.note, figcaption { font-size: .87rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.2rem, 1fr)); gap: .6rem; margin: 1rem 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .75rem; }
.tile b { display: block; font-size: 1.45rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.range { display: block; font-size: .75rem; white-space: nowrap; font-variant-numeric: tabular-nums; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: .6rem 0; font-size: .9rem; }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .45rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td svg { width: 84px; max-width: none; margin: .1rem 0 0 auto; }
tbody th { font-weight: 400; vertical-align: top; overflow-wrap: anywhere; min-width: 6.5rem; }
tr.whole > * { font-weight: 650; }
tr.whole .range { font-weight: 400; }
figure { margin: .8rem 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem; }
svg { display: block; max-width: 100%; }
figure > svg { width: 100%; height: auto; }
.legend { display: flex; flex-wrap: wrap; gap: .1rem 1rem; list-style: none; margin: .3rem 0; padding: 0; }
.legend li { font-size: .85rem; display: flex; align-items: center; gap: .35rem; }
.chart text { fill: var(--muted); font: 11px system-ui, "Liberation Sans", sans-serif; }
.chart .axis { fill: var(--ink); }
.chart .grid line { stroke: var(--line); }
.chart .rail { stroke: var(--normal); }
.chart .line { stroke-width: 1.6; opacity: .9; }
.chart .line.fused { stroke: var(--ink); stroke-width: 2.6; opacity: 1; }
.chart .stand, .chart .dot { fill: var(--ink); }
.chart .stand { stroke: var(--ground); stroke-width: 1.5; }
.chart .chance { stroke: var(--muted); stroke-dasharray: 1 4; }
.chart .whisker { stroke: var(--muted); stroke-width: 3; }
.chart .c0 { stroke: var(--c0); } .chart .c1 { stroke: var(--c1); } .chart .c2 { stroke: var(--c2); }
.chart .c3 { stroke: var(--c3); }
.chart .c4 { stroke: var(--c4); } .chart .c5 { stroke: var(--c5); } .chart .c6 { stroke: var(--c6); }
.chart .c7 { stroke: var(--c7); }
.chart .shade { fill: var(--shade); }
.chart rect.anomalous, .chart rect.wrong { fill: var(--bad); } .chart rect.right { fill: var(--good); }
.chart rect.normal { fill: var(--normal); }
.chart rect.normal.wrong { fill: none; stroke: var(--bad); stroke-width: 1.5; }
.chart rect.normal.right { fill: var(--normal); }
.chart .mark { fill: none; stroke-width: 1.6; }
.chart .mark.hit { fill: var(--good); stroke: none; }
.chart .mark.false { stroke: var(--bad); }
.chart .mark.outside { stroke: var(--muted); stroke-width: 1; }
.workflow { overflow-x: auto; background: var(--card); border-radius: .5rem; padding: .5rem; }
.workflow > svg { width: auto; min-width: 50%; margin: auto; }
.cases { list-style: none; margin: .5rem 0; padding: 0; }
.cases li { border: 1px solid var(--line); border-radius: .5rem; padding: .55rem .75rem; margin: .5rem 0; }
.cases li { overflow: hidden; }
.cases .head { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 1rem; }
.cases .head b, .cases p, .cases code { overflow-wrap: anywhere; }
.cases p { max-width: none; }
code { font: .85rem/1.4 ui-monospace, "Liberation Mono", monospace; }
.message { display: block; background: var(--card); border-radius: .3rem; padding: .3rem .5rem; margin: .3rem 0; }
.worse { color: var(--bad); } .better { color: var(--good); }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  figure, tr, .tile, .cases li { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  .wide, .workflow { overflow: visible; }
}
"""
