"""The report as one HTML page: readable offline, tables sortable by a click on a heading."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import pandas as pd

from kdlib.grid import NO_KD, STUDY
from kdlib.pipeline import HIGH_SHARE, LOW_SHARE
from kdlib.report.study import Study
from kdlib.report.tables import CELL, published
from kdlib.report.text import (
    DIGITS,
    answer,
    flagged,
    no_best,
    readable,
    resolution,
    seeds_note,
    title,
)
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
AFTER = """The plain student has no KD, cross-entropy and no mixup. T (and tau) are fitted on
validation by the NLL with classes weighted alike: softmax(z / T - tau log prior). An optimistic
bound is fitted on images that a long-tailed set would not have; tau = 1 (Menon et al. 2021) fits
nothing and applies to students without KD whose loss does not hold the prior. A cell is better
where both metrics are, on average over pairs of one seed; clearly so where both 95 % intervals over
seeds lie beyond 0. Where validation is small, a fit can end at its bound, and a label can be left
without any probability (NLL inf): such an adjustment is no rival. The best of many cells is
chosen by test here, so it is optimistic; the median is not."""
NLL_EFFECT = ["nll_effect", "nll_effect_ci95"]  # the CSV has them
INTERACTIONS = "Two-way interactions: how much a level changes the effect of another"
STABILITY = "How often a cell is in the top 5 by Harmonic when the test images are redrawn"
GRIDS = "Cells of the main grid and what changes with one choice; a weight is judged on validation"
BATCH = "What averaging the ECE over batches does to a perfectly calibrated predictor"
DEMO = """Labels are drawn from the predicted probabilities of 10,000 images and 10 classes, so the
true calibration error is 0. What is left is noise of the bins, which the floor estimates; a mean
over batches of 128 keeps the noise of a batch however many batches there are."""
NOWHERE: Mapping[str, str] = {}
Images = Mapping[str, tuple[str, Path]]
CONTROLS = "Students without KD before and after adjustment; T and tau: medians over seeds"
CONTESTS = "Cells against the plain student after adjustment: cell - plain, paired inside seeds"
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
.answer {font-size: 1.1rem}
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


def section(study: Study, images: Images, files: Sequence[str]) -> str:
    """A grid's part of the page. images: name -> caption and PNG. files: names of its tables."""
    settings, note = study.params, seeds_note(len(study.params.seeds))
    both = published(study.cells, settings.data, settings.imbalance_factor)
    none = f" (none for {settings.data})" * bool(both["acc_published"].isna().all())
    every = f"Every cell and control, beside the published numbers{none}; {note}"
    folders = {row["id"]: row["folder"] for row in study.students + study.teachers}
    facts = [*_scale(study), _completeness(study), resolution(study), no_best(study.students[0])]
    parts = [
        f"<h2>{escape(title(settings))}</h2>",
        _items(answer(study), "answer"),
        _items(facts),
        *_effects(study, images, note),
        *_cells(study, images, note),
        *_posthoc(study, images),
        "<h3>Networks</h3>",
        *_unread(study),
        *_images(images, "reliability", "risk_coverage", "class_frequency", "learning_curves"),
        *_controls(study, note),
        "<h3>All runs</h3>",
        _folded(both, every, folders),
        _folded(study.teacher_cells, f"Teachers; {note}", folders),
        _folded(flagged(study.students), FLAGGED),
        "<h3>Origin</h3>",
        _items([_made_with(part) for part in (study.students, study.teachers) if part]),
        _links("Files", _addresses(settings.setting, images, files)),
    ]
    return "\n".join(parts)


def _effects(study: Study, images: Images, note: str) -> list[str]:
    effects, interactions = (
        table.drop(columns=NLL_EFFECT, errors="ignore")
        for table in (study.summary, study.interactions)
    )
    return [
        "<h3>Effects of the factors</h3>",
        *_images(images, "effects"),
        _table(effects, f"Means and paired effects of each factor; {note}"),
        _folded(interactions, f"{INTERACTIONS}; {note}"),
    ]


def _cells(study: Study, images: Images, note: str) -> list[str]:
    return [
        "<h3>Cells</h3>",
        _table(_narrow(study.top), f"Top {len(study.top)}, descriptive, by test Harmonic; {note}"),
        *_images(images, "acc_vs_ece", "harmonic", "teacher_student_means", "rank_stability"),
        _folded(study.stability, STABILITY),
    ]


def _posthoc(study: Study, images: Images) -> list[str]:
    """The post-hoc answer: the students without KD before and after, and the contests."""
    parts = ["<h3>After training</h3>"]
    if study.contests.empty:
        parts.append("<p>The plain student or its adjustments are missing: nothing to beat.</p>")
    else:
        contests = study.contests.drop(columns="seeds")
        bound = contests["against plain with"].str.contains("bound")
        controls = _narrow(study.posthoc[study.posthoc["kd_method"] == NO_KD])
        parts += [f'<p class="note">{AFTER}</p>', _table(contests[~bound], CONTESTS)]
        parts.append(_folded(contests[bound], "The same against the optimistic bounds"))
        parts.append(_folded(controls, CONTROLS))
    return [*parts, *_images(images, "before_after")]


