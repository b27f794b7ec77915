"""What the multi-teacher study's section says in words."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from kdlib.report.literature import read
from kdlib.report.text import DIGITS, readable, seeds_note
from kdlib.studies.multi_teacher import MultiTeacher

Tables = Mapping[str, pd.DataFrame]
QUESTION = (
    "Does a student of several teachers follow them, and does that help? Fidelity is KL(teacher || "
    "student) at temperature 4 in nats, lower is closer; the centroid is the mean of the teachers' "
    "probabilities, or of their logits: two different things. Students of a seed share initial "
    "weights, batches, dropout and teachers; without teachers they are compared with the same ones."
)
EFFECTS = (
    "Each cell minus the same student without teachers (in a sweep: lambda 0), inside each seed; "
    "a negative effect on a KL means closer"
)
CONTRASTS = (
    "What one part of a method does: method minus versus, which differ in one thing (what), inside "
    "each seed"
)
FOLLOWING = (
    "Accuracy and NLL over fidelity, a point a cell with its 95 % intervals; the star is the "
    "teachers' ensemble, which follows its own centroid perfectly"
)
NETWORKS = (
    "What a prediction costs: parameters, operations of one image and, measured on one machine, "
    "networks in turn, the milliseconds of a forward (fp32); an ensemble needs all the teachers"
)
TEACHERS = (
    "On test. Diversity: KL(teacher || mean of the teachers' probabilities) at temperature 4; the "
    "mean of the individual fidelities is the centroid fidelity (probabilities) plus its mean. "
    "The published accuracies are the best epoch on test, ours the last epoch"
)
PAIRS = "KL(teacher || other), KL(other || teacher) and Jensen-Shannon on test, temperature 4"
WEIGHTS = (
    "Fidelity to each teacher on test, and the weight it had in the loss, mean of the first and of "
    "the last epoch, as used"
)
PUBLISHED = (
    "Published numbers: single unseeded runs of 20 epochs on all 60,000 training images, with "
    "MNIST's statistics, each method from other weights; teachers of 20 to 30 epochs, of "
    "which the one best on test was kept; fidelity was followed on test throughout."
)


def title(params: MultiTeacher) -> str:
    """What a setting was measured on."""
    what = "Lambda sweep" if params.lambdas else "Multi-teacher distillation"
    seeds = f"{len(params.seeds)} seed{'s' * (len(params.seeds) != 1)}"
    return f"{what} on {params.data}, {len(params.teacher_models)} teachers, {seeds}"


def caption(params: MultiTeacher) -> str:
    """Of the students' table."""
    note = seeds_note(len(params.seeds))
    return f"Students on test: {note}; agreement is top-1 with each teacher, mean over them"


def facts(params: MultiTeacher, tables: Tables) -> list[str]:
    """What a reader must know: what the box can tell, the path of teacher views."""
    lines = [seeds_note(len(params.seeds)).capitalize() + "."]
    views = tables["cells"][tables["cells"]["teacher_views"] != ""]
    if len(views):
        paths = views.groupby("teacher_views", sort=False)["method"].unique()
        texts = (f"{path} for {', '.join(names)}" for path, names in paths.items())
        lines.append(f"Teachers' views in training: {'; '.join(texts)}.")
    published = [name for name in tables["cells"] if name.endswith("_published")]
    if tables["cells"][published].notna().any(axis=None):
        lines += [PUBLISHED, _ours(params), *_repeats()]
    return lines + [DIGITS] * (params.data == "digits")


def _ours(params: MultiTeacher) -> str:
    """What of that is different here."""
    epochs = params.recipe(**params.teacher_recipe).epochs
    return (
        f"Ours: the last of {params.epochs} epochs, teachers of {epochs}, the set's own "
        f"statistics, validation images kept out of training, {params.precision}, the same initial "
        "weights for every method."
    )


def _repeats() -> list[str]:
    """How far published runs of one thing, the student without teachers, are apart."""
    table = read("multi_teacher")
    same = (table["student"] == "student") & (table["metric"] == "test_acc_final")
    found = sorted(table.loc[same & (table["lambda"] == 0), "value"])
    return [
        f"Published students without teachers are only in the sweeps: {len(found)} runs of lambda "
        f"0 ended at {', '.join(f'{value:.2f}' for value in found)} %, up to "
        f"{found[-1] - found[0]:.2f} points apart."
    ]


def answer(tables: Tables, params: MultiTeacher) -> list[str]:
    """What was found, in two or three sentences."""
    effects = tables["effects"]
    if effects.empty or (effects := effects.dropna(subset="acc_effect")).empty:
        return ["There is no student without teachers to compare with."]
    note = seeds_note(len(params.seeds)).split(":")[0]
    found = [_sweep(effects), *_chosen(effects, tables)] if params.lambdas else _methods(effects)
    return [f"{text} ({note})." for text in [*found, *_correlation(tables["cells"])]]


def _methods(effects: pd.DataFrame) -> list[str]:
    shown = readable(effects)
    lines = []
    for student, part in effects.groupby("student", sort=False):
        own = shown.loc[part.index].set_axis(part["method"])
        clearly, better = _clearly(part), _beyond(part, "acc", 1)
        to_mean, to_each = (_beyond(part, of, -1) for of in ("centroid_logits", "mean_individual"))
        comes = f"{to_mean.sum()} come{'s' if to_mean.sum() == 1 else ''}"
        are = f"{better.sum()} {'is' if better.sum() == 1 else 'are'}"
        lines.append(
            f"{student}: against no teachers, accuracy "
            f"{_ends(part, own, 'acc', 'ACC effect, points')} points; of {len(part)} methods "
            f"{comes} {clearly}closer to the centroid of the teachers' logits and {to_each.sum()} "
            f"to the teachers one by one (mean individual KL), {are} {clearly}more "
            f"accurate, {(better & (to_mean | to_each)).sum()} of them closer, too"
        )
        if part["ece_after_effect"].notna().all():
            lines.append(
                f"{student}: ECE {_ends(part, own, 'ece', 'ECE effect')}, after one temperature "
                f"each {_ends(part, own, 'ece_after', 'ECE after T effect')}"
            )
    return lines


