"""What the multi-teacher study's section says in words."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

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


def title(params: MultiTeacher) -> str:
    """What a setting was measured on."""
    what = "Lambda sweep" if params.lambdas else "Multi-teacher distillation"
    return f"{what} on {params.data}, {len(params.teacher_models)} teachers"


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
        lines.append(
            "Published numbers: single unseeded runs of 20 epochs on all 60,000 training images, "
            "other initial weights for each method, fidelity on the test images used throughout; "
            "their student without teachers is only in the sweeps."
        )
    return lines + [DIGITS] * (params.data == "digits")


def answer(tables: Tables, params: MultiTeacher) -> list[str]:
    """What was found, in two or three sentences."""
    effects = tables["effects"]
    if effects.empty:
        return ["There is no student without teachers to compare with."]
    found = _sweep(tables["cells"]) if params.lambdas else _methods(effects)
    note = seeds_note(len(params.seeds)).split(",")[0]
    return [*(f"{text} ({note})." for text in found), *_correlation(tables["cells"], note)]


def _methods(effects: pd.DataFrame) -> list[str]:
    shown = readable(effects)
    lines = []
    for student, part in effects.groupby("student", sort=False):
        own = shown.loc[part.index].set_axis(part["method"])
        acc, closer = part.set_index("method")["acc_effect"], part["mean_individual_effect"] < 0
        low, high = acc.idxmin(), acc.idxmax()
        ends = " to ".join(f"{own.loc[at, 'ACC effect, points']} ({at})" for at in (low, high))
        lines.append(
            f"{student}: against no teachers, accuracy {ends} points; {int(closer.sum())} of "
            f"{len(part)} methods bring the student closer to the teachers (mean individual KL)"
        )
    return lines


def _sweep(cells: pd.DataFrame) -> list[str]:
    lines = []
    for student, part in cells.groupby("student", sort=False):
        line = part.set_index("lambda")
        rest = line.drop(index=0, errors="ignore")
        best, far = rest["acc"].idxmax(), rest.index.max()
        lines.append(
            f"{student}: {_acc(line, 0)} at lambda 0, at best {_acc(rest, best)} at {best:g}; "
            f"from lambda 0 to {far:g} the KL to the centroid of logits falls from "
            f"{line['centroid_logits'].get(0, float('nan')):.3f} to "
            f"{line.loc[far, 'centroid_logits']:.3f}, the mean individual KL goes from "
            f"{line['mean_individual'].get(0, float('nan')):.3f} to "
            f"{line.loc[far, 'mean_individual']:.3f}"
        )
    return lines


def _acc(line: pd.DataFrame, at: float) -> str:
    return f"{100 * line.loc[at, 'acc']:.2f} %" if at in line.index else "nothing"


def _correlation(cells: pd.DataFrame, note: str) -> list[str]:
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
        "Closer to the centroid and more accurate go together with rank correlation "
        f"{'; '.join(texts)} over the cells; +1: the closer, the more accurate ({note}, "
        "descriptive)."
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
