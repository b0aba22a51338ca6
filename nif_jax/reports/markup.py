"""Pieces of HTML: everything is inlined and every text escaped, so that a page opens offline."""

import base64
import html
import json
from collections.abc import Mapping, Sequence
from string import Template
from typing import Any

from nif_jax.metrics.bootstrap import VERDICTS
from nif_jax.reports.tables import NOT_AVAILABLE, Table

# The column that stays in sight where a wide table is scrolled: the first of these that it has.
_KEYS = ("model", "measurement", "key", "run", "form", "arm")
_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root { color-scheme: light dark; --page: #fff; --ink: #1c1e21; --soft: #5b6068;
  --line: #d9dce1; --head: #f3f4f6; --better: #0b6e4f; --worse: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --page: #15171a; --ink: #e8eaed; --soft: #a3a9b2; --line: #363b42; --head: #20242a;
    --better: #5fd3a8; --worse: #ff8a80; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 1rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
p, li, dd, figcaption { max-width: 45rem; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.soft { margin: .25rem 0; }
.scroll { overflow-x: auto; overflow-wrap: normal; margin: .25rem 0 .75rem; }
table { border-collapse: separate; border-spacing: 0; font-size: .88rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; background: var(--page); }
th { background: var(--head); }
.name { text-align: left; }
.key { position: sticky; left: 0; border-right: 1px solid var(--line); }
.better { color: var(--better); }
.worse { color: var(--worse); }
.no-difference, .undefined { color: var(--soft); }
figure { margin: 1rem 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
@media (max-width: 40rem) { img { max-width: none; width: auto; height: 20rem; } }
pre { overflow-x: auto; overflow-wrap: normal; padding: .75rem; background: var(--head);
  border-radius: 6px; font-size: .82rem; }
summary { cursor: pointer; font-weight: 600; margin: 1rem 0 .5rem; }
.run { border-top: 1px solid var(--line); }
.run > summary { font-size: 1.1rem; }
dt { font-weight: 600; margin-top: .5rem; }
dd { margin: 0; }
a { color: inherit; }
</style>
</head>
<body>
$body
</body>
</html>
""")


def page(title: str, parts: Sequence[str]) -> str:
    """A whole document of pieces of HTML below its title."""
    heading = f"<h1>{text(title)}</h1>"
    return _PAGE.substitute(title=text(title), body="\n".join([heading, *parts]))


def table(content: Table) -> str:
    """A table in a box that scrolls; columns of names that are the same in all rows go above it."""
    if not content.rows:
        return soft("No rows.")
    columns = list(zip(*content.rows, strict=True))
    constant = [index for index in range(content.labels)
                if len(content.rows) > 1 and len(set(columns[index])) == 1]
    shown = [index for index in range(len(content.header)) if index not in constant]
    key = next((content.header.index(name) for name in _KEYS if name in content.header), None)
    lines = [
        "<tr>" + "".join(_cell(tag, cells[index], index < content.labels, index == key)
                         for index in shown) + "</tr>"
        for tag, cells in [("th", content.header), *(("td", row) for row in content.rows)]
    ]  # fmt: skip
    above = ", ".join(f"{content.header[index]}: {columns[index][0]}" for index in constant)
    body = "\n".join(lines[1:])
    return (soft(above) if above else "") + (
        f'<div class="scroll"><table><thead>{lines[0]}</thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def heading(title: str, level: int) -> str:
    """<h2> and the like."""
    return f"<h{level}>{text(title)}</h{level}>"


def folded(title: str, content: str) -> str:
    """Shown when the reader asks for it."""
    return f"<details><summary>{text(title)}</summary>{content}</details>"


def figure(png: bytes, caption: str) -> str:
    """A picture with its caption."""
    data = base64.b64encode(png).decode("ascii")
    return (f'<figure><div class="scroll"><img alt="{text(caption)}" '
            f'src="data:image/png;base64,{data}"></div>'
            f"<figcaption>{text(caption)}</figcaption></figure>")


def bullets(items: Sequence[str]) -> str:
    """A list of texts."""
    return "<ul>" + "".join(f"<li>{text(item)}</li>" for item in items) + "</ul>"


def definitions(terms: Mapping[str, str]) -> str:
    """Terms and what they mean."""
    return "<dl>" + "".join(
        f"<dt>{text(term)}</dt><dd>{text(meaning)}</dd>" for term, meaning in terms.items()
    ) + "</dl>"  # fmt: skip


def preformatted(content: Any) -> str:
    """JSON of a value."""
    return f"<pre>{text(json.dumps(content, indent=2, ensure_ascii=False))}</pre>"


def soft(content: str) -> str:
    """A paragraph that steps back."""
    return f'<p class="soft">{text(content)}</p>'


def value(content: Any, form: str = ".4f") -> str:
    """Text of a JSON scalar: integers in full, other numbers in a format."""
    if content is None:
        return NOT_AVAILABLE
    return format(content, form) if isinstance(content, float) else str(content)


def text(content: str) -> str:
    """The text escaped, for element and attribute alike."""
    return html.escape(content, quote=True)


def _cell(tag: str, content: str, name: bool, key: bool) -> str:
    verdicts = [] if name else VERDICTS  # a run may be called "better"
    verdict = next((v.replace(" ", "-") for v in verdicts if content.endswith(v)), "")
    classes = " ".join(filter(None, ("name" if name else "", "key" if key else "", verdict)))
    attribute = f' class="{classes}"' if classes else ""
    return f"<{tag}{attribute}>{text(content)}</{tag}>"
