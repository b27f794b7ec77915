"""Tables against plain loops over the rows; the page and the terminal's summary against both."""

import math
import re
import statistics
from html.parser import HTMLParser
from itertools import product
from shutil import copytree

import numpy as np
import pandas as pd
import pytest
from report_helpers import FULL, fake_row, fake_rows, fake_store, params_of

from kdlib import grid, metrics, plots, report
from kdlib.report import images, literature, overlapping, tables, text
from kdlib.report.posthoc import ADJUSTMENTS
from kdlib.report.self_distillation.published import published_cells
from kdlib.report.study import Study
from kdlib.report.tables import missing
from kdlib.report.text import answer, flagged, resolution, seeds_note, terminal
from kdlib.store import write_atomic

T975 = {2: 4.302652729911275, 4: 2.7764451051977987}  # by degrees of freedom, from a printed table
SEEDS = [[0], [0, 1, 2]]
METRICS = ("acc", "nll", "ece")
ONE_CELL = {
    "kd_methods": ["kd"], "teacher_losses": ["ce"], "student_losses": ["ce"], "mixup": [False],
}  # fmt: skip


@pytest.fixture(scope="module", params=SEEDS, ids=["1 seed", "3 seeds"])
def study(request):
    params = params_of(seeds=request.param)
    return Study.of(fake_rows(params), params)


def key(row):
    return (*row["labels"].values(), row["run"]["seed"])


def numbers(rows, metric):
    """(kd, teacher, student, mixup, seed) -> number."""
    return {key(row): row["metrics"]["test"][metric] for row in rows}


def interval(values):
    """Mean and half-width of the 95 % t interval, from the textbook."""
    n = len(values)
    if n == 1:
        return values[0], math.nan
    return statistics.mean(values), T975[n - 1] * statistics.stdev(values) / math.sqrt(n)


def line(table, **labels):
    for name, value in labels.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_a_cell_is_its_mean_over_seeds(study):
    seeds = study.params.seeds
    assert len(study.cells) == 4 + 2 * 2 * 2 * 2
    for metric in METRICS:
        found = numbers(study.students, metric)
        for cell in study.cells.to_dict("records"):
            labels = [cell[name] for name in ("kd_method", "teacher_loss", "student_loss", "mixup")]
            mean, half = interval([found[(*labels, seed)] for seed in seeds])
            assert cell[metric] == pytest.approx(mean)
            assert cell[f"{metric}_ci95"] == pytest.approx(half, nan_ok=True)
    assert (study.cells["seeds"] == len(seeds)).all()


def test_an_infinite_value_has_a_mean_and_no_interval():
    """An NLL is infinite where a label was left without any probability."""
    mean, half, seeds = tables.over_seeds(pd.Series([1.0, math.inf, 2.0, math.nan]))
    assert (mean, seeds) == (math.inf, 3)
    assert math.isnan(half)


def test_harmonic_is_of_the_seed_means_of_the_cells_with_kd(study):
    taught = study.cells[study.cells["kd_method"] != "none"]
    for cell in taught.to_dict("records"):
        a = (cell["acc"] - min(taught["acc"])) / (max(taught["acc"]) - min(taught["acc"]))
        e = (cell["ece"] - min(taught["ece"])) / (max(taught["ece"]) - min(taught["ece"]))
        assert cell["harmonic"] == pytest.approx(2 * a * (1 - e) / (a + 1 - e) if a + 1 - e else 0)
    assert study.cells[study.cells["kd_method"] == "none"]["harmonic"].isna().all()


def test_the_order_is_that_of_the_params():
    params = params_of(kd_methods=["none", "kd", "at"], student_losses=["bs", "ce"])
    cells = Study.of(fake_rows(params)[::-1], params).cells
    assert list(dict.fromkeys(cells["kd_method"])) == ["none", "kd", "at"]
    assert list(cells["student_loss"][:4]) == ["bs", "bs", "ce", "ce"]


def literal_effect(study, factor, level, reference, metric):
    """Pairs by hand: each run of the level and the run that differs in the factor alone."""
    at = ("kd_method", "teacher_loss", "student_loss", "mixup").index(factor)
    found, by_seed = numbers(study.students, metric), []
    for seed in study.params.seeds:
        differences = []
        for labels, value in found.items():
            if labels[at] != level or labels[-1] != seed or labels[0] == "none":
                continue
            other = [*labels[:at], reference, *labels[at + 1 :]]
            other[1] = "none" if factor == "kd_method" else other[1]
            differences.append(value - found[tuple(other)])
        by_seed.append(statistics.mean(differences))
    return len(differences), interval(by_seed)


@pytest.mark.parametrize(
    ("factor", "level", "reference"),
    [
        ("kd_method", "kd", "none"), ("kd_method", "crd", "none"), ("teacher_loss", "bs", "ce"),
        ("student_loss", "bs", "ce"), ("mixup", True, False),
    ],
)  # fmt: skip
def test_an_effect_is_paired_inside_each_seed(study, factor, level, reference):
    found = line(study.summary, factor=factor, level=level)
    for metric in METRICS:
        pairs, (mean, half) = literal_effect(study, factor, level, reference, metric)
        assert found["pairs"] == pairs == 8
        assert found[f"{metric}_effect"] == pytest.approx(mean)
        assert found[f"{metric}_effect_ci95"] == pytest.approx(half, nan_ok=True)
    base = line(study.summary, factor=factor, level=reference)
    assert base["pairs"] == 0
    assert math.isnan(base["acc_effect"])


