"""Figures: what they show is what the tables say, labels never overlap, files are reproducible."""

from itertools import combinations, product

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.text import Text
from report_helpers import FULL, fake_rows, params_of
from scipy.optimize import minimize

from kdlib import grid, metrics, plots, report

mpl.use("Agg")


@pytest.fixture(scope="module")
def rows():
    return fake_rows(params_of(FULL))


@pytest.fixture(scope="module")
def cells(rows):
    return report.cells(rows, grid.student_runs(params_of(FULL)))


@pytest.mark.parametrize("seed", range(5))
def test_labels_are_moved_as_little_as_possible(seed):
    generator = np.random.default_rng(seed)
    wanted, gap = np.sort(generator.uniform(-0.1, 1.1, 6)), 0.15
    found = plots.spread(wanted, gap)
    assert np.diff(found).min() >= gap - 1e-9
    assert found[0] >= 0
    assert found[-1] <= 1 + 1e-9
    apart = {"type": "ineq", "fun": lambda heights: np.diff(heights) - gap}
    best = minimize(
        lambda heights: np.square(heights - wanted).sum(), np.linspace(0, 1, 6),
        bounds=[(0, 1)] * 6, constraints=apart, method="SLSQP", options={"ftol": 1e-12},
    )  # fmt: skip
    assert best.success
    np.testing.assert_allclose(found, best.x, atol=1e-5)


def test_labels_that_are_apart_stay_and_too_many_are_refused():
    np.testing.assert_array_equal(plots.spread([0.1, 0.5, 0.9], 0.2), [0.1, 0.5, 0.9])
    assert len(plots.spread([], 0.2)) == 0
    with pytest.raises(ValueError, match=r"7 labels 0.2 apart do not fit between 0.0 and 1.0"):
        plots.spread([0.5] * 7, 0.2)


def labels(figure):
    """The labels of the first axes that have a line to their point."""
    return [text for text in figure.axes[0].texts if text.arrow_patch is not None]


