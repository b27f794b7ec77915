"""The report as one HTML page: readable offline, tables sortable by a click on a heading."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import pandas as pd

from kdlib.grid import STUDY
from kdlib.pipeline import HIGH_SHARE, LOW_SHARE
from kdlib.report.tables import CELL, Study, published
from kdlib.report.text import flagged, headlines, no_best, readable, seeds_note, title
from kdlib.store import Row

QUESTION = """Which KD method, teacher loss, student loss and mixup give accuracy <em>and</em>
calibration under class imbalance? A cell is one choice of the four; the controls are the same
students without a teacher (no KD)."""
READING = """ACC is the share of correct test images. ECE (15 equal-width bins, all test images) is
the gap between confidence and accuracy; its floor is what a perfectly calibrated network would
show on as many images. Harmonic is the harmonic mean of ACC and 1 - ECE, each scaled to [0, 1] over
the cells with KD of one grid: it does not compare between grids. KD share is the gradient of the KD
term over that of the label loss, both weighted. All numbers are of the last epoch, but for those
of the selected one, which validation chose. An effect is the mean difference of pairs of runs that
are equal in everything else, inside each seed. ALS, label-aware smoothing, comes from the second
stage of its own recipe and is used end to end here."""
STYLE = """
body {font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem;
  color: #222}
h1 {font-size: 1.6rem} h2 {margin-top: 3rem; border-bottom: 1px solid #ccc}
img {max-width: 100%} a {color: #0060a0} .note {color: #555}
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
summary {cursor: pointer; margin: .6rem 0; font-weight: 600}
"""
FLAGGED = f"Flagged runs: KD share below {LOW_SHARE:g} or above {HIGH_SHARE:g}, or no label loss"
NUMBER = r"[+-]?\d|$"  # how the cells of a column of numbers begin
SCRIPT = """
for (const button of document.querySelectorAll("th button")) button.onclick = () => {
  const head = button.parentNode, body = head.closest("table").tBodies[0];
  const order = head.ariaSort === "descending" ? "ascending" : "descending";
  const text = row => row.cells[head.cellIndex].textContent;
  const compare = (a, b) => parseFloat(text(a)) - parseFloat(text(b))
    || text(a).localeCompare(text(b));
  const rows = [...body.rows].sort(compare);
  for (const other of head.parentNode.cells) other.ariaSort = null;
  head.ariaSort = order;
  body.append(...(order === "ascending" ? rows : rows.reverse()));
};
"""


def section(study: Study, images: Mapping[str, Path], files: Sequence[str]) -> str:
    """A grid's part of the page. images: caption -> PNG. files: names of its CSV tables."""
    settings, rows = study.params, study.students
    note = seeds_note(len(settings.seeds))
    place = "/".join(filter(None, ["..", STUDY, settings.setting]))
    addresses = {f"{name}.csv": f"{place}/{name}.csv" for name in files}
    addresses |= {
        f"{path.stem}.svg": f"{place}/figures/{path.stem}.svg" for path in images.values()
    }
    effects = study.summary.drop(columns=["nll_effect", "nll_effect_ci95"])  # the CSV has them
    both = published(study.cells, settings.data, settings.imbalance_factor)
    none = f" (none for {settings.data})" * bool(both["acc_published"].isna().all())
    parts = [
        f"<h2>{escape(title(settings))}</h2>",
        _items([*_data_facts(rows), _completeness(study)]),
        _items([*headlines(study), f"{note}.", no_best(rows[0])]),
        _table(effects, f"Means and paired effects of each factor; {note}"),
        _table(_narrow(study.top), f"Top {len(study.top)}, descriptive, by test Harmonic; {note}"),
        *(_image(path, caption) for caption, path in images.items()),
        "<h3>All runs</h3>",
        _folded(both, f"Every cell and control, beside the published numbers{none}; {note}"),
        _folded(study.teacher_cells, f"Teachers; {note}"),
        _folded(flagged(rows), FLAGGED),
        "<h3>Origin</h3>",
        _items([_made_with(part) for part in (rows, study.teachers) if part]),
        _links(addresses),
    ]
    return "\n".join(parts)


def _narrow(cells: pd.DataFrame) -> pd.DataFrame:
    """Without the columns that a cell's name repeats, and without ids."""
    return cells.drop(columns=[*CELL, "runs"])


def _completeness(study: Study) -> str:
    """The runs that are missing, all by name."""
    if not study.lacking:
        return "No run of the grid is missing."
    return (
        f"{len(study.lacking)} runs are missing: {', '.join(study.lacking)}. Their cells have no "
        "Harmonic score, and the means and effects they belong to leave their seeds out."
    )


def _items(texts: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(text)}</li>\n" for text in texts) + "</ul>"


def _table(table: pd.DataFrame, caption: str = "") -> str:
    """A table for readers: columns of numbers to the right, columns without any value left out."""
    shown = readable(table.dropna(axis="columns", how="all"))
    sides = [' class="n"' * bool(shown[name].str.match(NUMBER).all()) for name in shown]
    heads = (
        f'<th scope="col"{side}><button>{escape(name)}</button></th>'
        for name, side in zip(shown, sides, strict=True)
    )
    lines = (
        "".join(f"<td{side}>{escape(cell)}</td>" for cell, side in zip(line, sides, strict=True))
        for line in shown.to_numpy()
    )
    body = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return (
        f'<div class="wide"><table>{f"<caption>{escape(caption)}</caption>" if caption else ""}\n'
        f"<thead><tr>{''.join(heads)}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
    )


def _folded(table: pd.DataFrame, heading: str) -> str:
    """A table that a click on its heading opens; an empty one says so."""
    body = _table(table) if len(table) else "<p>none</p>"
    return f"<details><summary>{escape(heading)}</summary>{body}</details>"


def _image(path: Path, caption: str) -> str:
    """A PNG inside the page."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img alt="{escape(caption)}" src="data:image/png;base64,{data}"></p>'


def _links(targets: Mapping[str, str]) -> str:
    """Files beside the page: text -> relative address."""
    anchors = (f'<a href="{escape(to)}">{escape(text)}</a>' for text, to in targets.items())
    return f"<p>Files: {', '.join(anchors)}</p>"


def _data_facts(rows: Sequence[Row]) -> list[str]:
    """The data as really used: one sentence for each selection with other counts."""
    facts = []
    for row in rows:
        parts = [row["run"]["data"] + ":"]
        for name, key in (("training", "class_counts"), ("validation", "val_counts")):
            counts = row["data"][key]
            parts.append(f"{sum(counts)} {name} images, by class {', '.join(map(str, counts))};")
        facts.append(" ".join(parts).removesuffix(";") + ".")
    return list(dict.fromkeys(facts))


def _made_with(rows: Sequence[Row]) -> str:
    """Models, epochs, code and versions that the rows state."""
    facts = {"model": {row["run"]["model"] for row in rows}, "epochs": set(), "commit": set()}
    facts["torch"] = {row["provenance"]["versions"]["torch"] for row in rows}
    for row in rows:
        recipe, origin = row["run"]["recipe"], row["provenance"]
        facts["epochs"].add(str(recipe["epochs"]) if recipe else "given")
        facts["commit"].add(origin["commit"][:10] + " with changes" * origin["dirty"])
    lines = (f"{name} {', '.join(sorted(values))}" for name, values in facts.items())
    return f"Made with: {'; '.join(lines)}."


def page(sections: Sequence[str]) -> str:
    """The whole document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>KD x calibration</title>\n<style>{STYLE}</style></head>\n<body>\n"
        f'<h1>KD x calibration</h1>\n<p>{QUESTION}</p>\n<p class="note">{READING}</p>\n'
        f"{''.join(sections)}<script>{SCRIPT}</script>\n</body></html>\n"
    )