def test_a_levels_mean_is_over_its_cells_with_kd(study):
    found = numbers(study.students, "ece")
    by_seed = [
        statistics.mean(found[labels] for labels in found if labels[3] and labels[-1] == seed
                        and labels[0] != "none")
        for seed in study.params.seeds
    ]  # fmt: skip
    mixup = line(study.summary, factor="mixup", level=True)
    assert mixup["ece"] == pytest.approx(statistics.mean(by_seed))
    assert mixup["cells"] == 8
    assert line(study.summary, factor="kd_method", level="none")["cells"] == 4


def test_means_over_kd_methods_lie_on_the_grids_scale(study):
    means = report.teacher_student_means(study.cells)
    taught = study.cells[study.cells["kd_method"] != "none"]
    assert len(means) == 8
    for mean in means.to_dict("records"):
        part = [
            cell for cell in taught.to_dict("records")
            if all(cell[name] == mean[name] for name in ("teacher_loss", "student_loss", "mixup"))
        ]  # fmt: skip
        acc, ece = (statistics.mean(cell[name] for cell in part) for name in ("acc", "ece"))
        assert (mean["acc"], mean["ece"]) == pytest.approx((acc, ece))
        a = (acc - min(taught["acc"])) / (max(taught["acc"]) - min(taught["acc"]))
        e = (ece - min(taught["ece"])) / (max(taught["ece"]) - min(taught["ece"]))
        assert mean["harmonic"] == pytest.approx(2 * a * (1 - e) / (a + 1 - e))


def literal_interaction(study, one, other, metric):
    """Difference of differences by hand; one, other: (position of the factor, level, reference)."""
    by_seed = []
    for seed in study.params.seeds:
        gaps = []
        for key_, value in numbers(study.students, metric).items():
            at_both = (key_[one[0]], key_[other[0]], key_[-1]) == (one[1], other[1], seed)
            if not at_both or key_[0] == "none":  # controls are only what KD is measured against
                continue
            found = [value]
            for moved in ([one], [other], [one, other]):
                labels = list(key_)
                for at, _, reference in moved:
                    labels[at] = reference
                labels[1] = "none" if labels[0] == "none" else labels[1]
                found.append(numbers(study.students, metric)[tuple(labels)])
            gaps.append(found[0] - found[1] - found[2] + found[3])
        by_seed.append(statistics.mean(gaps))
    return interval(by_seed)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, "crd", "none"), (2, "bs", "ce")), ((0, "kd", "none"), (3, True, False)),
        ((0, "crd", "kd"), (1, "bs", "ce")), ((1, "bs", "ce"), (2, "bs", "ce")),
        ((1, "bs", "ce"), (3, True, False)), ((2, "bs", "ce"), (3, True, False)),
    ],
)  # fmt: skip
def test_an_interaction_is_a_difference_of_differences(study, one, other):
    factors = ("kd_method", "teacher_loss", "student_loss", "mixup")
    named = {"factor": factors[one[0]], "level": one[1], "other_factor": factors[other[0]]}
    found = line(study.interactions, **named, other_level=other[1])
    for metric in METRICS:
        mean, half = literal_interaction(study, one, other, metric)
        assert found[f"{metric}_effect"] == pytest.approx(mean)
        assert found[f"{metric}_effect_ci95"] == pytest.approx(half, nan_ok=True)
    assert (found["versus"], found["other_versus"]) == (one[2], other[2])
    assert found["seeds"] == len(study.params.seeds)
    assert len(study.interactions) == 2 + 2 + 1 + 1 + 1 + 1


def test_controls_of_other_losses_are_in_no_interaction():
    """Mixup costs the students of balanced softmax alone, and those have no teacher."""
    asked = params_of(FULL, seeds=[0, 1], teacher_losses=["ce"], student_losses=["ce"],
                      plain_losses=["ce", "bs"])  # fmt: skip
    rows = fake_rows(asked)
    for row in rows:
        costs = row["labels"].get("student_loss") == "bs" and row["labels"]["mixup"]
        row["metrics"]["test"]["acc"] = 0.5 - 0.1 * costs
    found = report.Study.of(rows, asked).interactions
    assert len(found)
    assert found["acc_effect"].abs().max() == pytest.approx(0)


def test_the_page_says_what_the_seeds_can_resolve(study):
    if len(study.params.seeds) == 1:
        assert "resolves nothing" in resolution(study)
        return
    halves = study.summary["acc_effect_ci95"].dropna()
    assert len(halves) == 5
    assert f"± {100 * statistics.median(halves):.2f} ACC points" in resolution(study)
    halves = study.interactions["ece_effect_ci95"]
    assert f"± {statistics.median(halves):.4f} ECE for an interaction" in resolution(study)


@pytest.fixture
def torn(study):
    """A study that lacks the last seed of one cell."""
    lost = next(row for row in study.students[::-1] if row["labels"]["kd_method"] == "crd")
    rest = [row for row in study.students if row is not lost] + study.teachers
    return study, lost, Study.of(rest, study.params)


def test_a_missing_run_is_named_and_never_averaged_away(torn):
    whole, lost, found = torn
    assert found.lacking == [lost["id"]]
    cell = line(found.cells, **lost["labels"])
    assert cell["seeds"] == len(whole.params.seeds) - 1
    assert math.isnan(cell["harmonic"])
    assert f"no row of seed {lost['run']['seed']}" in cell["flags"]
    assert found.cells["harmonic"].count() == whole.cells["harmonic"].count() - 1
    assert len(report.teacher_student_means(found.cells)) == 7