def boxes(figure):
    """Where these stand in the finished drawing."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    # Text's own extent: an annotation's includes its line.
    return [Text.get_window_extent(label, renderer) for label in labels(figure)]


def crowded(cells):
    """All cells in one spot."""
    return cells.assign(acc=0.8 + cells["acc"] / 1e4, ece=0.1 + cells["ece"] / 1e4)


@pytest.mark.parametrize("change", [lambda cells: cells, crowded], ids=["spread", "crowded"])
@pytest.mark.parametrize("kind", ["cells", "means"])
def test_labels_do_not_overlap(cells, change, kind):
    if kind == "cells":
        figure, number = plots.acc_vs_ece(change(cells), "title"), 10
    else:
        means = report.teacher_student_means(change(cells))
        figure, number = plots.teacher_student_means(means, "title"), 32
    found = boxes(figure)
    assert len(found) == number
    assert not any(one.overlaps(other) for one, other in combinations(found, 2))
    plane, whole = figure.axes[0].bbox, figure.bbox
    assert all(box.x0 > plane.x1 and whole.x0 <= box.x0 and box.x1 <= whole.x1 for box in found)
    assert all(whole.y0 <= box.y0 and box.y1 <= whole.y1 for box in found)


def test_the_best_and_the_worst_are_named(cells):
    ordered = cells.dropna(subset="harmonic").sort_values("harmonic")["cell"].to_list()
    texts = plots.acc_vs_ece(cells, "title").axes[0].texts
    named = {colour: {text.get_text() for text in texts if text.get_color() == colour}
             for colour in (plots.BLUE, plots.RED)}  # fmt: skip
    assert named == {plots.BLUE: set(ordered[-5:]), plots.RED: set(ordered[:5])}


def test_a_label_points_at_its_own_cell(cells):
    for text in labels(plots.acc_vs_ece(cells, "title")):
        (cell,) = cells[cells["cell"] == text.get_text()].to_dict("records")
        assert text.xy == pytest.approx((cell["ece"], 100 * cell["acc"]))


def test_every_cell_is_drawn(cells):
    figure = plots.acc_vs_ece(cells, "title")
    dots = [one for one in figure.axes[0].collections if isinstance(one, PathCollection)]
    sizes = [len(points.get_offsets()) for points in dots]
    assert sizes == [128, 8, 5, 5]
    small = cells[cells["kd_method"].isin(["none", "kd"]) & (cells["teacher_loss"] != "als")][:14]
    assert 0 < small["harmonic"].count() < 10
    few = labels(plots.acc_vs_ece(small, "title"))
    assert len(few) == 2 * (small["harmonic"].count() // 2)


def test_a_control_stands_beside_the_name_of_its_loss(cells):
    """And the band is where perfectly calibrated cells would be."""
    figure = plots.acc_vs_ece(cells, "title")
    named = {text.get_text(): text.xy for text in figure.axes[0].texts if text.arrow_patch is None}
    assert len(named) == 8
    controls = cells[cells["kd_method"] == "none"].set_index(["student_loss", "mixup"])
    for (loss, mixup), cell in controls.iterrows():
        point = named[loss.upper() + " +mixup" * mixup]
        assert point == pytest.approx((cell["ece"], 100 * cell["acc"]))
    (band,) = (one for one in figure.axes[0].patches if one.get_label() == plots.canvas.PERFECT)
    ends = band.get_x(), band.get_x() + band.get_width()
    assert ends == pytest.approx((cells["ece_floor"].min(), cells["ece_floor"].max()))


def test_colour_is_the_harmonic_score(cells):
    means = report.teacher_student_means(cells)
    axes = plots.teacher_student_means(means, "title").axes[0]
    drawn = np.concatenate([points.get_array() for points in axes.collections])
    expected = pd.concat([means[~means["mixup"]], means[means["mixup"]]])["harmonic"]
    np.testing.assert_allclose(drawn, expected)
    assert {points.norm.vmax for points in axes.collections} == {1}


def test_a_curve_is_a_runs_history(rows):
    controls = [row for row in rows if row["labels"].get("kd_method") == "none"]
    figure = plots.learning_curves(controls, "student_loss", "mixup", "title")
    drawn = [list(line.get_ydata()) for line in figure.axes[0].lines if len(line.get_ydata())]
    histories = [[100 * entry["val_acc"] for entry in row["history"]] for row in controls]
    np.testing.assert_allclose(sorted(drawn), sorted(histories))
    words = [text.get_text() for text in figure.legends[0].texts]
    assert words == ["student loss", "CE", "ALS", "CP", "BS", "mixup", "off", "on"]
    with pytest.raises(ValueError, match="rows: none of the 1 has a history to draw"):
        plots.learning_curves([controls[0] | {"history": []}], "student_loss", "mixup", "title")


def test_a_curve_of_several_seeds_is_their_mean_in_their_range():
    rows = fake_rows(params_of(FULL, seeds=[0, 1, 2]))
    controls = [row for row in rows if row["labels"].get("kd_method") == "none"]
    axes = plots.learning_curves(controls, "student_loss", "mixup", "title").axes[0]
    drawn = [list(line.get_ydata()) for line in axes.lines if len(line.get_ydata())]
    cells = {}
    for row in controls:
        history = [100 * entry["val_acc"] for entry in row["history"]]
        cells.setdefault(tuple(row["labels"].values()), []).append(history)
    np.testing.assert_allclose(sorted(drawn), sorted(np.mean(list(cells.values()), 1).tolist()))
    tops = sorted(band.get_paths()[0].vertices[:, 1].max() for band in axes.collections)
    np.testing.assert_allclose(tops, sorted(np.max(list(cells.values()), (1, 2))))


def test_saved_figures_are_reproducible(cells, tmp_path):
    for folder in ("one", "two"):
        path = plots.save(plots.acc_vs_ece(cells, "title"), tmp_path / folder, "figure")
        assert path == tmp_path / folder / "figure.png"
    for suffix in ("png", "svg"):
        one, two = ((tmp_path / name / f"figure.{suffix}").read_bytes() for name in ("one", "two"))
        assert one == two
    assert b"<dc:date>" not in one
    assert b"Software" not in path.read_bytes()
    assert mpl.pyplot.get_fignums() == []


@pytest.fixture(scope="module")
def study(rows):
    return report.Study.of(rows, params_of(FULL))


def test_every_cell_is_drawn_before_and_after(study):
    names = ["as trained", "one temperature", "logit adjustment"]
    table = study.posthoc
    for axes, name in zip(plots.before_after(table, names, "title").axes, names, strict=True):
        part = table[table["adjustment"] == name]
        drawn = np.concatenate([points.get_offsets() for points in axes.collections])
        np.testing.assert_allclose(drawn, np.column_stack([part["ece"], 100 * part["acc"]]))
        hollow = [len(points.get_facecolor()) == 0 for points in axes.collections]
        assert sum(hollow) == (part["at_bound"] > 0).sum()


def test_a_heatmap_shows_each_score_in_its_place(cells):
    figure = plots.harmonic_heatmap(cells, "title")
    assert len(figure.axes) == 4 * 2
    order = ["ce", "als", "cp", "bs"]
    for axes in figure.axes:
        method, *mixup = axes.get_title().split(", ")
        assert [tick.get_text().lower() for tick in axes.get_yticklabels()] == order
        places = {"kd_method": method.lower(), "mixup": bool(mixup)}
        scores = iter(axes.texts)  # row by row
        for teacher in order:
            for student in order:
                labels = places | {"teacher_loss": teacher, "student_loss": student}
                (cell,) = cells[(cells[list(labels)] == pd.Series(labels)).all(axis=1)]["harmonic"]
                assert next(scores).get_text() == f"{cell:.2f}"


def test_effects_are_drawn_with_their_intervals():
    params = params_of(FULL, seeds=[0, 1], teacher_losses=["ce", "bs"])
    table = report.Study.of(fake_rows(params), params).summary
    part = table[table["pairs"] > 0]
    for axes, name, scale in zip(
        plots.effects(table, "title").axes, ("acc", "ece"), (100, 1), strict=True
    ):
        spans = [bars.get_segments()[0][:, 0] for bars in axes.collections]
        wanted = scale * np.column_stack(
            [part[f"{name}_effect"] + sign * part[f"{name}_effect_ci95"] for sign in (-1, 1)]
        )
        np.testing.assert_allclose(spans, wanted)


def test_only_a_clear_effect_has_a_colour():
    lines = [(0.02, 0.01, 0.02, 0.01), (-0.02, 0.03, -0.02, 0.01), (-0.02, np.nan, 0.01, np.nan)]
    columns = ["acc_effect", "acc_effect_ci95", "ece_effect", "ece_effect_ci95"]
    table = pd.DataFrame(lines, columns=columns)
    table = table.assign(factor="kd_method", level=list("abc"), versus="none", pairs=8)
    grey = plots.canvas.GREY
    for axes, wanted in zip(
        plots.effects(table, "title").axes,
        [[plots.BLUE, grey, plots.RED], [plots.RED, plots.BLUE, plots.RED]],
        strict=True,
    ):
        drawn = [tuple(bars.get_color()[0][:3]) for bars in axes.collections]
        assert drawn == [tuple(colour) for colour in wanted]
    figure = plots.effects(table, "title")
    assert figure.get_suptitle() == "title\nblue: better, red-orange: worse, grey: unclear"
    alone = plots.effects(table.iloc[2:], "title")  # of one seed: its sign
    assert alone.get_suptitle() == "title\nblue: better, red-orange: worse"
    ticks = figure.axes[0].get_yticklabels()
    assert [tick.get_text() for tick in ticks] == [f"KD method: {one} - no KD" for one in "ABC"]


@pytest.mark.parametrize("more", ["", ", again and again" * 4])
def test_a_long_title_of_effects_lies_inside_the_figure(more):
    params = params_of(FULL, data="cifar10", imbalance_factor=100, seeds=[0, 1])
    summary = report.Study.of(fake_rows(params), params).summary
    figure = plots.effects(summary, f"Paired effects, {report.title(params)}{more}")
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    box = figure._suptitle.get_window_extent(renderer)
    assert figure.bbox.x0 <= box.x0
    assert box.x1 <= figure.bbox.x1
    assert figure.get_suptitle().count("\n") == 1 + bool(more)


@pytest.mark.parametrize(
    "names", [["kd"], [f"a method of name {i}" for i in range(14)], ["x" * 200]]
)
def test_a_legend_has_as_many_columns_as_fit(names):
    with plots.canvas.canvas(size=(6, 3)) as (figure, _):
        plots.canvas.legend(figure, plots.canvas.looks(names), 8)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    (made,) = figure.legends
    box, columns = made.get_window_extent(renderer), made._ncols
    assert [text.get_text() for text in made.get_texts()] == names
    assert (figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1) or columns == 1
    assert columns == 1 or (columns + 1) * box.width / columns > figure.bbox.width


def test_published_cells_are_crosses_in_the_first_panel():
    params = params_of(FULL, data="cifar10", imbalance_factor=100)
    study = report.Study.of(fake_rows(params), params)
    theirs = report.published(study.cells, "cifar10", 100.0)
    names = ["as trained", "one temperature"]
    figure = plots.before_after(study.posthoc, names, "title", theirs)
    first, second = figure.axes
    assert len(first.collections) == len(second.collections) + 1
    wanted = theirs.dropna(subset="ece_published")[["ece_published", "acc_published"]]
    assert len(wanted) == 128
    np.testing.assert_allclose(first.collections[-1].get_offsets(), wanted * [1, 100])
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[-1] == "published (ECE: mean of mini-batches)"
    none = report.published(study.cells, "digits", 100.0)
    bare = plots.before_after(study.posthoc, names, "title", none)
    assert [len(axes.collections) for axes in bare.axes] == 2 * [len(second.collections)]
    assert len(bare.legends[0].get_texts()) == len(legend) - 1


def test_class_frequency_shows_every_run_and_its_median(rows):
    students = [row for row in rows if "kd_method" in row["labels"]]
    figure = plots.class_frequency(students, "title")
    for axes, mixup in zip(figure.axes, (False, True), strict=True):
        bars = [one for one in axes.collections if not isinstance(one, PathCollection)]
        dots = [one for one in axes.collections if isinstance(one, PathCollection)]
        of_loss = np.split(np.array(dots, dtype=object), 4)  # one a teacher's loss
        for points, lines, loss in zip(of_loss, bars, ("ce", "als", "cp", "bs"), strict=True):
            offsets = [np.ma.getdata(part.get_offsets())[2::3] for part in points]  # rare classes
            kinds = product(("none", "ce", "als", "cp", "bs"), (False, True))
            for part, dots, (teacher, plain_kd) in zip(offsets, points, kinds, strict=True):
                wanted = {"student_loss": loss, "mixup": mixup, "teacher_loss": teacher}
                few = [100 * row["metrics"]["test"]["acc_few"] for row in students
                       if wanted.items() <= row["labels"].items()
                       and (row["labels"]["kd_method"] == "kd") == plain_kd]  # fmt: skip
                np.testing.assert_allclose(part[:, 1], few)
                assert len(few) == (not plain_kd if teacher == "none" else 1 if plain_kd else 3)
                assert (len(dots.get_facecolor()) == 0) == plain_kd  # hollow
            places, few = np.concatenate(offsets).T
            assert lines.get_segments()[2][0, 1] == pytest.approx(np.median(few))
            assert len({*places}) == len(few) == 17  # beside each other
    shapes = {
        handle.get_label(): handle.get_marker() for handle in figure.legends[0].legend_handles
    }
    taught = [f"teacher {one}" for one in ("CE", "ALS", "CP", "BS")]
    assert list(shapes)[4:] == ["no KD", *taught, "plain KD"]
    assert len({*shapes.values()}) == 6
    counts = students[0]["data"]["class_counts"]
    rare = [counts[place] for place in metrics.frequency_groups(len(counts), counts)["few"]]
    told = figure.axes[0].get_xticklabels()[2].get_text()
    assert told == f"rare\n{min(rare)} to {max(rare)} images"


def test_class_frequency_without_a_group(rows):
    """An own set's test images may lack every class of medium frequency."""
    students = [row for row in rows if "kd_method" in row["labels"]]
    lacking = [{**row, "metrics": {"test": {"acc_many": 0.5, "acc_few": 0.1}}} for row in students]
    for axes in plots.class_frequency(lacking, "title").axes:
        told = [tick.get_text().split("\n")[0] for tick in axes.get_xticklabels()]
        assert told == ["frequent", "rare"]


