"""The report as one page of HTML, made from the JSON object alone.

Nothing is loaded from anywhere. Names come from the model and are escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, TypeAlias

from .report import Change, shown_kinds, sized

Json: TypeAlias = Mapping[str, Any]

_STYLE = """
:root {
  color-scheme: light dark;
  --ground: #fbfbfa; --card: #fff; --ink: #1d1f23; --soft: #666c76;
  --line: #e3e4e7; --was: #c9cdd4; --now: #2f6fde; --good: #1a7f4b; --bad: #c0392b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #16181c; --card: #1e2126; --ink: #e6e8eb; --soft: #9aa1ac;
    --line: #31353c; --was: #4a505a; --now: #6ea0f5; --good: #54c08a; --bad: #f0766a;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2.5rem 0 .6rem; }
p { margin: .3rem 0; }
.soft { color: var(--soft); }
.good { color: var(--good); }
.bad { color: var(--bad); }
.tiles {
  display: grid; gap: .8rem; margin-top: 1.6rem;
  grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr));
}
.tile {
  background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .8rem 1rem;
}
.tile b { display: block; font-size: 1.3rem; font-weight: 600; line-height: 1.4; }
.sheet + p { margin-top: .7rem; }
p + .sheet { margin-top: .7rem; }
.sheet {
  background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  overflow-x: auto;
}
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .9rem; text-align: right; white-space: nowrap; }
th { color: var(--soft); font-weight: 500; font-size: .85rem; }
th:first-child, td:first-child, .text { text-align: left; }
td.text { white-space: normal; overflow-wrap: anywhere; }
tbody tr { border-top: 1px solid var(--line); }
td.bars { width: 34%; min-width: 9rem; text-align: left; }
.idle td { color: var(--soft); }
.bar { display: block; height: .4rem; border-radius: .2rem; min-width: 1px; }
.was { background: var(--was); margin-bottom: 2px; }
.now { background: var(--now); }
.bar.key { display: inline-block; width: .8rem; margin: 0 .4rem .1rem 0; }
@media (max-width: 36rem) { .bars { display: none; } }
code { font: .92em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
footer { margin-top: 3rem; }
"""


def page(report: Json) -> str:
    """The page for an object that ``graphopt optimize --json`` printed."""
    title = f"graphopt: {_name(report)}"
    body = "".join(
        [
            _head(report),
            _tiles(report),
            _ops(report),
            _check(report),
            _tuning(report),
            _memory(report),
            _passes(report),
            _missed(report),
            _notes(report),
            f'<footer class="soft">graphopt {escape(report["version"])}</footer>',
        ]
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style></head>\n"
        f"<body><main>\n{body}</main></body></html>\n"
    )


def _name(report: Json) -> str:
    return str(report["input"] or "a model")


def _head(report: Json) -> str:
    written = report["output"]
    result = f"to <code>{escape(written)}</code>" if written else "not written"
    opset = f"opset {report['opset']}"
    if report["source_opset"] != report["opset"]:
        opset += f", written in {report['source_opset']} before"
    level = f"-O{report['level']}"
    return (
        f"<h1>{escape(_name(report))}</h1>\n"
        f'<p class="soft">{result} · target {escape(report["target"])} · {level} · '
        f"{opset}</p>\n"
    )


def _tiles(report: Json) -> str:
    check = report["check"]
    verdict = {
        True: ("good", "same results"),
        False: ("bad", "other results"),
        None: ("soft", "not checked"),
    }[check["passed"]]
    lost = any(name.startswith("output ") for name in check["unchecked"])
    if check["passed"] and lost:
        verdict = ("soft", "same in part")
    named = f", {len(check['unchecked'])} unchecked" if check["unchecked"] else ""
    tiles = [
        _tile("ops", _change(report["ops"]), _share(report["ops"])),
        _tile("bytes", _sizes(report["bytes"]), _share(report["bytes"])),
        _tile("check", verdict[1], f"mode {check['mode']}{named}", verdict[0]),
        _tile("CPU time", f"{report['seconds']:.2f} s", "to optimize"),
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>\n'


def _tile(name: str, number: str, remark: str, kind: str = "") -> str:
    return (
        f'<div class="tile"><span class="soft">{escape(name)}</span>'
        f'<b class="{kind}">{escape(number)}</b>'
        f'<span class="soft">{escape(remark)}</span></div>'
    )


def _change(pair: Json) -> str:
    return f"{pair['before']:,} → {pair['after']:,}"


def _sizes(pair: Json) -> str:
    unit, name = next(
        (unit, name)
        for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B"))
        if max(pair["before"], pair["after"]) >= unit or unit == 1
    )
    digits = 0 if unit == 1 else 1
    before, after = pair["before"] / unit, pair["after"] / unit
    return f"{before:.{digits}f} → {after:.{digits}f} {name}"


def _share(pair: Json) -> str:
    share = Change(pair["before"], pair["after"]).percent
    return share.replace("-", "\N{MINUS SIGN}") or "unchanged"


def _ops(report: Json) -> str:
    kinds = {
        kind: Change(pair["before"], pair["after"])
        for kind, pair in report["ops"]["by_kind"].items()
    }
    largest = max([1, *(max(c.before, c.after) for c in kinds.values())])
    rows = [
        f"<tr><td><code>{escape(kind)}</code></td>"
        f'<td class="bars">{_bars(change, largest)}</td>'
        f"<td>{change.before:,}</td><td>{change.after:,}</td></tr>"
        for kind, change in shown_kinds(kinds, len(kinds))
    ]
    legend = "".join(
        f'<span class="bar key {kind}"></span>{name} &ensp;'
        for kind, name in (("was", "before"), ("now", "after"))
    )
    said = f'<p class="soft">{legend}</p>'
    return _section(
        "Ops", (("kind", ""), ("", "bars"), ("before", ""), ("after", "")), rows, said
    )


def _bars(change: Change, largest: int) -> str:
    return "".join(
        f'<span class="bar {kind}" style="width:{100 * count / largest:.1f}%"></span>'
        for kind, count in (("was", change.before), ("now", change.after))
        if count
    )


def _check(report: Json) -> str:
    check, trial = report["check"], report["runtime"]
    said = ""
    if check["passed"] is None:
        said += "<p>Nothing was compared.</p>"
    else:
        said += (
            '<p class="soft">Errors are against a float64 run of the original in the '
            "NumPy reference: that of the result, that of the original itself, and "
            f"what is allowed.{_runs(check)}</p>"
        )
    rows = [
        f'<tr><td class="text"><code>{escape(o["name"])}</code></td>'
        f"{_errors(o)}{_verdict(o['passed'])}</tr>"
        for o in check["outputs"]
    ]
    heads = (
        ("output", "text"),
        ("error", ""),
        ("of the original", ""),
        ("allowed", ""),
        ("", ""),
    )
    after = ""
    if check["unchecked"]:
        names = ", ".join(f"<code>{escape(str(u))}</code>" for u in check["unchecked"])
        after += f"<p>Without a reference, and so not checked: {names}.</p>"
    if trial is not None:
        after += f"<p>{_trial(trial)}</p>"
    return _section("Check", heads, rows, said, after)


def _errors(output: Json) -> str:
    if not output["size"] and output["note"]:  # nothing was run
        return f'<td colspan="3">{escape(output["note"])}</td>'
    numbers = (output[name] for name in ("max_error", "error_before", "tolerance"))
    return "".join(f"<td>{_number(number)}</td>" for number in numbers)


def _runs(check: Json) -> str:
    """The sizes that symbolic dims took."""
    sizes = [
        ", ".join(f"{escape(name)} = {size}" for name, size in run.items())
        for run in check["sizes"]
        if run
    ]
    return f" Run with {'; '.join(sizes)}." if sizes else ""


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2e}"


def _verdict(passed: bool) -> str:
    return f'<td class="{"good" if passed else "bad"}">{"✓" if passed else "✗"}</td>'


def _trial(trial: Json) -> str:
    runtime, note = escape(trial["runtime"]), escape(trial["note"])
    if trial["passed"] is None:
        return f"Not run in {runtime}: {note}."
    if trial["passed"]:
        return (
            f"{runtime} gives the same outputs for both models; largest relative "
            f"difference {trial['difference']:.1e}."
        )
    return f'<span class="bad">{runtime}: {note}.</span>'


def _passes(report: Json) -> str:
    rows = []
    for done in report["passes"]:
        rules = ", ".join(
            f"{escape(rule)} ×{count}" if count > 1 else escape(rule)
            for rule, count in sorted(done["rules"].items(), key=lambda r: -r[1])
        )
        rows.append(
            f'<tr class="{"" if done["rules"] else "idle"}">'
            f"<td><code>{escape(done['name'])}</code></td>"
            f"<td>{done['ops_before']:,}</td><td>{done['ops_after']:,}</td>"
            f"<td>{1000 * done['seconds']:.1f}</td>"
            f'<td class="text soft">{rules}</td></tr>'
        )
    heads = (
        ("pass", ""),
        ("ops before", ""),
        ("after", ""),
        ("ms", ""),
        ("rules that fired", "text"),
    )
    return _section("Passes", heads, rows)


def _tuning(report: Json) -> str:
    tuning = report["tuning"]
    if tuning is None:
        return ""
    rows = []
    for tried in tuning["tried"]:
        ratio = tried["ratio"]
        said = "kept" if tried["kept"] else escape(tried["note"])
        numbers = "<td></td><td></td>"
        if ratio is not None:
            numbers = (
                f"<td>{ratio['median']:.3f}</td>"
                f"<td>{ratio['low']:.3f} to {ratio['high']:.3f}</td>"
            )
        rows.append(
            f'<tr class="{"" if tried["kept"] else "idle"}">'
            f"<td><code>{escape(tried['what'])}</code></td>{numbers}"
            f'<td class="text soft">{said}</td></tr>'
        )
    heads = (("tried", ""), ("time, before = 1", ""), ("95 %", ""), ("", "text"))
    stopped = f"<p>Stopped early: {tuning['stopped']}.</p>" if tuning["stopped"] else ""
    verdict = f"<p>{escape(tuning['verdict'])}.</p>{stopped}"
    return _section("Tuning", heads, rows, verdict)


def _memory(report: Json) -> str:
    memory = report["memory"]
    if memory is None:
        return ""
    rows = [
        f'<tr><td class="text">{escape(step["what"])}</td>'
        f"<td>{sized(step['before'])}</td><td>{sized(step['after'])}</td>"
        f"<td>{step['flops']:+,}</td></tr>"
        for step in memory["steps"]
    ]
    sizes = ", ".join(f"{escape(n)} = {size}" for n, size in memory["sizes"].items())
    said = (
        f"<p>{sized(memory['resident_bytes'])} are resident at the peak, of which"
        f" {sized(memory['activation_bytes'])} are activations"
        f"{f', with {sizes}' if sizes else ''}.</p>"
    )
    if rows:
        said += "<p>Steps from the optimized model on, and its activations:</p>"
    heads = (("step", "text"), ("before", ""), ("after", ""), ("operations", ""))
    return _section("Memory", heads, rows, said)


def _missed(report: Json) -> str:
    rows = [
        f"<tr><td><code>{escape(m['rule'])}</code></td>"
        f'<td class="text">{escape(m["reason"])}</td>'
        f'<td class="text soft">{_some(m["ops"])}</td></tr>'
        for m in report["missed"]
    ]
    heads = (("rule", "text"), ("why not", "text"), ("on", "text"))
    return _section("Not done, and why", heads, rows) if rows else ""


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(escape(name) for name in names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown


def _notes(report: Json) -> str:
    if not report["notes"]:
        return ""
    items = "".join(f"<p>{escape(note)}</p>" for note in report["notes"])
    return f"<h2>Notes</h2>\n{items}\n"


def _section(
    title: str,
    heads: Iterable[tuple[str, str]],
    rows: Sequence[str],
    before: str = "",
    after: str = "",
) -> str:
    """A headed table; ``heads`` are words and the classes of their cells."""
    sheet = ""
    if rows:
        cells = "".join(
            f'<th class="{kind}">{escape(head)}</th>' for head, kind in heads
        )
        sheet = (
            f'<div class="sheet"><table><thead><tr>{cells}</tr></thead>\n<tbody>'
            + "\n".join(rows)
            + "</tbody></table></div>\n"
        )
    return f"<h2>{escape(title)}</h2>\n{before}{sheet}{after}"
