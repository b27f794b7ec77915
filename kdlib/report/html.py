"""Fragments of HTML for the report: text in, escaped HTML out; tables sort by a click on a heading.

Every function but `document` returns a string to be joined into a section (`kdlib.report.compose`).
Addresses are relative to the page, which lies in `<out_dir>/report/`.
"""

from collections.abc import Iterable, Mapping
from html import escape

import pandas as pd

from kdlib.report.text import readable
from kdlib.store import Row

STYLE = """
body {font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
  color: #222}
h1 {font-size: 1.6rem} h2 {margin-top: 3rem; border-bottom: 1px solid #ccc}
img {max-width: 100%; height: auto} a {color: #0060a0} .note {color: #555}
figure {margin: 1.5rem 0} figcaption {color: #555; font-size: 13px}
.wide {overflow-x: auto; margin: 1rem 0}
table {border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums}
caption {text-align: left; color: #555; padding: .3rem 0}
th, td {padding: .15rem .6rem; border-bottom: 1px solid #e4e4e4; text-align: left;
  white-space: nowrap}
th {vertical-align: bottom; white-space: normal} .n {text-align: right}
th button {font: inherit; font-weight: 600; border: 0; padding: 0; background: none; color: inherit;
  cursor: pointer; text-align: inherit}
[aria-sort=ascending] button::after {content: " \\2191"}
[aria-sort=descending] button::after {content: " \\2193"}
.answer {font-size: 1.1rem}
summary {cursor: pointer; margin: .6rem 0; font-weight: 600}
"""
SCRIPT = """
for (const button of document.querySelectorAll("th button")) button.onclick = () => {
  const head = button.parentNode, body = head.closest("table").tBodies[0];
  const order = head.ariaSort === "descending" ? "ascending" : "descending";
  const text = row => row.cells[head.cellIndex].textContent.replace("inf", "Infinity");
  const compare = (a, b) => parseFloat(text(a)) - parseFloat(text(b))
    || text(a).localeCompare(text(b));
  const rows = [...body.rows].sort(compare);
  for (const other of head.parentNode.cells) other.ariaSort = null;
  head.ariaSort = order;
  body.append(...(order === "ascending" ? rows : rows.reverse()));
};
"""
NUMBER = r"[+-]?(\d|inf\b)|$"  # how the cells of a column of numbers begin
NOWHERE: Mapping[str, str] = {}


def heading(text: str) -> str:
    """A heading inside a section; the section's own title is the only one above it."""
    return f"<h3>{escape(text)}</h3>"


def note(text: str) -> str:
    """A paragraph in grey: how to read what follows."""
    return f'<p class="note">{escape(text)}</p>'


def items(texts: Iterable[str], kind: str = "") -> str:
    """A list of sentences. kind "answer": larger, for what the section has found."""
    lines = "".join(f"<li>{escape(text)}</li>\n" for text in texts)
    return f'<ul class="{kind}">{lines}</ul>'


def table(table: pd.DataFrame, caption: str = "", folders: Mapping[str, str] = NOWHERE) -> str:
    """A table for readers (`kdlib.report.readable`), sortable; an empty one says so.

    Numbers stand to the right, columns without any value are left out. folders: run id -> the
    folder of its results (a row's `folder`); a column `runs` of ids joined by "; " then links to
    the runs' rows, by seed.
    """
    if table.empty:
        return note(f"{caption}: none" if caption else "none")
    shown = readable(table)
    shown = shown.loc[:, shown.ne("").any()]
    sides = [' class="n"' * bool(shown[name].str.match(NUMBER).all()) for name in shown]
    heads = (
        f'<th scope="col"{side}><button>{escape(name)}</button></th>'
        for name, side in zip(shown, sides, strict=True)
    )
    lines = (
        "".join(
            f"<td{side}>{_rows(cell, folders) if name == 'runs' else escape(cell)}</td>"
            for name, cell, side in zip(shown, line, sides, strict=True)
        )
        for line in shown.to_numpy()
    )
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return (
        f'<div class="wide"><table>{f"<caption>{escape(caption)}</caption>" if caption else ""}\n'
        f"<thead><tr>{''.join(heads)}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
    )


def _rows(runs: str, folders: Mapping[str, str]) -> str:
    """Links to the rows of runs, by seed; a run without a row has none."""
    links = (
        f'<a href="../{escape(folders[run])}/rows/{escape(run)}.json">{run.split("-")[-2]}</a>'
        for run in runs.split("; ")
        if run in folders
    )
    return " ".join(links)


def folded(head: str, *parts: str) -> str:
    """Parts that a click on their heading opens."""
    return f"<details><summary>{escape(head)}</summary>{''.join(parts)}</details>"


def figure(address: str, caption: str) -> str:
    """A PNG with its caption; a click opens the SVG beside it."""
    vector = escape(address.removesuffix(".png") + ".svg")
    image = f'<img alt="{escape(caption)}" src="{escape(address)}">'
    caption = f"<figcaption>{escape(caption)}</figcaption>"
    return f'<figure><a href="{vector}">{image}</a>{caption}</figure>'


def links(head: str, targets: Mapping[str, str]) -> str:
    """Files beside the page: text -> address; nothing where there is none."""
    anchors = (f'<a href="{escape(to)}">{escape(text)}</a>' for text, to in targets.items())
    return f"<p>{escape(head)}: {', '.join(anchors)}</p>" if targets else ""


def made_with(rows: Iterable[Row]) -> str:
    """Models, epochs, code and versions that stored rows state, in one sentence."""
    facts: dict[str, set[str]] = {"model": set(), "epochs": set(), "commit": set(), "torch": set()}
    for row in rows:
        recipe, origin = row["run"]["recipe"], row["provenance"]
        facts["model"].add(row["run"]["model"])
        facts["epochs"].add(str(recipe["epochs"]) if recipe else "given")
        facts["commit"].add(origin["commit"][:10] + " with changes" * bool(origin["dirty"]))
        facts["torch"].add(origin["versions"]["torch"])
    lines = (f"{name} {', '.join(sorted(values))}" for name, values in facts.items())
    return f"Made with: {'; '.join(lines)}."


def document(title: str, parts: Iterable[str]) -> str:
    """A whole page, with its style and the script that sorts."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n{chr(10).join(parts)}\n"
        f"<script>{SCRIPT}</script>\n</body></html>\n"
    )