def test_stability_names_the_most_frequent_cells():
    table = pd.DataFrame({"cell": list("abcd"), "top5_images": [0.2, 0.9, 0.0, 0.5],
                          "top5_seeds": [0.0, 1.0, 0.0, 0.5], "seeds": 2})  # fmt: skip
    (axes,) = plots.rank_stability(table, "title", shown=2).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "d"]
    assert [bar.get_width() for bar in axes.patches] == [90, 50]
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[100, 1], [50, 0]])


def test_networks_are_drawn_from_their_curves():
    generator = np.random.default_rng(0)
    probs, labels = generator.dirichlet(np.ones(4), 200), generator.integers(4, size=200)
    bins = metrics.reliability_bins(probs, labels)
    (axes,) = plots.reliability({"one": {"as trained": bins}}, "title").axes
    enough = bins.count >= 5
    points = np.column_stack([bins.confidence, bins.accuracy])[enough]
    np.testing.assert_allclose(axes.collections[0].get_offsets(), points)
    assert 0 < enough.sum() < len(enough)
    curve = metrics.risk_coverage(probs, labels)
    (axes,) = plots.risk_coverage({"one": curve}, "title").axes
    np.testing.assert_allclose(axes.lines[0].get_xydata(), 100 * np.column_stack(curve))


