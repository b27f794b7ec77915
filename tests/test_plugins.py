"""What users bring in files of their own: a plain module, a method, a trained teacher."""

import hashlib
import importlib
import sys

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from torch import nn

from kdlib import (
    Lab,
    Params,
    costs,
    given,
    grid,
    load_student,
    objectives,
    registry,
    report,
    train,
    tune,
)
from kdlib.config.plugins import load_plugin

PLUGIN = """
import torch
from torch import nn
from kdlib.objectives import term
from kdlib.registry import MODELS

@MODELS.register("mine")
def mine(num_classes, in_channels, image_size):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_size**2, num_classes))

@term("gap", weight=1.0, logits_only=True)
def gap(context):
    return lambda forward: (forward.student.logits - forward.teacher.logits).square().mean()
"""
BASE = {
    "imbalance_factor": 20, "batch_size": 16, "epochs": 1, "mixup": False, "seeds": 0,
    "teacher_losses": ["ce"], "student_losses": ["ce"], "student_model": "mine",
    "teacher_model": "mine", "kd_methods": ["gap"],
}  # fmt: skip


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    for name in ("TERMS", "MODELS"):
        part = getattr(registry, name)
        monkeypatch.setattr(part, "_entries", dict(part._entries))
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    return path


def complete(plugin, folder, **changes):
    params = Params.of(**BASE | changes, plugins=[str(plugin)])
    return Lab.of(params, folder).complete(grid.student_runs(params))[0]


def test_a_model_and_a_method_of_a_file_make_a_grid(plugin, tmp_path):
    row = complete(plugin, tmp_path / "out")
    assert set(row["weights"]) == {"label", "gap"}
    assert row["history"][-1]["train"]["gap"] > 0
    student = load_student(row, tmp_path / "out")
    assert student(torch.rand(2, 1, 8, 8)).logits.shape == (2, 10)


TIED = """
from torch import nn
from kdlib.registry import MODELS

class Tied(nn.Module):
    def __init__(self, inputs, classes):
        super().__init__()
        self.inner, self.outer = nn.Linear(inputs, inputs), nn.Linear(inputs, inputs)
        self.outer.weight = self.inner.weight
        self.head = nn.Linear(inputs, classes)

    def forward(self, images):
        return self.head(self.outer(self.inner(images.flatten(1)).relu()).relu())

@MODELS.register("mine")
def mine(num_classes, in_channels, image_size):
    return Tied(in_channels * image_size**2, num_classes)
"""


def test_a_model_with_tied_weights_is_stored(plugin, tmp_path):
    plugin.write_text(TIED)
    row = complete(plugin, tmp_path / "out", kd_methods=["kd"])
    state = load_student(row, tmp_path / "out").state_dict()
    assert torch.equal(state["module.inner.weight"], state["module.outer.weight"])


@pytest.mark.slow
def test_processes_that_measure_import_the_plugins(plugin, tmp_path):
    """Of the estimate and of `tune`: they are handed runs, whose names they must know."""
    params = Params.of(**BASE, plugins=[str(plugin)])
    runs = grid.student_runs(params)
    found, _ = costs.measure({costs.kind(run): (run, params) for run in runs}, 1)
    assert len(found) == 1
    lab = Lab.of(params, tmp_path)
    record, selection = lab.record(runs[0]), lab.selection(runs[0])
    case = tune.Case(runs, record, selection, "cpu", lab.execution, 1, params.plugins)
    assert case.measure({"jobs": 2}) > 0


def test_a_student_of_a_plugin_that_was_not_imported_says_so(plugin, tmp_path):
    row = complete(plugin, tmp_path / "out")
    registry.MODELS._entries.pop("mine")
    with pytest.raises(LookupError, match=f"{row['id']}: the model 'mine' is of a plugin, import"):
        load_student(row["id"], tmp_path / "out")