def _controls(study: Study, note: str) -> list[str]:
    if not study.params.controls:
        return []
    table = study.control_grids
    shown = _table(_narrow(table), f"{GRIDS}; {note}") if len(table) else "<p>No row yet.</p>"
    return ["<h3>Control grids</h3>", shown]


def _unread(study: Study) -> list[str]:
    """Which figures and tables lack predictions, if any."""
    rows = study.students + study.teachers
    lacking = study.unread(row["id"] for row in rows)
    if not lacking:
        return []
    return [
        f"<p>Predictions of {len(lacking)} of {len(rows)} runs are not stored here, so what is "
        "drawn from them (rank stability, reliability, risk and coverage) is left out or covers "
        "the others.</p>"
    ]


def _addresses(setting: str, images: Images, files: Sequence[str]) -> dict[str, str]:
    place = "/".join(filter(None, ["..", STUDY, setting]))
    addresses = {f"{name}.csv": f"{place}/{name}.csv" for name in files}
    return addresses | {f"{name}.svg": f"{place}/figures/{name}.svg" for name in images}


def _narrow(cells: pd.DataFrame) -> pd.DataFrame:
    """Without the columns that a cell's name repeats, and without ids."""
    return cells.drop(columns=[*CELL, "runs"], errors="ignore")


def _completeness(study: Study) -> str:
    """The runs that are missing, all by name."""
    if not study.lacking:
        return "No run of the grid is missing."
    return (
        f"{len(study.lacking)} runs are missing: {', '.join(study.lacking)}. Their cells have no "
        "Harmonic score, and the means and effects they belong to leave their seeds out."
    )


def _scale(study: Study) -> list[str]:
    """How large the study is and what it was measured on."""
    n, test = len(study.params.seeds), study.students[0]["data"]["test_counts"]
    runs = (
        f"n = {n} seed{'s' * (n > 1)}: {len(study.students)} students in {len(study.cells)} cells "
        f"and {len(study.teachers)} teachers, measured on {sum(test)} test images."
    )
    return [runs, *_data_facts(study.students), *[DIGITS] * (study.params.data == "digits")]


def _items(texts: Sequence[str], kind: str = "") -> str:
    return (
        f'<ul class="{kind}">' + "".join(f"<li>{escape(text)}</li>\n" for text in texts) + "</ul>"
    )


def _table(table: pd.DataFrame, caption: str = "", folders: Mapping[str, str] = NOWHERE) -> str:
    """A table for readers: columns of numbers to the right, columns without any value left out.

    folders: run id -> the folder of its results; a column `runs` then links to their rows.
    """
    shown = readable(table.dropna(axis="columns", how="all"))
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


def _folded(table: pd.DataFrame, heading: str, folders: Mapping[str, str] = NOWHERE) -> str:
    """A table that a click on its heading opens; an empty one says so."""
    body = _table(table, folders=folders) if len(table) else "<p>none</p>"
    return f"<details><summary>{escape(heading)}</summary>{body}</details>"


def _images(images: Images, *names: str) -> list[str]:
    """PNGs inside the page; what was not drawn is left out."""
    return [_image(*images[name]) for name in names if name in images]


def _image(caption: str, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img alt="{escape(caption)}" src="data:image/png;base64,{data}"></p>'


def _links(head: str, targets: Mapping[str, str]) -> str:
    """Files beside the page: text -> relative address."""
    anchors = (f'<a href="{escape(to)}">{escape(text)}</a>' for text, to in targets.items())
    return f"<p>{head}: {', '.join(anchors)}</p>" if targets else ""


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


def batch_ece(table: pd.DataFrame, image: Path) -> str:
    """Why no ECE here is a mean over batches, in a fold."""
    body = f'<p class="note">{DEMO}</p>{_table(table)}{_image(BATCH, image)}'
    return f"<details><summary>{BATCH}</summary>{body}</details>"


def page(sections: Sequence[str], measurement: str, notebooks: Sequence[str]) -> str:
    """The whole document. measurement: of `batch_ece`; notebooks: addresses of executed ones."""
    executed = {address.split("/notebooks/")[-1]: address for address in notebooks}
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>KD x calibration</title>\n<style>{STYLE}</style></head>\n<body>\n"
        f"<h1>KD x calibration</h1>\n<p>{QUESTION}</p>\n"
        f'{"".join(sections)}\n<h2>How it is measured</h2>\n<p class="note">{READING}</p>\n'
        f"{measurement}{_links('Executed notebooks', executed)}\n"
        f"<script>{SCRIPT}</script>\n</body></html>\n"
    )