def test_a_seed_that_lacks_a_run_does_not_count(torn):
    whole, _, found = torn
    crd = line(found.summary, factor="kd_method", level="crd")
    left = list(whole.params.seeds)[:-1]
    assert (crd["seeds"], crd["effect_seeds"]) == (len(left), len(left))
    if not left:
        assert math.isnan(crd["acc"])
        assert math.isnan(crd["acc_effect"])
    else:
        params = params_of(seeds=left)
        less = line(report.summary(whole.students, grid.student_runs(params)),
                    factor="kd_method", level="crd")  # fmt: skip
        assert crd["acc_effect"] == pytest.approx(less["acc_effect"])
    interactions = found.interactions.set_index(["factor", "level", "other_factor"])["seeds"]
    assert interactions["kd_method", "crd", "mixup"] == len(left)
    assert interactions["kd_method", "kd", "mixup"] == len(whole.params.seeds)
    kd = line(found.summary, factor="kd_method", level="kd")  # untouched by the hole
    assert kd.equals(line(whole.summary, factor="kd_method", level="kd"))


def test_rows_of_other_params_are_left_out(study):
    other = fake_rows(params_of(epochs=7))
    again = Study.of(other + study.students + study.teachers, study.params)
    pd.testing.assert_frame_equal(again.cells, study.cells)
    with pytest.raises(ValueError, match=r"rows: none of the \d+ is a student of these params"):
        Study.of(other, study.params)
    with pytest.raises(ValueError, match="runs is empty"):
        report.cells(other, [])
    assert missing([], grid.student_runs(study.params)[:1]) == [study.students[0]["id"]]


def test_a_grid_without_the_usual_levels_is_measured_against_its_first():
    params = params_of(teacher_losses=["als", "bs"], student_losses=["cp", "bs"],
                       kd_methods=["kd", "crd"], seeds=SEEDS[1])  # fmt: skip
    rows = fake_rows(params)
    study = Study.of(rows, params)
    versus = study.summary.set_index(["factor", "level"])["versus"]
    expected = {("kd_method", "crd"): "kd", ("teacher_loss", "bs"): "als",
                ("student_loss", "bs"): "cp", ("mixup", True): False}  # fmt: skip
    assert {key: versus[key] for key in expected} == expected
    acc = {(*row["labels"].values(), row["run"]["seed"]): row["metrics"]["test"]["acc"]
           for row in rows if "kd_method" in row["labels"]}  # fmt: skip
    gaps = [value - acc["kd", *key[1:]] for key, value in acc.items() if key[0] == "crd"]
    found = line(study.summary, factor="kd_method", level="crd")
    assert found["acc_effect"] == pytest.approx(statistics.mean(gaps))
    assert set(study.interactions["other_versus"]) == {"als", "cp", False}
    assert answer(study)[0].startswith("KD method crd against kd, accuracy")


def test_a_factor_of_one_level_has_no_effect():
    params = params_of(teacher_losses=["bs"], kd_methods=["kd"], mixup=[True])
    study = Study.of(fake_rows(params), params)
    assert study.summary["acc_effect"].count() == 1  # student bs against ce
    (trained,) = answer(study)  # nor is there a plain student to beat
    assert trained.startswith("Calibration in training: student loss bs against ce, accuracy")


def test_given_teachers_have_a_table(tmp_path):
    (tmp_path / "mine.pth").write_bytes(b"")
    given = {"model": "resnet8", "checkpoint": str(tmp_path / "mine.pth")}
    params = params_of(teacher_model=given, teacher_losses=["given"])
    study = Study.of(fake_rows(params), params)
    assert list(study.teacher_cells["cell"]) == ["T:GIVEN"]
    assert line(study.summary, factor="kd_method", level="kd")["pairs"] == 4


def test_published_numbers_stand_beside_ours(monkeypatch, tmp_path):
    params = params_of(FULL, data="cifar10")
    cells = report.cells(fake_rows(params), grid.student_runs(params))
    both = report.published(cells, "cifar10", 50.0)
    best = line(both, kd_method="crd", teacher_loss="bs", student_loss="bs", mixup=True)
    assert (best["acc_published"], best["ece_published"]) == pytest.approx((0.796, 0.0819))
    assert len(both) == len(cells)
    assert both["acc_published"].count() == 128
    columns = list(cells.columns)
    pd.testing.assert_frame_equal(both[columns], cells)
    for data, factor in (("digits", 50.0), ("cifar10", None)):
        assert report.published(cells, data, factor)["acc_published"].isna().all()
    monkeypatch.setattr(literature, "FOLDER", tmp_path)  # no file of the repository at hand
    assert report.published(cells, "cifar10", 50.0)["acc_published"].isna().all()
    assert published_cells().empty
    assert math.isnan(overlapping.published("class", ["sunflower"]))
    with pytest.raises(FileNotFoundError, match="no published table"):
        literature.read("kd_calibration")


def test_the_published_table_is_as_large_as_its_note_says():
    table = literature.read("kd_calibration")
    assert len(table) == 309
    assert not table.duplicated(list(table.columns[:6])).any()
    assert table.groupby(["data", "imbalance_factor"]).size().to_dict() == {
        ("cifar10", 50): 128, ("cifar10", 100): 128, ("cifar100", 50): 26, ("cifar100", 100): 27,
    }  # fmt: skip
    sizes = [table[name].nunique() for name in table.columns[2:6]]
    assert sizes == [4, 4, 4, 2]
    assert "309 cells" in (literature.FOLDER / "README.md").read_text()


def tree(folder):
    written = (folder / name for name in (grid.STUDY, "report"))
    paths = [path for place in written for path in place.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.suffix}


