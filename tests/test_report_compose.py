"""Sections of several studies on one page, and the fragments they are made of."""

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from report_helpers import SMALL, fake_rows, params_of

from kdlib import plots
from kdlib.files import write_atomic
from kdlib.report import html
from kdlib.report.compose import Section, drop
from kdlib.report.compose import notes as notes_of
from kdlib.store import REASONS

STUDIES = [
    ("03_calibration_study", "if100"), ("03_calibration_study", "if50"),
    ("04_self_distillation", ""), ("05_multi_teacher_fidelity", "three"),
]  # fmt: skip


def write(out_dir, key, text="as it was"):
    stem, setting = key
    section = Section(out_dir, stem, setting)
    return section.write(f"{stem} {setting} & more", [html.note(text), ""], f"{stem} {setting}\n")


def anchors(page):
    return re.findall(r'<section id="([^"]*)">', page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("order", [STUDIES, STUDIES[::-1]], ids=["in order", "backwards"])
def test_sections_stand_in_the_order_of_their_stems(order, tmp_path):
    for key in order:
        page = write(tmp_path, key)
    text = page.read_text(encoding="utf-8")
    keys = ["/".join(filter(None, key)) for key in STUDIES]
    assert anchors(page) == keys
    assert re.findall(r'<li><a href="#([^"]*)">', text) == keys
    assert text.count("03_calibration_study if50 &amp; more") == 2  # contents and heading
    summary = (tmp_path / "report" / "summary.txt").read_text()
    assert summary == "\n".join(f"{stem} {setting}\n" for stem, setting in STUDIES)


def test_what_a_reader_must_know_heads_a_section():
    params = params_of(SMALL, seeds=[0])
    rows = fake_rows(params)
    assert notes_of(rows) == []
    rows[0]["data"] = rows[0]["data"] | {"name": "mine", "test_counts": [5, 11, 8]}
    rows[1]["provenance"] = rows[1]["provenance"] | {"dirty": True}
    dirty, tailed = notes_of(rows)
    assert dirty == "1 row was made by code that is in no commit"
    assert tailed.startswith("mine: its test split has 5 to 11 images a class, so accuracy")


def test_dropped_sections_leave_the_page_and_keep_their_files(tmp_path):
    for key in STUDIES:
        page = write(tmp_path, key)
    write_atomic(tmp_path / "03_calibration_study" / "if50" / "cells.csv", b"x")
    drop(tmp_path, ["03_calibration_study/if50", "04_self_distillation"])
    assert anchors(page) == ["03_calibration_study/if100", "05_multi_teacher_fidelity/three"]
    assert "if50" not in (tmp_path / "report" / "summary.txt").read_text()
    assert (tmp_path / "03_calibration_study" / "if50" / "cells.csv").exists()


def test_the_claims_which_are_about_all_studies_come_first(tmp_path):
    for key in (*STUDIES[:2], ("07_published_claims", ""), ("08_mine", "")):
        page = write(tmp_path, key)
    keys = ["/".join(filter(None, key)) for key in STUDIES[:2]]
    assert anchors(page) == ["07_published_claims", *keys, "08_mine"]


def test_writing_again_replaces_one_section(tmp_path):
    for key in STUDIES:
        before = write(tmp_path, key).read_text(encoding="utf-8")
    after = write(tmp_path, STUDIES[1], "</section>\n<section> is only text").read_text("utf-8")
    changed = "&lt;/section&gt;\n&lt;section&gt; is only text"
    assert after.count("as it was") == 3
    assert after.count(changed) == 1
    assert write(tmp_path, STUDIES[1]).read_text(encoding="utf-8") == before


def test_a_setting_that_is_gone_leaves_the_page(tmp_path):
    for key in STUDIES[:3]:
        write(tmp_path, key)
    for path in sorted((tmp_path / "03_calibration_study" / "if100").rglob("*"))[::-1]:
        path.unlink()
    (tmp_path / "03_calibration_study" / "if100").rmdir()
    page = write(tmp_path, STUDIES[3])
    assert anchors(page) == ["/".join(filter(None, key)) for key in STUDIES[1:]]


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    keys = [(f"{number:02}_study", "") for number in range(12)]
    with ThreadPoolExecutor(6) as pool:
        pages = list(pool.map(lambda key: write(tmp_path, key), keys))
    assert anchors(pages[0]) == [stem for stem, _ in keys]


def test_a_page_of_another_kind_is_written_anew(tmp_path):
    write_atomic(tmp_path / "report" / "index.html", b"<html><h2>old</h2></html>")
    page = write(tmp_path, STUDIES[0])
    assert "old" not in page.read_text(encoding="utf-8")


def test_tables_and_figures_lie_in_the_sections_folder(tmp_path):
    section = Section(tmp_path, "04_self_distillation", "resnet")
    table = pd.DataFrame({"cell": ["a"], "acc": [0.5]})
    section.tables({"cells": table, "nothing": table})
    section.tables({"cells": table, "nothing": table[:0]})  # an earlier one goes
    demo = pd.DataFrame({"accuracy": [0.4], "ece_batches": [0.1], "ece": [0.01],
                         "ece_floor_batch": [0.1], "ece_floor": [0.01]})  # fmt: skip
    figure = section.figure("demo", "A <figure>", plots.batch_ece(demo, "title"))
    page = section.write("title", [figure, section.files()])
    assert sorted(os.listdir(section.folder)) == ["cells.csv", "figures"]
    addresses = re.findall(r'(?:src|href)="(\.\.[^"]*)"', page.read_text(encoding="utf-8"))
    assert [address.split("/")[-1] for address in addresses] == [
        "demo.svg",
        "demo.png",
        "cells.csv",
    ]
    assert all((page.parent / address).is_file() for address in addresses)
    assert "A &lt;figure&gt;" in figure


def test_a_figure_that_is_no_longer_drawn_goes(tmp_path):
    section = Section(tmp_path, "04_self_distillation", "resnet")
    for names in (["first", "second"], ["second"]):
        shown = []
        for name in names:
            with plots.canvas.canvas(size=(1, 1)) as (figure, _):
                shown.append(section.figure(name, "a caption", figure))
        section.write("title", shown)
        there = {path.name for path in (section.folder / "figures").iterdir()}
        assert there == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}