def test_another_content_of_a_plugin_makes_other_rows(plugin, monkeypatch, tmp_path):
    """As the next process does: the module, its parts and the rows of what it said before."""
    row = complete(plugin, tmp_path / "out")
    assert row["versions"]["KD method gap"] == row["versions"]["model mine"]
    assert row["versions"]["KD method gap"].startswith("1 of ")
    plugin.write_text(PLUGIN.replace(".square()", ".abs()"))
    sys.modules.pop(f"kdlib_plugin_{plugin}")
    for name in ("TERMS", "MODELS"):
        for part in ("gap", "mine"):
            getattr(registry, name)._entries.pop(part, None)
    again = complete(plugin, tmp_path / "out")
    assert again["id"] == row["id"]
    assert again["versions"]["KD method gap"] != row["versions"]["KD method gap"]
    assert again["history"] != row["history"]


def test_a_plugin_that_changes_is_imported_again(plugin, tmp_path, caplog):
    """In the same process: its parts, and what was made with them, too."""
    row = complete(plugin, tmp_path / "out")
    assert complete(plugin, tmp_path / "out") == row
    plugin.write_text(PLUGIN.replace(".square()", ".abs()") + "\n\nbroken(")
    with pytest.raises(ValueError, match="SyntaxError"):
        complete(plugin, tmp_path / "out")
    assert registry.TERMS["gap"].version == row["versions"]["KD method gap"]  # as it was
    plugin.write_text(PLUGIN.replace(".square()", ".abs()").replace('"mine"', '"my_own"'))
    with caplog.at_level("INFO", "kdlib"):
        again = complete(plugin, tmp_path / "out", student_model="my_own", teacher_model="my_own")
    assert again["versions"]["KD method gap"] != row["versions"]["KD method gap"]
    assert again["history"] != row["history"]
    assert "mine" not in registry.MODELS  # what it no longer registers is gone
    plugin.write_text(PLUGIN)
    assert complete(plugin, tmp_path / "out") == row


def test_what_a_plugin_imports_from_beside_it_is_in_its_version(plugin, tmp_path, monkeypatch):
    """And is imported again with it; what lies there and is not imported is no part of it."""
    monkeypatch.syspath_prepend(plugin.parent)
    gap = "(forward.student.logits - forward.teacher.logits)"
    text = PLUGIN.replace(f"{gap}.square().mean()", f"helping.gap{gap}")
    helper, deeper = (plugin.with_name(f"{name}.py") for name in ("helping", "deeper_helping"))
    deeper.write_text("def power(gap):\n    return gap.square()\n")
    helper.write_text(
        "from deeper_helping import power\n\ndef gap(x):\n    return power(x).mean()\n"
    )
    plugin.write_text("import helping\n" + text)
    rows = [complete(plugin, tmp_path / "out")]
    plugin.with_name("bystander.py").write_text("x = 1\n")
    assert complete(plugin, tmp_path / "out") == rows[0]
    for path, old, new in ((deeper, "square", "abs"), (helper, "mean", "sum")):
        path.write_text(path.read_text().replace(old, new))
        rows.append(complete(plugin, tmp_path / "out"))
    assert len({row["versions"]["KD method gap"] for row in rows}) == 3
    assert len({row["history"][-1]["train"]["gap"] for row in rows}) == 3
    for name in ("helping", "deeper_helping"):
        sys.modules.pop(name)


def test_a_module_imported_by_hand_has_the_version_of_its_file(plugin, monkeypatch):
    """`import mine` in a notebook and `plugins: [mine]` in a batch make the same rows."""
    monkeypatch.syspath_prepend(plugin.parent)
    by_hand = importlib.import_module(plugin.stem)
    version = registry.TERMS["gap"].version
    assert version == f"1 of {hashlib.sha256(plugin.read_bytes()).hexdigest()[:8]}"
    plugin.write_text(PLUGIN.replace(".square()", ".abs()"))
    importlib.reload(by_hand)
    assert registry.TERMS["gap"].version not in (version, 1)
    monkeypatch.delitem(sys.modules, plugin.stem)