CONTROLS = {
    "options": FULL["options"] | {
        "kd_T1": {"of": "kd", "temperature": 1}, 
        "crd_weak": {"of": "crd", "weight": 0.2, "negatives": 64},
    },
    "controls": {"KD": {"kd_methods": ["kd_T1", "crd_weak"], "student_losses": "ce"}},
}  # fmt: skip


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder, params = tmp_path_factory.mktemp("out"), params_of(**CONTROLS)
    notebook = folder / ".batch" / "notebooks" / "03.ipynb"
    notebook.parent.mkdir(parents=True)
    notebook.write_text("{}")
    return folder, params, report.write(fake_store(params, folder), params, folder)


@pytest.fixture
def no_figures(monkeypatch):
    """Drawing is tested elsewhere and takes seconds."""

    def save(figure, folder, name):
        write_atomic(folder / f"{name}.png", b"")
        return folder / f"{name}.png"

    monkeypatch.setattr(plots, "save", save)


def test_the_same_rows_give_the_same_bytes(written, tmp_path):
    folder, params, page = written
    assert page == folder / "report" / "index.html"
    copytree(folder / ".batch", tmp_path / ".batch")
    report.write(fake_store(params, tmp_path)[::-1], params, tmp_path)
    assert tree(folder) == tree(tmp_path)
    drawn = (
        "acc_vs_ece", "before_after", "class_frequency", "effects", "harmonic", "learning_curves",
        "rank_stability", "reliability", "risk_coverage", "teacher_student_means",
    )  # fmt: skip
    names = {f"figures/{name}.{suffix}" for name, suffix in product(drawn, ("png", "svg"))}
    tables = (
        "control_grids",
        "rank_stability",
        "cells",
        "summary",
        "interactions",
        "teachers",
        "posthoc",
        "controls",
        "contests",
    )
    names |= {f"{name}.csv" for name in tables}
    names |= {"summary.txt"}
    assert set(tree(folder)) == {f"03_calibration_study/{name}" for name in names} | {
        "report/index.html",
        "report/summary.txt",
        "report/figures/batch_ece.png",
        "report/figures/batch_ece.svg",
    }


def test_csv_has_six_decimals_and_round_trips(written):
    folder, params, _ = written
    table = pd.read_csv(folder / "03_calibration_study" / "cells.csv")
    cells = Study.of(fake_rows(params), params).cells
    np.testing.assert_allclose(table["acc"], cells["acc"], atol=5e-7)
    assert list(table.columns) == list(cells.columns)
    assert set(table["runs"]) == {run.id for run in grid.student_runs(params)}


class Page(HTMLParser):
    """Notes addresses and text; every tag that is opened has to be closed."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.sources, self.sections, self.tables = [], [], [], [], 0

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.open += [tag] * (tag not in ("meta", "img"))
        self.links += [attrs["href"]] if "href" in attrs else []
        self.sources += [attrs["src"]] if "src" in attrs else []
        self.sections += [attrs["id"]] if tag == "section" else []
        self.tables += tag == "table"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_reads_offline(written):
    _, params, path = written
    row = fake_row(grid.student_runs(params)[3])
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    assert page.open == []
    assert page.tables == 12
    assert len(page.sources) == 11
    files = page.sources + [link for link in page.links if not link.startswith("#")]
    assert all((path.parent / file).is_file() for file in files)
    anchors = [link[1:] for link in page.links if link.startswith("#")]
    assert anchors == page.sections == ["03_calibration_study", "report"]
    assert "../.batch/notebooks/03.ipynb" in page.links
    assert f"../{row['folder']}/rows/{row['id']}.json" in page.links
    assert not re.search(r"https?:|@import|url\(", path.read_text(encoding="utf-8"))


def test_the_page_says_what_it_may_say(written):
    _, _, path = written
    page = path.read_text(encoding="utf-8")
    for words in (
        "by class 87, 57, 37, 23, 15, 10, 6, 5, 3, 2;",
        "1 seed, no interval, descriptive",
        "Digits illustrates and tests; it decides no claim about CIFAR.",
        "No cell is called best: validation has 55 images and none of class 7, 8, 9",
        "Top 5, descriptive, by test Harmonic",
        "No run of the grid is missing.",
        "beside the published numbers (none for digits)",
        "mixup on against off, accuracy",
        "n = 1 seed: 20 students in 20 cells and 4 teachers, measured on 300 test images.",
    ):
        assert words in page, words


def test_two_settings_of_one_seed_are_no_two_seeds():
    one, other = (params_of(options={"kd": {"temperature": value}}, **ONE_CELL) for value in (4, 2))
    runs = [*grid.student_runs(one), *grid.student_runs(other)]
    rows = fake_rows(one) + fake_rows(other)
    with pytest.raises(
        ValueError, match=r"runs: (\S+) and (?!\1)\S+ have the same seed and labels"
    ):
        report.cells(rows, runs)


def test_names_are_escaped(tmp_path, no_figures):
    params = params_of(data="<b>&", kd_methods=["none"], mixup=[False])
    page = report.write(fake_rows(params), params, tmp_path).read_text(encoding="utf-8")
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;" in page


@pytest.mark.parametrize(
    ("kd_methods", "teacher_losses"),
    [(["pskd"], ["ce"]), (["none", "pskd"], ["ce"]), (["none", "pskd", "kd"], ["bs"]),
     (["none", "kd", "byot"], ["bs", "als"])],
)  # fmt: skip
def test_methods_without_a_teacher_are_reported(kd_methods, teacher_losses, tmp_path, no_figures):
    """A method that has no teacher is no level of the teacher's loss."""
    params = params_of(kd_methods=kd_methods, teacher_losses=teacher_losses, mixup=[False],
                       student_losses=["ce", "bs"], seeds=[0, 1])  # fmt: skip
    rows = fake_rows(params)
    report.write(rows, params, tmp_path)
    summary = pd.read_csv(tmp_path / "03_calibration_study" / "summary.csv", keep_default_na=False)
    methods = summary[(summary["factor"] == "kd_method") & (summary["level"] != kd_methods[0])]
    assert (methods["pairs"] > 0).all()
    losses = summary[summary["factor"] == "teacher_loss"]
    assert "none" not in set(losses["versus"])