def test_reliability_takes_one_network_or_bins_alone(tmp_path):
    probs = np.random.default_rng(0).dirichlet(np.ones(3), 500)
    bins = metrics.reliability_bins(probs, probs.argmax(axis=1))
    whole = plots.reliability({"net": {"as trained": bins}}, "title").axes[0]
    for shown in (bins, {"as trained": bins}):
        (axes,) = plots.reliability(shown, "title").axes
        drawn, wanted = (one.collections[0].get_offsets() for one in (axes, whole))
        np.testing.assert_array_equal(drawn, wanted)
    assert plots.save(plots.reliability(bins, "title"), str(tmp_path), "one").is_file()


def test_no_line_of_many_is_left_out():
    probs = np.random.default_rng(0).dirichlet(np.ones(3), 500)
    bins = metrics.reliability_bins(probs, probs.argmax(axis=1))
    names = [f"adjustment {place}" for place in range(11)]  # more than there are colours
    figure = plots.reliability(dict.fromkeys("ab", dict.fromkeys(names, bins)), "title")
    assert [len(axes.collections) for axes in figure.axes] == [11, 11]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
    curve = metrics.risk_coverage(probs, probs.argmax(axis=1))
    (axes,) = plots.risk_coverage(dict.fromkeys(names, curve), "title").axes
    assert [line.get_label() for line in axes.lines] == names
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 11