def test_another_part_of_a_taken_name_is_refused_and_a_cell_may_run_again(plugin):
    shell = InteractiveShell.instance()
    try:
        versions = []
        for power in (2, 2, 3):
            run = shell.run_cell(PLUGIN.replace(".square()", f".pow({power})"))
            run.raise_error()
            versions.append(registry.TERMS["gap"].version)
    finally:
        InteractiveShell.clear_instance()
    assert versions[0] == versions[1] != versions[2]
    assert all(version.startswith("1 of ") for version in versions)
    with pytest.raises(ValueError, match="KD method 'gap' is registered twice"):
        objectives.term("gap", weight=1.0)(lambda context: None)
    with pytest.raises(ValueError, match="KD method 'kd' is registered twice"):
        objectives.term("kd", weight=1.0)(registry.TERMS["kd"].build)


def test_a_fact_that_is_none_is_refused_by_name():
    with pytest.raises(TypeError, match=r"optimizer 'adamw': .*unexpected.* 'need_lr'"):
        registry.OPTIMIZERS.register("adamw", need_lr=True)


def test_all_of_a_cell_is_in_the_version_of_a_part(plugin):
    cell = """
from torch import nn
from kdlib.registry import MODELS

WIDTH = 16

class Net(nn.Module):
    pass

@MODELS.register("of_a_cell")
def of_a_cell(num_classes, in_channels, image_size):
    return Net()
"""
    shell, versions = InteractiveShell.instance(), []
    try:
        for text in (cell, cell.replace("16", "32"), cell.replace("    pass", "    deep = True")):
            shell.run_cell(text).raise_error()
            versions.append(registry.MODELS["of_a_cell"].version)
    finally:
        InteractiveShell.clear_instance()
    assert len(set(versions)) == 3


def test_what_a_cell_reads_of_others_is_in_the_version_of_its_parts(plugin):
    """When it is asked for: a constant may change after the cell that reads it was run."""
    cells = {
        "value": "BETA, unused = 1.0, 2",
        "helper": "def scaled(gap):\n    return BETA * deeper(gap)",
        "deeper": "class Deeper:\n    def __call__(self, gap):\n        return gap.square()\n"
                  "def deeper(gap):\n    return Deeper()(gap)",
        "method": """
from kdlib.objectives import term

@term("of_cells", weight=1.0)
def of_cells(context):
    return lambda forward: scaled(forward.student.logits - forward.teacher.logits).mean()
""",
    }  # fmt: skip
    shell, versions = InteractiveShell.instance(), []

    def run(name, old="", new=""):
        shell.run_cell(cells[name].replace(old, new) if old else cells[name]).raise_error()
        versions.append(registry.TERMS["of_cells"].version)

    try:
        for name in ("value", "helper", "deeper"):
            shell.run_cell(cells[name]).raise_error()
        run("method")
        run("value", "2", "3")  # which it does not read
        assert versions[0] == versions[1]
        run("value", "1.0", "100.0")
        run("helper", "BETA *", "2 * BETA *")
        run("deeper", "square", "abs")
        assert len(set(versions)) == 4
        shell.run_cell("del scaled").raise_error()
        assert registry.TERMS["of_cells"].version != versions[-1]
    finally:
        InteractiveShell.clear_instance()


def test_a_partial_has_the_version_of_the_plugin_that_registers_it(plugin, monkeypatch):
    entries = dict(registry.LABEL_LOSSES._entries)
    monkeypatch.setattr(registry.LABEL_LOSSES, "_entries", entries)
    text = """
from functools import partial
from kdlib import losses
from kdlib.registry import LABEL_LOSSES
LABEL_LOSSES.register("als_strong")(partial(losses.label_aware_smoothing, head=0.4))
"""
    versions = []
    for name, head in (("one", "0.4"), ("two", "0.9")):
        path = plugin.with_name(f"{name}.py")
        path.write_text(text.replace("0.4", head))
        load_plugin(str(path))
        versions.append(registry.LABEL_LOSSES._entries.pop("als_strong").version)
    assert versions[0] != versions[1]
    plugin.write_text(text + text.splitlines()[-1])
    with pytest.raises(ValueError, match="label loss 'als_strong' is registered twice"):
        load_plugin(str(plugin))