def test_settings_share_one_report(tmp_path, no_figures):
    for name, factor in (("if100", 100), ("if50", 50), ("if100", 100)):
        params = params_of(setting=name, imbalance_factor=factor, kd_methods=["none"])
        page = report.write(fake_rows(params), params, tmp_path).read_text(encoding="utf-8")
    assert page.count("<h2>") == 3
    assert page.index("factor 100, 1 seed (if100)</h2>") < page.index(
        "factor 50, 1 seed (if50)</h2>"
    )
    assert page.index("factor 50, 1 seed (if50)</h2>") < page.index('<section id="report">')
    summary = (tmp_path / "report" / "summary.txt").read_text()
    assert summary.count("KD x calibration on digits") == 2


def test_timings_are_gathered(tmp_path, no_figures):
    params = params_of(kd_methods=["none"])
    rows = fake_rows(params)
    for row in rows[2:]:
        path = tmp_path / row["folder"] / "timings" / f"{row['id']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{{"id": "{row["id"]}", "seconds": 1.5, "peak_memory_mb": 2}}')
    report.write(rows, params, tmp_path)
    head, *lines = (tmp_path / "03_calibration_study" / "timings.csv").read_text().splitlines()
    assert head == "id,seconds,peak_memory_mb"
    assert lines == sorted(f"{row['id']},1.500000,2" for row in rows[2:])


def test_the_terminal_gets_a_short_summary():
    params = params_of(FULL, seeds=[0, 1, 2])
    study = Study.of(fake_rows(params)[:-1], params)
    lines = terminal(study).splitlines()
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 160
    assert [one.split()[0] for one in lines if " - " in one][:3] == ["KD", "KD", "KD"]
    best = study.cells.sort_values("harmonic", ascending=False)["cell"][:5]
    top = next(index for index, one in enumerate(lines) if one.startswith("top 5 of 127"))
    assert all(lines[top + 1 + rank].startswith(cell) for rank, cell in enumerate(best))
    flags = sum(len(row["flags"]) for row in study.students)
    assert f"{flags} runs" in next(one for one in lines if one.startswith("flagged"))


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        (1, "1 seed, no interval, descriptive"),
        (3, "3 seeds, mean ± half of the 95 % t interval, descriptive: a verdict takes 5"),
        (5, "5 seeds, mean ± half of the 95 % t interval"),
    ],
)
def test_the_number_of_seeds_says_what_may_be_said(seeds, words):
    assert seeds_note(seeds) == words


def test_every_flag_of_every_run_is_listed():
    rows = [fake_row(run) for run in grid.student_runs(params_of(seeds=[0, 1]))]
    rows[7]["flags"] = ["no label loss", "KD is off (last epoch)"]
    table = flagged(rows)
    assert len(table) == sum(len(row["flags"]) for row in rows)
    assert table["flag"].value_counts()["no label loss"] == 1
    assert flagged([]).empty


def test_readable_tables_have_units_and_intervals():
    table = pd.DataFrame({"cell": ["a", "b"], "acc": [0.81234, np.nan], "acc_ci95": [0.01, np.nan],
                          "ece_effect": [-0.01, 0.02], "mixup": [True, False]})  # fmt: skip
    shown = text.readable(table)
    assert shown.to_dict("list") == {
        "cell": ["a", "b"], "ACC %": ["81.23 ± 1.00", ""], "ECE effect": ["-0.0100", "+0.0200"],
        "mixup": ["on", "off"],
    }  # fmt: skip


def test_no_column_is_lost_to_another_of_its_heading():
    with pytest.raises(ValueError, match=r"columns of one heading: \[\['a b', 'a_b'\]\]"):
        text.readable(pd.DataFrame({"a b": [1], "a_b": [2]}))


def test_nothing_stands_where_there_is_no_value():
    table = pd.DataFrame({"clear": pd.array([1, None], "Int64"), "level": [np.nan, True]})
    assert text.readable(table).to_dict("list") == {"clearly so": ["1", ""], "level": ["", "on"]}


def test_the_selected_epoch_stands_beside_the_last(study):
    rows = [dict(row) for row in study.students + study.teachers]
    rows[0]["metrics"] = rows[0]["metrics"] | {"selected": {"acc": 0.1, "nll": 2.0, "ece": 0.2}}
    cells = Study.of(rows, study.params).cells
    n, rest = len(study.params.seeds), study.cells["acc"].iloc[0] * len(study.params.seeds)
    own = (rest - rows[0]["metrics"]["test"]["acc"] + 0.1) / n
    assert cells["acc_selected"].iloc[0] == pytest.approx(own)
    pd.testing.assert_series_equal(cells["acc"][1:], cells["acc_selected"][1:], check_names=False)