def _ends(part: pd.DataFrame, shown: pd.DataFrame, name: str, heading: str) -> str:
    """The lowest and the highest effect on a metric, as shown under a heading, with its method."""
    values = part.set_index("method")[f"{name}_effect"]
    ends = dict.fromkeys((values.idxmin(), values.idxmax()))
    return " to ".join(f"{shown.loc[at, heading]} ({at})" for at in ends)


def _beyond(effects: pd.DataFrame, name: str, sign: int) -> pd.Series:
    """Whether an effect lies on one side of 0, with its whole interval where there is one."""
    return sign * effects[f"{name}_effect"] > effects[f"{name}_effect_ci95"].fillna(0)


def _clearly(effects: pd.DataFrame) -> str:
    return "clearly " * bool(effects["acc_effect_ci95"].notna().all())


def _sweep(effects: pd.DataFrame) -> str:
    """The sweep in one sentence: does a student that is made to follow its teachers generalise
    better? From lambda 0 to the largest."""
    ends = effects[effects["lambda"] == effects["lambda"].max()]
    shown, names = readable(ends), _names(ends)
    parts, counts = [], []
    for name, heading, sign, words in (
        ("centroid_logits", "KL to centroid of logits effect", -1,
         "closer to the centroid of the teachers' logits (KL:"),
        ("acc", "ACC effect, points", 1, "more accurate on test (points:"),
        ("nll", "NLL effect", -1, "lower in test NLL (by:"),
    ):  # fmt: skip
        listed = ", ".join(" ".join(pair) for pair in zip(names, shown[heading], strict=True))
        counts.append(int(_beyond(ends, name, sign).sum()))
        parts.append(f"{counts[-1]} {_clearly(ends)}{words} {listed})")
    far = ends["lambda"].max()
    head = f"From lambda 0 to {far:g}, of {len(ends)} students"
    return f"{head} {', '.join(parts)}: {_verdict(*counts, len(ends))}"


def _verdict(closer: int, accurate: int, lower: int, students: int) -> str:
    """What counts of students allow to say.

    >>> _verdict(3, 3, 3, 3), _verdict(3, 0, 0, 3)
    ('who followed more, generalised better', 'who followed more, generalised no better')
    >>> _verdict(3, 2, 0, 3), _verdict(0, 3, 3, 3)
    ('following more and generalising better did not go together', 'nobody followed more')
    """
    if not closer:
        return "nobody followed more"
    if closer == accurate == lower == students:
        return "who followed more, generalised better"
    if not accurate and not lower:
        return "who followed more, generalised no better"
    return "following more and generalising better did not go together"


def _chosen(effects: pd.DataFrame, tables: Tables) -> list[str]:
    """What the lambda that validation chooses does to the accuracy on test, student by student."""
    keys = ["student", "method", "lambda"]
    table = effects.merge(tables["cells"][[*keys, "val_acc"]], on=keys).dropna(subset="val_acc")
    if table["lambda"].nunique() < 2:
        return []
    best = table.loc[table.groupby(keys[:2], sort=False)["val_acc"].idxmax()]
    changes = zip(_names(best), best["lambda"], readable(best)["ACC effect, points"], strict=True)
    listed = ", ".join(f"{name} {text} ({at:g})" for name, at, text in changes)
    return [
        f"With the lambda above 0 that is best on validation (in brackets), test accuracy differs "
        f"from lambda 0 by {listed} points"
    ]


def _names(table: pd.DataFrame) -> list[str]:
    """A cell's student, with its method where a sweep has several."""
    several = table["method"].nunique() > 1
    joined = table["student"] + (", " + table["method"] if several else "")
    return list(joined)


def _correlation(cells: pd.DataFrame) -> list[str]:
    """Do fidelity and accuracy order the cells alike? Spearman's rho, within each student."""
    texts = []
    for student, part in cells.groupby("student", sort=False):
        whole = part.dropna(subset=["acc", "mean_individual"])
        varied = whole[["acc", "centroid_probs", "centroid_logits"]].nunique()
        if len(whole) > 3 and varied.min() > 1:
            rhos = {
                name: whole["acc"].corr(-whole[name], method="spearman")
                for name in ("centroid_probs", "centroid_logits")
            }
            of = ", ".join(f"{rho:+.2f} ({name.split('_')[1]})" for name, rho in rhos.items())
            texts.append(f"{student} {of}")
    if not texts:
        return []
    return [
        f"Rank correlation over the cells of closeness to the centroid and accuracy: "
        f"{'; '.join(texts)}; +1 would be: the closer, the more accurate, -1 the opposite"
    ]


def summary(tables: Tables, params: MultiTeacher) -> str:
    """The section for the terminal."""
    setting = f" ({params.setting})" if params.setting else ""
    shown = readable(tables["cells"][_columns(tables["cells"])])
    lines = [title(params) + setting, seeds_note(len(params.seeds))]
    lines += shown.to_string(index=False).splitlines() if len(shown) <= 16 else []
    return "\n".join([*lines, *answer(tables, params)]) + "\n"


def _columns(cells: pd.DataFrame) -> list[Any]:
    wanted = ["student", "method", "lambda", "acc", "nll", "centroid_probs", "mean_individual"]
    return [name for name in (*wanted, "acc_published") if name in cells]