def test_batch_ece_stands_beside_the_whole_sets():
    table = report.batch_ece([0.5, 0.7], images=500, batch=100)
    (axes,) = plots.batch_ece(table, "title").axes
    heights = [bar.get_height() for bar in axes.patches]
    np.testing.assert_allclose(heights, [*table["ece_batches"], *table["ece"]])


def test_bars_that_are_wider_than_all_points_do_not_squeeze_them(cells):
    wide = cells.assign(acc_ci95=0.6, ece_ci95=0.9)
    low, high = plots.acc_vs_ece(wide, "title").axes[0].get_xlim()
    reach = cells["ece"].max() - cells["ece"].min()
    assert high - low <= 3.01 * reach
    usual = plots.acc_vs_ece(cells.assign(acc_ci95=0.01, ece_ci95=0.01), "title").axes[0]
    assert usual.get_ylim()[0] < 100 * cells["acc"].min()


def test_a_label_that_some_rows_lack_is_named(rows):
    with pytest.raises(ValueError, match=r"not all have the label 'student_loss', but \['mixup'"):
        plots.learning_curves(rows, "student_loss", "mixup", "title")


def test_holes_in_the_grid_stay_holes(cells, rows):
    hole = (cells["kd_method"] == "rkd") & cells["mixup"]
    figure = plots.harmonic_heatmap(cells.assign(harmonic=cells["harmonic"].mask(hole)), "title")
    assert [len(axes.texts) for axes in figure.axes] == [16, 16, 16, 16, 16, 16, 0, 16]
    left = [row for row in rows if row["labels"].get("kd_method") == "kd"
            and not (row["labels"]["mixup"] and row["labels"]["student_loss"] == "bs")]  # fmt: skip
    panels = plots.class_frequency(left, "title").axes
    bars = [[one for one in axes.collections if not isinstance(one, PathCollection)]
            for axes in panels]  # fmt: skip
    assert [len(found) for found in bars] == [4, 3]