def literal_contest(study, reference, own, deciding, taught):
    """Differences to the plain student by hand: cell -> metric -> one difference a seed."""
    plain = {
        row["run"]["seed"]: row["metrics"][reference] for row in study.students
        if tuple(row["labels"].values()) == ("none", "none", "ce", False)
    }  # fmt: skip
    gaps = {}
    for row in study.students:
        cell = tuple(row["labels"].values())
        if cell == ("none", "none", "ce", False) or (cell[0] != "none") != taught:
            continue
        of_cell = gaps.setdefault(cell, {metric: [] for metric in METRICS})
        for metric in METRICS:
            other = plain[row["run"]["seed"]][metric]
            of_cell[metric].append(row["metrics"][own][metric] - other)
    sign = {"acc": 1, "nll": -1, "ece": -1}
    spans = [
        {m: interval([sign[m] * gap for gap in of[m]]) for m in METRICS} for of in gaps.values()
    ]
    better = sum(all(span[m][0] > 0 for m in deciding) for span in spans)
    clear = sum(all(span[m][0] - span[m][1] > 0 for m in deciding) for span in spans)
    medians = [sign[m] * statistics.median(span[m][0] for span in spans) for m in METRICS]
    return len(gaps), better, clear, medians, max(span["nll"][0] for span in spans)


@pytest.mark.parametrize("group", ["KD", "no KD"])
@pytest.mark.parametrize(
    ("reference", "own", "deciding"),
    [
        ("temperature", "test", ("nll", "ece")), ("temperature", "temperature", ("nll", "ece")),
        ("logit_adjustment", "test", ("acc", "nll")), ("menon", "test", ("acc", "nll")),
        ("balanced_logit_adjustment", "balanced_logit_adjustment", ("acc", "nll")),
    ],
)  # fmt: skip
def test_a_contest_is_paired_inside_each_seed(study, reference, own, deciding, group):
    labels = {"against plain with": ADJUSTMENTS[reference][0], "cells are": group}
    found = line(study.contests, **labels, **{"cells adjusted": ADJUSTMENTS[own][0]})
    cells, better, clear, medians, best = literal_contest(
        study, reference, own, deciding, group == "KD"
    )
    assert (found["cells"], found["better"]) == (cells, better)
    assert pd.isna(found["clear"]) if len(study.params.seeds) == 1 else found["clear"] == clear
    assert list(found[[f"{metric}_median" for metric in METRICS]]) == pytest.approx(medians)
    assert found["nll_best"] == pytest.approx(-best)
    assert found["metrics"] == " and ".join(deciding).upper().replace("AND", "and")


def test_adjustments_stand_beside_what_was_trained(study):
    found = {(*row["labels"].values(), row["run"]["seed"]): row for row in study.students}
    for cell in study.posthoc.to_dict("records"):
        labels = [cell[name] for name in ("kd_method", "teacher_loss", "student_loss", "mixup")]
        kind = next(kind for kind, text in ADJUSTMENTS.items() if text[0] == cell["adjustment"])
        rows = [found[(*labels, seed)]["metrics"][kind] for seed in study.params.seeds]
        mean, half = interval([row["nll"] for row in rows])
        assert (cell["nll"], cell["seeds"]) == (pytest.approx(mean), len(rows))
        assert cell["nll_ci95"] == pytest.approx(half, nan_ok=True)
        fits = kind != "test"
        assert cell["at_bound"] == sum(row["at_bound"] for row in rows if fits)
        assert cell["T"] == pytest.approx(1.5 if fits else math.nan, nan_ok=True)
    menon = study.posthoc[study.posthoc["adjustment"] == ADJUSTMENTS["menon"][0]]
    assert list(menon["cell"]) == ["no KD S:CE", "no KD S:CE +mixup"]  # no KD, no balanced softmax
    assert len(study.posthoc) == 20 * 5 + 2


def test_the_answer_is_three_sentences_with_n(study):
    kd, trained, after = answer(study)
    note = seeds_note(len(study.params.seeds)).split(":")[0]
    assert all(sentence.endswith(f"({note}).") for sentence in (kd, trained, after))
    assert re.search(r"^KD against no teacher, accuracy .+ \((kd|crd)\) to .+ points, ECE", kd)
    assert trained.count(" against ") == 3
    beaten = study.contests[study.contests["cells adjusted"] == "as trained"]["better"]
    number = rf"{beaten.iloc[0] or 'none'} of 16 with KD( \(\d+ clearly\))? and"
    assert re.search(rf"after one temperature \(in NLL and ECE[^)]*\): {number}", after)
    assert "clearly" not in after or len(study.params.seeds) > 1
    assert "optimistic" not in after


def test_the_answer_says_of_how_many_seeds_and_methods_there_are_rows():
    params = params_of(seeds=[0, 1, 2], kd_methods=["none", "crd"], student_losses=["ce"])
    rows = [row for row in fake_rows(params) if row["run"]["seed"] == 0]
    kd, *_ = answer(Study.of(rows, params))
    assert kd.startswith("CRD against no teacher, accuracy ")
    assert kd.endswith("(1 seed, no interval, descriptive).")


def test_infinite_losses_are_counted_not_dropped(study):
    rows = [dict(row) for row in study.students]
    for row in rows:  # the plain student's fit and every second cell's fail
        plain = tuple(row["labels"].values()) == ("none", "none", "ce", False)
        if plain or row["labels"]["student_loss"] == "bs":
            failed = row["metrics"]["temperature"] | {"nll": math.inf, "at_bound": True}
            row["metrics"] = row["metrics"] | {"temperature": failed}
    found = Study.of(rows, study.params).contests
    found = found[(found["against plain with"] == "one temperature") & (found["cells are"] == "KD")]
    assert list(found["cells"]) == [16, 16]
    assert list(found["at_bound"]) == 2 * [len(study.params.seeds)]
    own = line(found, **{"cells adjusted": "one temperature"})
    better = [gap for gap in study.posthoc.to_dict("records") if gap["kd_method"] != "none"
              and gap["adjustment"] == "one temperature" and gap["student_loss"] == "ce"
              and gap["ece"] < study.posthoc["ece"][1]]  # fmt: skip
    assert study.posthoc["cell"][1] == "no KD S:CE"
    assert study.posthoc["adjustment"][1] == "one temperature"
    assert own["better"] == len(better)  # two infinite losses are equal
    assert own["nll_best"] == -math.inf