def test_parts_of_kdlib_have_versions_of_their_own():
    for part in registry.ALL:
        assert all(isinstance(part[name].version, int) for name in part.names())


def test_a_plugin_is_imported_once_and_called_by_its_place(plugin, monkeypatch):
    monkeypatch.chdir(plugin.parent)
    assert load_plugin("mine.py") == load_plugin(str(plugin)) == str(plugin)
    assert load_plugin("json") == "json"


def test_a_network_trained_elsewhere_teaches(plugin, tmp_path):
    load_plugin(str(plugin))
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    torch.save(own.state_dict(), tmp_path / "mine.pth")
    teacher = {"model": "mine", "checkpoint": str(tmp_path / "mine.pth")}
    teacher |= {"preprocess": {"mean": [0.5], "std": [0.25]}}
    row = complete(plugin, tmp_path / "out", teacher_model=teacher, teacher_losses=["given"])
    (given,) = row["run"]["teachers"]
    network = load_student(given, tmp_path / "out")
    images = torch.rand(3, 1, 8, 8)
    assert torch.allclose(network(images).logits, own((images - 0.5) / 0.25), atol=1e-6)


def test_a_plain_network_trained_here_teaches(plugin, tmp_path):
    row = complete(plugin, tmp_path / "out")
    stored = next((tmp_path / "out").rglob(f"checkpoints/{row['id']}.safetensors"))
    teacher = {"model": "mine", "checkpoint": str(stored)}
    row = complete(plugin, tmp_path / "next", teacher_model=teacher, teacher_losses=["given"])
    (given,) = row["run"]["teachers"]
    images = torch.rand(3, 1, 8, 8)
    taught, kept = (
        load_student(given, tmp_path / "next"),
        load_student(stored.stem, tmp_path / "out"),
    )
    assert torch.equal(taught(images).logits, kept(images).logits)


def test_names_of_a_plain_network_of_ones_own_are_its_own(plugin, tmp_path):
    """It may call its layers as kdlib or a wrapper would."""
    plugin.write_text(
        PLUGIN
        + """
class Odd(nn.Module):
    def __init__(self, classes, pixels):
        super().__init__()
        self.preprocess = nn.Flatten()
        self.module = nn.Sequential(nn.Linear(pixels, classes))

    def forward(self, images):
        return self.module(self.preprocess(images))

class Named(Odd):
    def __init__(self, classes, pixels):
        super().__init__(classes, pixels)
        self.preprocess = nn.Sequential(nn.Flatten(), nn.Linear(pixels, pixels))

@MODELS.register("odd")
def odd(num_classes, in_channels, image_size):
    return Odd(num_classes, in_channels * image_size**2)

@MODELS.register("named")
def named(num_classes, in_channels, image_size):
    return Named(num_classes, in_channels * image_size**2)
"""
    )
    load_plugin(str(plugin))
    for model in ("odd", "named"):
        own = registry.MODELS[model].build(10, 1, 8)
        path = tmp_path / f"{model}.pth"
        torch.save(own.state_dict(), path)
        told = {"model": model, "checkpoint": str(path)}
        told |= {"preprocess": {"mean": [0.5], "std": [0.25]}}
        params = Params.of(**BASE | {"teacher_model": told, "teacher_losses": ["given"]},
                           plugins=[str(plugin)])  # fmt: skip
        lab = Lab.of(params, tmp_path / "out")
        (teacher,) = grid.student_runs(params)[0].teachers
        network = given.network(teacher, lab.record(teacher))
        images = torch.rand(3, 1, 8, 8)
        assert torch.equal(network(images).logits, own((images - 0.5) / 0.25))


@pytest.mark.parametrize("method", ["rkd", "at", "crd"])
def test_methods_that_read_more_than_logits_are_refused_by_name(plugin, tmp_path, method):
    options = {"crd": {"negatives": 8}}
    said = f"KD method '{method}'.*; the model 'mine' shows no embedding and no maps: let it return"
    with pytest.raises(ValueError, match=said):
        complete(plugin, tmp_path / "out", kd_methods=[method], options=options)