def test_what_is_missing_is_said_with_the_reason_until_it_is_there(tmp_path):
    why = {"kd-seed0-12": "02_students/ce: ValueError: <nan>", "at-seed0-34": "of no concern"}
    write_atomic(tmp_path / REASONS, json.dumps(why).encode())
    table = {"cells": pd.DataFrame({"cell": ["a"], "acc": [0.5]})}
    lacking, note = ["kd-seed0-12", "rkd-seed0-56"], "mixed rows: 2 commits"
    for missing, notes in ((lacking, [note]), ((), ())):
        section = Section(tmp_path, "02_study", "", missing, notes)
        section.tables(table)
        page = section.write("Title", [section.files()], "the summary\n").read_text()
        summary = (tmp_path / "report" / "summary.txt").read_text()
        listed = section.folder / "missing.csv"
        if missing:
            lost = pd.read_csv(listed).to_dict("list")
            assert lost == {"run": lacking, "why": [why[lacking[0]], "not run yet"]}
            assert "<h2>Title (incomplete)</h2>" in page
            assert "Incomplete, missing runs: 2." in page
            assert "ValueError: &lt;nan&gt;" in page
            assert note in page
            assert summary.endswith("Incomplete, missing runs: 2. missing.csv says why.\n")
    assert not listed.exists()
    assert "<h2>Title</h2>" in page
    assert "missing" not in page
    assert "ncomplete" not in page + summary


def test_a_table_shows_numbers_to_the_right_and_links_runs():
    table = pd.DataFrame({
        "cell": ["<a>", "b"], "acc": [0.5, 0.25], "acc_ci95": [0.01, np.nan],
        "nll_effect": [-np.inf, 1.0], "tau": [np.nan, np.nan],
        "runs": ["kd-ce-seed0-12; kd-ce-seed1-34", "gone-seed0-56"],
    })  # fmt: skip
    text = html.table(table, "A & B", {"kd-ce-seed0-12": "02/x", "kd-ce-seed1-34": "02/x"})
    assert "<caption>A &amp; B</caption>" in text
    assert re.findall(r"<button>([^<]*)<", text) == ["cell", "ACC %", "NLL effect", "runs"]
    assert "<td>&lt;a&gt;</td>" in text
    assert re.findall(r'<td class="n">([^<]*)<', text) == [
        "50.00 ± 1.00",
        "-inf",
        "25.00",
        "+1.000",
    ]
    assert '<a href="../02/x/rows/kd-ce-seed1-34.json">seed1</a>' in text
    assert "gone" not in text
    assert html.table(table[:0], "Flags") == '<p class="note">Flags: none</p>'