def test_a_contest_takes_seeds_that_have_both(study):
    seeds, plain = study.params.seeds, ("none", "none", "ce", False)
    rows = [row for row in study.students
            if row["run"]["seed"] == seeds[0] or (tuple(row["labels"].values()) != plain
            and row["labels"]["kd_method"] != "kd")]  # fmt: skip
    found = Study.of(rows, study.params).contests
    assert set(found["seeds"]) == {1}
    lost = [row for row in rows if row["run"]["seed"] != seeds[0]]
    if lost:
        assert Study.of(lost, study.params).contests.empty


def test_without_the_plain_student_nothing_is_answered(tmp_path, no_figures):
    params = params_of(student_losses=["bs"], kd_methods=["none", "kd"])
    page = report.write(fake_rows(params), params, tmp_path).read_text(encoding="utf-8")
    assert "The plain student or its adjustments are missing: nothing to beat." in page
    assert "beat the plain student once" not in page


@pytest.mark.parametrize("kd_methods", [["kd"], ["none"]])
def test_a_grid_of_one_cell_is_reported(kd_methods, tmp_path, no_figures):
    one = {"teacher_losses": ["ce"], "student_losses": ["bs"], "mixup": [False]}
    params = params_of(**one, kd_methods=kd_methods)
    page = report.write(fake_rows(params), params, tmp_path).read_text(encoding="utf-8")
    assert "No run of the grid is missing." in page
    assert "against" not in page
    assert "top 0" not in page


@pytest.mark.parametrize("seeds", SEEDS, ids=["1 seed", "3 seeds"])
def test_rank_stability_is_a_bootstrap_of_images(seeds, tmp_path):
    params, draws = params_of(seeds=seeds), 20
    study = Study.of(fake_store(params, tmp_path), params, tmp_path)
    found = images.rank_stability(study.cells, study.found, draws=draws, seed=3)
    taught = study.cells.dropna(subset="harmonic")
    assert sorted(found["cell"]) == sorted(taught["cell"])
    n, generator = 60, images.seeding.numpy_generator(3, "bootstrap")
    picks = [np.repeat(np.arange(n), counts)
             for counts in generator.multinomial(n, np.full(n, 1 / n), draws)]  # fmt: skip

    def ranks(rows, seeds):
        """Cell -> rank for these images and seeds, by the public metrics."""
        acc, ece = [], []
        for ids in taught["runs"]:
            runs = [study.found[ids.split("; ")[seed]] for seed in seeds]
            pairs = [(metrics.softmax(one["test_logits"])[rows], one["test_labels"][rows])
                     for one in runs]  # fmt: skip
            acc.append(statistics.mean(metrics.accuracy(*pair) for pair in pairs))
            ece.append(statistics.mean(metrics.ece(*pair) for pair in pairs))
        order = np.argsort(-metrics.harmonic_score(acc, ece), kind="stable")
        return {taught["cell"].iloc[cell]: rank for rank, cell in enumerate(order, start=1)}

    redrawn = [ranks(rows, range(len(seeds))) for rows in picks]
    alone = [ranks(np.arange(n), [seed]) for seed in range(len(seeds))]
    for cell in found.to_dict("records"):
        places = sorted(drawn[cell["cell"]] for drawn in redrawn)
        assert cell["top5_images"] == pytest.approx(sum(place <= 5 for place in places) / draws)
        assert (cell["rank_low"], cell["rank_high"]) == (places[0], places[-1])
        top = sum(drawn[cell["cell"]] <= 5 for drawn in alone)
        assert cell["top5_seeds"] == pytest.approx(top / len(seeds))


def test_what_lacks_predictions_is_left_out_by_name(tmp_path, no_figures):
    params = params_of()
    rows = fake_store(params, tmp_path)
    next(tmp_path.rglob("predictions/crd-*")).unlink()
    page = report.write(rows, params, tmp_path).read_text(encoding="utf-8")
    assert "Predictions of 1 of 24 runs are not stored here" in page
    names = {path.stem for path in (tmp_path / grid.STUDY / "figures").iterdir()}
    assert {"reliability", "acc_vs_ece"} <= names
    assert not names & {"rank_stability"}
    assert not (tmp_path / grid.STUDY / "rank_stability.csv").exists()


def test_a_damaged_prediction_is_named(tmp_path):
    params = params_of()
    rows = fake_store(params, tmp_path)
    path = next(tmp_path.rglob("predictions/kd-*"))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OSError, match=f"{path.stem}.*is damaged"):
        report.write(rows, params, tmp_path)


@pytest.mark.parametrize("seeds", SEEDS, ids=["1 seed", "3 seeds"])
def test_control_grids_stand_after_what_they_vary(seeds):
    params = params_of(**CONTROLS, seeds=seeds)
    rows = fake_rows(params)
    table = Study.of(rows, params).control_grids
    assert list(table["change"]) == 4 * ["none", "temperature 1", "none", "weight 0.2"]
    assert list(table["cell"][2:4]) == ["CRD T:CE S:CE", "CRD_WEAK T:CE S:CE"]
    found = {(*row["labels"].values(), row["run"]["seed"]): row["metrics"] for row in rows}
    for cell in table.to_dict("records"):
        labels = [cell[name] for name in ("kd_method", "teacher_loss", "student_loss", "mixup")]
        own = [found[(*labels, seed)] for seed in seeds]
        mean, half = interval([metric["val"]["nll"] for metric in own])
        assert cell["val_nll"] == pytest.approx(mean)
        assert cell["val_nll_ci95"] == pytest.approx(half, nan_ok=True)
        test = interval([metric["test"]["acc"] for metric in own])[0]
        by_choice = cell["change"].startswith("weight")  # judged on validation alone
        assert cell["acc"] == pytest.approx(math.nan if by_choice else test, nan_ok=True)
        assert cell["seeds"] == len(seeds)
        alone = [found[("none", "none", *labels[2:], seed)]["val"]["acc"] for seed in seeds]
        assert cell["plain_val_acc"] == pytest.approx(interval(alone)[0])
    assert Study.of(rows, params_of()).control_grids.empty
    assert len(Study.of(rows, params).cells) == 20