def test_what_is_wrong_with_a_plugin_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"plugins.0: no file .*absent.py"):
        Params.of(plugins=[str(tmp_path / "absent.py")])
    with pytest.raises(ValueError, match=r"plugins.0: no_such_module: ModuleNotFoundError"):
        Params.of(plugins=["no_such_module"])
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0")
    for _ in range(2):  # it is not kept half imported
        with pytest.raises(ValueError, match=r"plugins.0: .*broken.py, line 1: ZeroDivisionError"):
            Params.of(plugins=[str(broken)])


def test_a_plugin_that_failed_half_way_can_be_mended(plugin):
    plugin.write_text(PLUGIN + "1 / 0")
    for _ in range(2):
        with pytest.raises(ValueError, match="ZeroDivisionError"):
            load_plugin(str(plugin))
        assert "mine" not in registry.MODELS
    plugin.write_text(PLUGIN)
    load_plugin(str(plugin))
    assert "mine" in registry.MODELS


def test_a_method_whose_loss_has_no_gradient_is_refused_or_weighs_nothing(plugin, tmp_path):
    detached = "forward.student.logits.detach() - forward.teacher.logits"
    text = PLUGIN.replace("forward.student.logits - forward.teacher.logits", detached)
    plugin.write_text(text)
    with pytest.raises(ValueError, match=r"KD method 'gap', .* has no gradient"):
        complete(plugin, tmp_path / "out")
    row = complete(plugin, tmp_path / "out", options={"gap": {"weight": 0}})
    assert row["kd_share"] == {"first": 0.0}
    assert row["flags"] == ["KD is off (first epoch)"]


def test_a_student_trained_elsewhere_is_measured_beside_the_grid(plugin, tmp_path):
    own = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    torch.save(own.state_dict(), tmp_path / "mine.pth")
    given = {"linear": {"model": "mine", "checkpoint": str(tmp_path / "mine.pth")}}
    params = Params.of(
        **BASE | {"kd_methods": ["none"]}, plugins=[str(plugin)], given_students=given
    )
    lab = Lab.of(params, tmp_path / "out")
    rows = lab.complete(grid.student_runs(params) + grid.control_runs(params))
    assert [row["labels"]["student_loss"] for row in rows] == ["ce", "linear"]
    assert rows[1]["history"] == []
    table = report.Study.of(rows, params).control_grids
    assert list(table["cell"]) == ["GIVEN S:LINEAR"]
    assert table["acc"].item() == rows[1]["metrics"]["test"]["acc"]


