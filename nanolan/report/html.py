"""The HTML that a report is built of: tables, lists, and a page that loads nothing and runs nothing. Pure.

Text is escaped wherever it is put in: only `Html` is taken as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

# Nothing is fetched and no script runs, whatever a name or an answer of the model holds
CSP = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #fff; --card: #f6f8fa; --grid: #d0d7de; --line: #0a62c4;
  --faint: #9cc4f0; --good: #116329; --bad: #b3261e; --warn: #8a5a00; --train: #0a62c4; --evaluate: #7a42c4; --upload: #0e7c7b;
  --other: #8c959f }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9da7b3; --paper: #0d1117; --card: #161b22; --grid: #343b44;
  --line: #6cb2ff; --faint: #2f5f93; --good: #56d364; --bad: #ff8a80; --warn: #e3b341; --train: #4493f8; --evaluate: #a371f7;
  --upload: #39c5bb; --other: #6e7681 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1.2rem 1rem 3rem; max-width: 68rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; overflow-wrap: anywhere }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem } p { margin: .4rem 0 } a { color: var(--line) }
small, .soft, figcaption, dt, th { color: var(--soft) } small { font-size: .8rem } code, pre { font: .86em ui-monospace, monospace }
pre { white-space: pre-wrap; background: var(--card); padding: .6rem .8rem; border-radius: 6px; margin: .5rem 0 }
header { background: var(--card); border-left: 6px solid var(--other); border-radius: 6px; padding: 1rem 1.2rem }
header.good { border-color: var(--good) } header.bad { border-color: var(--bad) } header.warn { border-color: var(--warn) }
.good b { color: var(--good) } .bad b { color: var(--bad) } .warn b { color: var(--warn) }
.wide { overflow-x: auto } 
table { overflow-wrap: normal; border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .35rem .5rem .35rem 0; border-bottom: 1px solid var(--grid); vertical-align: top }
th { font-weight: 600; font-size: .85rem } td + td, th + th { text-align: right } td small { display: block; white-space: nowrap }
td:first-child, td:first-child small { overflow-wrap: anywhere; min-width: 5.4rem; white-space: normal }
dl { display: grid; grid-template-columns: minmax(6.5rem, max-content) 1fr; gap: .25rem 1rem; margin: .4rem 0 } dd { margin: 0 }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); gap: 1rem 1.4rem }
.charts figure { max-width: 34rem } .lead figure { max-width: none } .narrow { display: none }
nav { margin: .7rem 0 0 } nav a { margin-right: 1rem; white-space: nowrap }
figure { margin: 0; min-width: 0 } figure svg { display: block; width: 100%; height: auto } figcaption { font-size: .8rem }
figcaption b { color: var(--ink) }
.stage { display: grid; grid-template-columns: 9rem 1fr 5rem 5rem 3.2rem; gap: 0 .8rem; padding: .22rem 0; align-items: center;
  font-variant-numeric: tabular-nums } .stage span { text-align: right } .stage span:first-child { text-align: left }
.track { height: .8rem; background: var(--card); border-radius: 3px; overflow: hidden }
.track i { display: block; height: 100%; min-width: 2px; border-radius: 3px; background: var(--other) }
.track .train { background: var(--train) } .track .evaluate { background: var(--evaluate) }
.track .upload { background: var(--upload) }
.answer { border-left: 3px solid var(--grid); padding: .1rem 0 .1rem .8rem; margin: .7rem 0; white-space: pre-wrap }
details { margin: .5rem 0 } summary { cursor: pointer; font-weight: 600 }
@media (max-width: 40rem) { .broad { display: none } .narrow { display: block } body { font-size: 14px } small { font-size: .74rem }
  .stage { grid-template-columns: 1fr 4.2rem 4.2rem 2.6rem; gap: .1rem .5rem }
  .stage .track { grid-column: 1 / -1; order: 5 } dl { grid-template-columns: 1fr; gap: 0 } dd { margin-bottom: .45rem } }
"""


class Html(str):
    """HTML. `Html("<p>{}</p>").format(text)` escapes every value that is put in, unless it is Html itself."""

    __slots__ = ()

    def format(self, *values: object, **named: object) -> Html:
        return Html(
            super().format(*map(esc, values), **{name: esc(v) for name, v in named.items()})
        )


NOTHING = Html()
BREAK = Html("\n")


def esc(text: object) -> Html:
    """Any text as HTML text or attribute; control and direction characters, which could make it read otherwise, are replaced.
    Html is left as it is."""
    if isinstance(text, Html):
        return text
    plain = (
        c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in str(text)
    )
    return Html(escape("".join(plain)))


def joined(parts: Iterable[object], between: Html = BREAK) -> Html:
    """The parts as HTML, one after the other."""
    return Html(between.join(map(esc, parts)))


PAGE = Html("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{csp}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
""")


def page(title: str, body: Iterable[object]) -> Html:
    """The whole document."""
    return PAGE.format(csp=Html(CSP), title=title, style=Html(STYLE), body=joined(body))


def section(title: str, *parts: object, mark: str = "") -> Html:
    """A section of parts under a title, with an id to link to; empty when there is nothing in it."""
    inside = joined(filter(None, parts))
    place = Html(' id="{}"').format(mark) if mark else ""
    text = Html("<section{}>\n<h2>{}</h2>\n{}\n</section>")
    return text.format(place, title, inside) if inside else NOTHING


def link(address: str, text: str) -> Html:
    """A link that the reader may follow; the page itself loads nothing."""
    return Html('<a href="{}">{}</a>').format(address, text)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    """A table."""
    lines = [_row("td", row) for row in rows]
    if not lines:
        return NOTHING
    whole = Html('<div class="wide"><table>\n{}\n</table></div>')
    return whole.format(joined([_row("th", head), *lines]))


def _row(tag: str, cells: Iterable[object]) -> Html:
    cell = Html(f"<{tag}>{{}}</{tag}>")
    return Html("<tr>{}</tr>").format(joined(map(cell.format, cells), NOTHING))


def terms(pairs: Mapping[str, object]) -> Html:
    """A list of names and texts; None and "" are left out."""
    term = Html("<dt>{}</dt><dd>{}</dd>")
    lines = [term.format(name, v) for name, v in pairs.items() if v not in (None, "")]
    return Html("<dl>\n{}\n</dl>").format(joined(lines)) if lines else NOTHING


def paragraph(text: object) -> Html:
    """A paragraph; empty for no text."""
    return Html("<p>{}</p>").format(text) if text else NOTHING


def note(text: object) -> Html:
    """A paragraph in a softer ink; empty for no text."""
    return Html('<p class="soft">{}</p>').format(text) if text else NOTHING