def test_controls_are_read_against_the_seeds_they_have_and_missing_ones_are_named():
    params = params_of(**CONTROLS, seeds=[0, 1, 2])
    rows = fake_rows(params)
    method = {row["id"]: row["labels"].get("kd_method") for row in rows}
    lost = [row for row in rows if method[row["id"]] == "kd_T1" and row["run"]["seed"] in (0, 2)]
    study = Study.of([row for row in rows if row not in lost], params)
    assert study.lacking == [row["id"] for row in lost]
    table = study.control_grids
    kept = [row["metrics"]["test"]["acc"] for row in rows
            if (method[row["id"]], row["run"]["seed"]) == ("kd", 1)]  # fmt: skip
    groups = table[table["kd_method"].isin(["kd", "kd_T1"])]
    assert set(groups["seeds"]) == {1}
    assert set(table.loc[table["kd_method"] == "kd", "acc"]) <= set(kept)
    assert set(table[table["kd_method"] == "crd"]["seeds"]) == {3}


def test_a_mean_over_batches_misjudges_a_perfect_predictor():
    table = report.batch_ece(images=2_000, batch=100)
    np.testing.assert_allclose(table["accuracy"], [0.4, 0.6, 0.8], atol=0.03)
    np.testing.assert_allclose(table["ece"], table["ece_floor"], atol=0.015)
    np.testing.assert_allclose(table["ece_batches"], table["ece_floor_batch"], rtol=0.05)
    assert (table["ece_batches"] > 3 * table["ece"]).all()
    pd.testing.assert_frame_equal(table, report.batch_ece(images=2_000, batch=100))
    other = report.batch_ece([0.5], images=2_000, batch=2_000)  # one batch is the whole set
    assert other["ece_batches"].to_list() == other["ece"].to_list()


def test_a_contest_without_an_interval_claims_nothing():
    lines = pd.DataFrame({
        "against plain with": 2 * ["one temperature"], "cells are": ["KD", "no KD"],
        "cells adjusted": "as trained", "metrics": "NLL and ECE", "at_bound": 2, "seeds": 5,
        "cells": [128, 7], "better": [38, 2], "clear": [pd.NA, pd.NA],
    })  # fmt: skip
    head = "Cells as trained that beat the plain student after one temperature (in NLL and ECE"
    bound = ", its fit ended at a bound in 2 of 5 seeds"
    assert text._after(lines) == (
        f"{head}{bound}, no interval, for an NLL is infinite): 38 of 128 with KD and 2 of 7 without"
    )
    judged = lines.assign(better=[38, 0], clear=[3, 0], at_bound=0)
    assert text._after(judged) == (f"{head}): 38 of 128 with KD (3 clearly) and none of 7 without")
    assert text._after(lines.assign(seeds=1, at_bound=0)) == (
        f"{head}): 38 of 128 with KD and 2 of 7 without"
    )


def test_controls_of_other_losses_stay_out_of_means_that_students_with_kd_do_not_share(tmp_path):
    """Controls with four losses, students with KD with two: their effects are those of a grid of
    two losses, and every control has its cell and its line after training."""
    params = params_of(seeds=[0, 1, 2], plain_losses=["ce", "als", "cp", "bs"])
    rows, narrow = fake_rows(params), params_of(seeds=[0, 1, 2])
    wide, two = (report.summary(rows, grid.student_runs(one)) for one in (params, narrow))
    pd.testing.assert_frame_equal(wide, two)
    study = Study.of(rows, params)
    plain = study.cells[study.cells["kd_method"] == "none"]
    assert sorted(plain["student_loss"].unique()) == ["als", "bs", "ce", "cp"]
    assert set(plain["cell"]) <= set(study.posthoc["cell"])
    assert report.write(rows, params, tmp_path).is_file()


def test_settings_of_one_grid_have_headings_of_their_own(tmp_path):
    for setting in ("verdicts", "whole_grid"):
        params = params_of(setting=setting)
        page = report.write(fake_rows(params), params, tmp_path)
    heads = re.findall(r"<h2>(KD x calibration[^<]*)</h2>", page.read_text())
    assert [head.split(" (")[-1] for head in heads] == ["verdicts)", "whole_grid)"]


@pytest.mark.parametrize(
    ("methods", "ranked"), [(["none", "kd"], False), (["none", "kd", "crd"], True)]
)
def test_a_grid_of_five_cells_has_no_ranks(methods, ranked, tmp_path, no_figures):
    """2 teacher by 2 student losses: 4 cells with KD, or 8."""
    params = params_of(kd_methods=methods, teacher_losses=["ce", "bs"], student_losses=["ce", "bs"],
                       mixup=[False])  # fmt: skip
    report.write(fake_store(params, tmp_path), params, tmp_path)
    names = {path.stem for path in (tmp_path / grid.STUDY / "figures").iterdir()}
    assert ({"harmonic", "rank_stability"} <= names) == ranked
    assert "acc_vs_ece" in names