def test_a_model_of_other_classes_is_refused_by_name_before_any_training(plugin, tmp_path):
    plugin.write_text(PLUGIN.replace("image_size**2, num_classes)", "image_size**2, 7)"))
    with pytest.raises(
        ValueError, match=r"model 'mine' gives logits of shape \(2, 7\) .* \(2, 10\)"
    ):
        complete(plugin, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.json"))


TRAINING = """
import torch
from kdlib.registry import AUGMENTATIONS, OPTIMIZERS, SCHEDULES

@OPTIMIZERS.register("adamw", needs_lr=True)
def adamw(recipe, parameters, lr, cuda_graphs):
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=recipe.weight_decay)

@SCHEDULES.register("linear")
def linear(recipe, epoch):
    return recipe.lr * (1 - epoch / recipe.epochs)

@AUGMENTATIONS.register("brightness")
def brightness(images, draws):
    factors = 0.8 + 0.4 * torch.rand(len(images), 1, 1, 1, generator=draws)
    return (images * factors.to(images.device)).clamp(0, 1)
"""
OWN_TRAINING = {"optimizer": "adamw", "schedule": "linear", "lr": 0.01, "epochs": 2,
                "augment": {"transform": "brightness"}}  # fmt: skip


@pytest.fixture
def training(plugin, monkeypatch):
    for name in ("OPTIMIZERS", "SCHEDULES", "AUGMENTATIONS"):
        part = getattr(registry, name)
        monkeypatch.setattr(part, "_entries", dict(part._entries))
    plugin.write_text(PLUGIN + TRAINING)
    return plugin


def test_an_optimizer_a_schedule_and_an_augmentation_of_a_file(training, tmp_path):
    row = complete(training, tmp_path / "out", **OWN_TRAINING)
    parts = ("optimizer adamw", "schedule linear", "augmentation brightness")
    for part in (*parts, *(f"teacher's {part}" for part in parts)):
        assert row["versions"][part].startswith("1 of ")
    assert row["run"]["augment"] == {"crop": 0, "flip": False, "transform": "brightness"}
    plain = complete(training, tmp_path / "out", lr=0.01, epochs=2, augment={})
    assert not any("adamw" in part or "sgd" in part for part in plain["versions"])
    assert "transform" not in plain["run"]["augment"]  # rows of before keep their ids
    training.write_text(PLUGIN + TRAINING.replace("0.8 + 0.4", "0.5 + 0.5"))
    again = complete(training, tmp_path / "out", **OWN_TRAINING)
    assert again["versions"] != row["versions"]
    assert again["history"] != row["history"]


def test_a_training_of_ones_own_resumes_bit_for_bit_and_a_cohort_equals_lone_students(
    training, tmp_path
):
    changes = OWN_TRAINING | {"kd_methods": ["none", "gap"], "teacher_losses": ["ce"]}
    params = Params.of(**BASE | changes, plugins=[str(training)])
    runs = grid.student_runs(params)
    lab = Lab.of(params, tmp_path / "whole")
    together = lab.complete(runs)
    for run, row in zip(runs, together, strict=True):
        (alone,) = Lab.of(params, tmp_path / run.id).complete([run])
        assert alone["metrics"] == row["metrics"]
    record, selection = lab.record(runs[1]), lab.selection(runs[1])
    teachers = [lab.network(teacher) for teacher in runs[1].teachers]
    kept = []
    train.fit([runs[1]], record, selection, teachers, keep=lambda run, one: kept.append(one))
    (resumed,) = train.fit([runs[1]], record, selection, teachers, resume=kept[:1])
    assert resumed.history == together[1]["history"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"options": {"kd/2": {"of": "kd"}}, "kd_methods": ["kd/2"]},
            "'kd/2-ce-ce-no_mixup' names a run's files",
        ),
        ({"optimizer": "adamv"}, "unknown optimizer 'adamv', did you mean 'adam"),
        ({"schedule": "linaer"}, "unknown schedule 'linaer', did you mean 'linear'"),
        ({"augment": {"transform": "brigthness"}}, "augment: unknown augmentation 'brigthness'"),
        ({"lr": None}, "parameters: lr must be given for adamw, the default rule is SGD's"),
        ({"milestones": [1]}, "parameters: schedule 'linear' takes no milestones"),
    ],
)
def test_what_is_wrong_with_a_training_of_ones_own_is_said(changes, said, training, tmp_path):
    with pytest.raises(ValueError, match=said) as caught:
        complete(training, tmp_path / "out", **OWN_TRAINING | changes)
    assert len(str(caught.value)) < 200  # and not the whole of the params


@pytest.mark.parametrize(
    ("broken", "said"),
    [("[:, :, 1:]", r"gives \(4, 1, 7, 8\) torch.float32 of \(4, 1, 8, 8\)"),
     (".half()", "gives .* torch.float16"), (".clamp_by(1)", ": AttributeError: ")],
)  # fmt: skip
def test_an_augmentation_that_fails_is_named_before_training(broken, said, training, tmp_path):
    training.write_text(PLUGIN + TRAINING.replace(".clamp(0, 1)", broken))
    with pytest.raises(ValueError, match=f"augmentation 'brightness', tried on 4 images.*{said}"):
        complete(training, tmp_path / "out", **OWN_TRAINING)
    assert not list((tmp_path / "out").rglob("*.safetensors"))
