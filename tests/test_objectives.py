"""The composition matrix: every legal combination takes a step, every illegal one is refused."""

import dataclasses
import itertools
import re

import numpy as np
import pytest
import torch
from torch import nn

from kdlib import Lab, data, grid, losses, notices, objectives, registry, train
from kdlib.augment import Stream
from kdlib.config import Params
from kdlib.objectives import single_teacher
from kdlib.plan import plan
from kdlib.teachers import FrozenTeachers
from kdlib.train import loop
from kdlib.types import Clock, Forward, View

LABELS = registry.LABEL_LOSSES.names()
TERMS = registry.TERMS.names() + registry.TARGETS.names()
JOINED = ["kd+pskd", "byot+dmfl", "kd+pskd+byot+dmfl", "crd+dmfl"]
BASE = {
    "imbalance_factor": 20, "batch_size": 16, "epochs": 2, "mixup": [False],
    "teacher_losses": ["ce"], "student_losses": ["ce"], "options": {"crd": {"negatives": 8}},
}  # fmt: skip


def student_run(**changes):
    (run,) = grid.student_runs(Params.of(**BASE | changes))
    return run


@pytest.fixture(scope="module")
def digits():
    record = data.load("digits")
    return record, data.select(record, 20, None, 0)


def setting(run, digits):
    """One student of a run, one batch, and the teachers' views of it."""
    record, selection = digits
    labels = torch.from_numpy(record.train_labels[selection.train_indices])
    images = torch.from_numpy(record.train_images[selection.train_indices])
    counts = torch.as_tensor(selection.class_counts)
    stream = Stream(images, labels, 10, 16, 0, run.augment, run.mixup_alpha)
    shared = FrozenTeachers([train.build_network(teacher, record) for teacher in run.teachers])
    (student,) = loop._students([run], record, labels, counts, shared, "cpu")
    batch = next(stream.epoch(0, 1))
    return student, batch, shared(batch)


@pytest.mark.parametrize("mixup", [False, True], ids=["plain", "mixup"])
@pytest.mark.parametrize("loss", LABELS)
@pytest.mark.parametrize("method", [grid.NO_KD, *TERMS, *JOINED])
def test_every_legal_combination_takes_a_finite_step(method, loss, mixup, digits):
    run = student_run(kd_methods=[method], student_losses=[loss], mixup=mixup)
    student, batch, views = setting(run, digits)
    weights = list(student.trained.network.parameters())
    before = [weight.detach().clone() for weight in weights]
    value = student.loss(batch, views, torch.autocast("cpu", enabled=False))
    assert value.isfinite()
    for name, part in student.losses.items():  # a published mistake: KD terms without gradient
        gradients = torch.autograd.grad(part, weights, retain_graph=True, allow_unused=True)
        pull = sum(one.abs().sum() for one in gradients if one is not None)
        assert pull > 0, name
        assert part.isfinite(), name
    value.backward()
    torch.optim.SGD(student.parameters(), lr=0.01).step()
    assert any(not torch.equal(*pair) for pair in zip(before, weights, strict=True))


def test_teachers_are_not_touched(digits):
    run = student_run(kd_methods=["kd"])
    record, _ = digits
    network = train.build_network(run.teachers[0], record)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    shared = FrozenTeachers([network])
    _, batch, _ = setting(run, digits)
    assert not shared(batch)[0].logits.requires_grad
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())


def test_a_teachers_fitted_temperature_reaches_the_term_that_uses_it(digits):
    """KD of logits divided by it, and by nothing where none was fitted."""
    run = student_run(kd_methods=["own"], options={"own": {"of": "kd", "calibrated": True}})
    student, batch, _ = setting(run, digits)
    network = train.build_network(run.teachers[0], digits[0])
    for fitted, divisor in ((2.5, 2.5), (None, 1.0)):
        network.temperature = fitted
        (view,) = FrozenTeachers([network])(batch)
        assert view.temperature == fitted
        student.loss(batch, (view,), torch.autocast("cpu", enabled=False))
        with torch.no_grad():
            own = student.network(batch.images).logits
        expected = 0.9 * losses.kd(own, view.logits / divisor, 4.0)
        torch.testing.assert_close(student.losses["kd"], expected, rtol=1e-4, atol=1e-5)


def test_the_terms_are_weighted_as_the_params_say(digits):
    run = student_run(kd_methods=["rkd"], options={"rkd": {"weight": 0.5, "label_weight": 0.25}})
    student, batch, views = setting(run, digits)
    student.loss(batch, views, torch.autocast("cpu", enabled=False))
    assert student.trained.weights == {"label": 0.25, "rkd": 0.5}
    twice = student_run(kd_methods=["rkd"], options={"rkd": {"weight": 1.0, "label_weight": 0.25}})
    other, _, _ = setting(twice, digits)
    other.loss(batch, views, torch.autocast("cpu", enabled=False))
    assert torch.allclose(other.losses["rkd"], 2 * student.losses["rkd"])
    assert torch.allclose(other.losses["label"], student.losses["label"])


def test_kd_matches_what_its_options_say(digits):
    _record, selection = digits
    run = student_run(kd_methods=["kd"])
    student, batch, (teacher,) = setting(run, digits)
    counts = torch.as_tensor(selection.class_counts)
    context = objectives.Context(teacher, (teacher,), None, counts, 0)
    views = (dataclasses.replace(teacher, temperature=3.0),)
    own = student.network(batch.images)
    forward = Forward(batch, batch.targets, own, views)
    plain, warm = losses.kd(own.logits, teacher.logits, 4.0), teacher.logits / 3
    assert torch.equal(single_teacher.kd(context)(forward), plain)
    found = single_teacher.kd(context, calibrated=True)(forward)
    assert torch.equal(found, losses.kd(own.logits, warm, 4.0))
    assert not torch.equal(found, plain)
    found = single_teacher.kd(context, space="adjusted")(forward)
    assert torch.equal(found, losses.kd(own.logits + counts.log(), teacher.logits, 4.0))
    with pytest.raises(ValueError, match=r"kd.space: .*plain.*got 'odd'"):
        student_run(kd_methods=["kd"], options={"kd": {"space": "odd"}})


def test_at_is_scaled_by_the_size_of_the_maps(digits):
    student, _, _ = setting(student_run(kd_methods=["at"]), digits)
    assert student.trained.weights["at"] == pytest.approx(62.5)  # maps of 8, 4, 2 px
    view = objectives.dry_view("resnet8", 10, 3, 32)
    context = objectives.Context(view, (view,), None, None, 0)
    assert single_teacher._map_scale(context) == pytest.approx(1.0)
    smaller = objectives.dry_view("resnet8", 10, 3, 16)  # a given teacher's: its maps are compared
    context = objectives.Context(view, (smaller,), None, None, 0)
    assert single_teacher._map_scale(context) == pytest.approx(0.25)


def check(run, digits):
    record, selection = digits
    labels = torch.from_numpy(record.train_labels[selection.train_indices])
    counts = torch.as_tensor(selection.class_counts)
    objectives.check(run, record, labels, counts)


def test_every_legal_run_passes_the_check(digits):
    for method, loss, mixup in itertools.product(
        [grid.NO_KD, *TERMS, *JOINED], LABELS, [False, True]
    ):
        check(student_run(kd_methods=[method], student_losses=[loss], mixup=mixup), digits)


def test_crd_negatives_are_checked_against_the_pool(digits):
    counts = sorted(digits[1].class_counts, reverse=True)
    for mixup, largest in ((False, 1), (True, 2)):
        pool = sum(counts[largest:])
        options = {"crd": {"negatives": pool}}
        check(student_run(kd_methods=["crd"], mixup=mixup, options=options), digits)
        options = {"crd": {"negatives": pool + 1}}
        with pytest.raises(ValueError, match=f"{pool + 1} negatives.* only {pool} training"):
            check(student_run(kd_methods=["crd"], mixup=mixup, options=options), digits)


def test_what_cannot_be_is_refused_before_training(digits):
    with pytest.raises(ValueError, match="at pairs stages by name"):
        check(student_run(kd_methods=["at"], student_model="resnet18"), digits)
    with pytest.raises(ValueError, match=r"batch_size 4000 exceeds the .* leave of"):
        check(student_run(kd_methods=["kd"], batch_size=4000), digits)
    with pytest.raises(LookupError, match="unknown model 'resnet9', did you mean"):
        check(student_run(kd_methods=["kd"], student_model="resnet9"), digits)
    with pytest.raises(ValueError, match=r"teacher_cnn1.*8"):
        check(student_run(kd_methods=["kd"], teacher_model="teacher_cnn1"), digits)
    too_much = student_run(
        kd_methods=["kd"], student_losses=["als"], options={"als": {"head": 1.5}}
    )
    with pytest.raises(ValueError, match=r"head must .*1.5"):
        check(too_much, digits)
    run = student_run(kd_methods=["kd"])
    with pytest.raises(ValueError, match=r"kd takes 1 teacher\(s\), got 0"):
        check(run.model_copy(update={"teachers": ()}), digits)
    with pytest.raises(ValueError, match=r"kd takes 1 teacher\(s\), got 2"):
        check(run.model_copy(update={"teachers": run.teachers * 2}), digits)
    record, selection = digits
    grey = np.repeat(record.train_images, 3, axis=-1)
    grey[..., 1] = 7
    constant = dataclasses.replace(record, train_images=grey), selection
    with pytest.raises(ValueError, match="digits: channel 1 of the training images has one value"):
        check(run, constant)


@pytest.fixture
def own_parts(monkeypatch):
    for name in ("TERMS", "LABEL_LOSSES"):
        entries = dict(getattr(registry, name)._entries)
        monkeypatch.setattr(getattr(registry, name), "_entries", entries)


WRONG_TERMS = {
    "got shape (16,)": lambda forward: forward.student.logits.square().mean(1),
    "got float": lambda forward: 0.5,
    "RuntimeError: ": lambda forward: forward.student.logits.mean() @ forward.teacher.logits,
    "KeyError: 'stage9'": lambda forward: forward.student.features["stage9"].mean(),
    "has no gradient": lambda forward: forward.student.logits.detach().square().mean(),
}


class OwnLayer(nn.Module):
    """The term learns, the student does not."""

    def __init__(self, context):
        super().__init__()
        self.layer = nn.Linear(context.student.embedding.shape[1], 1)

    def forward(self, forward):
        return self.layer(forward.student.embedding.detach()).square().mean()


def late(forward):
    started = forward.batch.clock.epoch >= 1
    return forward.student.logits.square().mean() if started else torch.zeros(())


def in_place(forward):
    logits = forward.student.logits
    logits -= logits.mean(1, keepdim=True)
    return logits.square().mean()


def against_other_classes(forward):
    labels, embedding = forward.batch.targets, forward.student.embedding
    return torch.cdist(embedding, embedding)[labels[:, None] != labels].min()


def neighbours(forward):
    return torch.cdist(*2 * [forward.student.embedding]).topk(6).values.mean()


# Factories of losses that are unusual and legal, without mixup.
UNUSUAL = {
    "late": lambda context: late,
    "in place": lambda context: in_place,
    "other classes": lambda context: against_other_classes,
    "neighbours": lambda context: neighbours,
    "reads validation": lambda context: (
        lambda forward: forward.student.logits.square().mean() * context.validation()[0].mean()
    ),
    "on the device of the context": lambda context: (
        lambda forward: (forward.student.logits * context.student.logits.new_ones(10)).mean()
    ),
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_an_unusual_term_is_not_refused(name, own_parts, digits):
    objectives.term("mine", weight=1.0)(UNUSUAL[name])
    check(student_run(kd_methods=["mine"]), digits)


class Counting(nn.Module):
    """Of a mean that it keeps in Python, or in a buffer."""

    def __init__(self, context, buffer: bool = False):
        super().__init__()
        self.buffer = buffer
        self.register_buffer("kept", torch.zeros(()))
        self.mean = 0.0

    def forward(self, forward):
        loss = forward.student.logits.square().mean()
        if self.buffer:
            self.kept += loss.detach()
        else:
            self.mean = 0.9 * self.mean + 0.1 * loss.detach()
        return loss


@pytest.mark.parametrize("buffer", [False, True])
def test_what_a_resumed_run_would_not_have_is_told(own_parts, digits, caplog, buffer):
    notices.warn_once.cache_clear()
    objectives.term("mine", weight=1.0)(Counting)
    check(student_run(kd_methods=["mine"], options={"mine": {"buffer": buffer}}), digits)
    told = f"{registry.TERMS.kind} 'mine' changes its mean in a step: no buffer" in caplog.text
    assert told != buffer
    assert told or not caplog.records


def test_a_term_that_teaches_itself_alone_is_refused(own_parts, digits):
    objectives.term("mine", weight=1.0)(OwnLayer)
    with pytest.raises(ValueError, match=r"'mine', .* has no gradient in what the student shows"):
        check(student_run(kd_methods=["mine"]), digits)


def test_a_term_of_logits_alone_is_tried_on_what_is_cached(own_parts, digits):
    objectives.term("mine", weight=1.0, logits_only=True)(
        lambda context: (
            lambda forward: forward.student.logits.mean() - forward.teacher.embedding.mean()
        )
    )
    check(student_run(kd_methods=["mine"], mixup=True), digits)  # seen live
    with pytest.raises(ValueError, match="'mine', tried on 16 images: AttributeError"):
        check(student_run(kd_methods=["mine"], augment={}), digits)


class Soft(nn.Module):
    """A target source as it should be."""

    def __init__(self, context):
        super().__init__()
        self.classes = len(context.class_counts)

    def forward(self, batch):
        return nn.functional.one_hot(batch.targets, self.classes).float()

    def observe(self, batch, network, view):
        self.seen = network(batch.images).logits + view.logits


class NoTargets(Soft):
    def forward(self, batch):
        return batch.targets.softmax(1)


class OfOtherShape(Soft):
    def forward(self, batch):
        return super().forward(batch)[:, 1:]


class Unseeing(Soft):
    observe = None


class Missing(Soft):
    def observe(self, batch, network, view):
        self.seen = view.past


WRONG_SOURCES = {
    NoTargets: "IndexError", OfOtherShape: "shape (16, 9), needs (16, 10)",
    Unseeing: "TypeError", Missing: "AttributeError: 'View' object has no attribute 'past'",
}  # fmt: skip


@pytest.mark.parametrize("source", WRONG_SOURCES)
def test_a_target_source_that_fails_is_named(source, digits, monkeypatch):
    """What it gives, and what it does when the student has been asked."""
    monkeypatch.setattr(registry.TARGETS, "_entries", dict(registry.TARGETS._entries))
    registry.TARGETS.register("mine")(Soft)
    check(student_run(kd_methods=["mine"]), digits)
    monkeypatch.delitem(registry.TARGETS._entries, "mine")
    registry.TARGETS.register("mine")(source)
    said = rf"target source 'mine', tried on 16 images.*{re.escape(WRONG_SOURCES[source])}"
    with pytest.raises(ValueError, match=said):
        check(student_run(kd_methods=["mine"]), digits)


def test_every_run_of_the_default_profile_passes_the_check():
    """Given networks and teachers put together among them."""
    for part in plan("digits").parts:
        Lab.of(part.params).check(part.runs)


@pytest.mark.parametrize("said", WRONG_TERMS)
@pytest.mark.parametrize("mixup", [False, True])
def test_a_term_that_fails_is_named_before_training(said, mixup, own_parts, digits):
    objectives.term("mine", weight=1.0)(lambda context: WRONG_TERMS[said])
    images = "mixed images" if mixup else "images"
    with pytest.raises(ValueError, match=f"'mine', tried on 16 {images}.*{re.escape(said)}"):
        check(student_run(kd_methods=["mine"], mixup=mixup), digits)


def projected(context):
    """A FitNets hint in the style of a function: who trains its projection?"""
    projection = nn.Linear(context.student.embedding.shape[1], context.teacher.embedding.shape[1])

    def loss(forward):
        return (projection(forward.student.embedding) - forward.teacher.embedding).square().mean()

    return loss


class Projected(nn.Module):
    def __init__(self, context):
        super().__init__()
        wide, wider = (view.embedding.shape[1] for view in (context.student, context.teacher))
        self.projection = nn.Linear(wide, wider)

    def forward(self, forward):
        gap = self.projection(forward.student.embedding) - forward.teacher.embedding
        return gap.square().mean()


def test_weights_that_nothing_trains_are_refused(own_parts, digits):
    objectives.term("mine", weight=1.0)(projected)
    said = r"KD method 'mine', tried on 16 images, has 2 weights that nothing trains: .* nn.Module"
    with pytest.raises(ValueError, match=said):
        check(student_run(kd_methods=["mine"]), digits)
    objectives.term("as_a_module", weight=1.0)(Projected)
    check(student_run(kd_methods=["as_a_module"]), digits)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda context: context.student.features["layer2"],
         "KD method 'mine': KeyError: 'layer2'; the student's maps are stage1, stage2, stage3"),
        (lambda context, gamma: None, "KD method 'mine': TypeError: .*'gamma'"),
    ],
)  # fmt: skip
def test_a_term_that_cannot_be_built_is_named(broken, said, own_parts, digits):
    objectives.term("mine", weight=1.0)(broken)
    with pytest.raises(ValueError, match=said):
        check(student_run(kd_methods=["mine"]), digits)


class LDAM(nn.Module):
    """LDAM with deferred re-weighting (Cao et al. 2019), and a scale that is learned."""

    def __init__(self, class_counts, margin: float = 0.5, defer: float = 0.5):
        super().__init__()
        counts = torch.as_tensor(class_counts, dtype=torch.float32)
        self.register_buffer("margins", margin * (counts / counts.min()) ** -0.25)
        self.register_buffer("weights", counts.sum() / counts / len(counts))
        self.scale, self.defer, self.deferred = nn.Parameter(torch.ones(())), defer, False
        self.steps = 0

    def tick(self, clock):
        self.deferred = clock.epoch >= self.defer * clock.epochs

    def settle(self):
        self.steps += 1

    def note(self):
        return {"steps": self.steps, "deferred": self.deferred}

    def forward(self, logits, targets):
        inside = nn.functional.one_hot(targets, logits.shape[1]) * self.margins
        weights = self.weights if self.deferred else None
        return nn.functional.cross_entropy(self.scale * (logits - inside), targets, weights)


def test_a_label_loss_may_have_weights_and_the_hooks_of_any_loss(own_parts, digits, tmp_path):
    registry.LABEL_LOSSES.register("ldam")(LDAM)
    params = Params.of(
        **BASE | {"kd_methods": ["none", "kd"], "student_losses": ["ldam"], "epochs": 2,
                  "teacher_losses": ["ldam"], "options": {"ldam": {"margin": 0.3}}, "seeds": [0],
                  "student_model": "resnet8_half", "teacher_model": "resnet8_half"}
    )  # fmt: skip
    for run in grid.student_runs(params) + grid.teacher_runs(params):
        assert run.objective["label"] == {"weight": run.objective["label"]["weight"],
                                          "loss": "ldam", "margin": 0.3, "defer": 0.5}  # fmt: skip
    rows = Lab.of(params, tmp_path).complete(grid.student_runs(params))
    assert all(row["history"][-1]["train"]["label"] > 0 for row in rows)
    for row in rows:
        noted = row["history"][-1]["notes"]["label"]
        assert noted["deferred"]
        assert noted["steps"] == 2 * (sum(row["data"]["class_counts"]) // params.batch_size)
    context = objectives.Context(View(torch.zeros(2, 3)), (), None, torch.tensor([9, 3, 1]), 0)
    term = objectives.assemble.LabelTerm(context, "ldam", margin=0.3, defer=0.5)
    assert [name for name, _ in term.named_parameters()] == ["loss.scale"]
    for epoch, deferred in ((0, False), (1, True)):
        term.tick(Clock(epoch, 2, 0))
        assert term.loss.deferred == deferred


def test_a_label_loss_that_cannot_read_mixed_targets_is_named(own_parts, digits):
    @registry.LABEL_LOSSES.register("hard")
    def hard(logits, targets, class_counts):
        return -logits.log_softmax(1)[torch.arange(len(targets)), targets].mean()

    check(student_run(kd_methods=["kd"], student_losses=["hard"]), digits)
    with pytest.raises(ValueError, match="label loss 'hard', tried on 16 mixed images: IndexError"):
        check(student_run(kd_methods=["kd"], student_losses=["hard"], mixup=True), digits)


def test_a_toy_term_and_a_toy_loss_are_one_function_each(digits, own_parts):
    @objectives.term("logit_mse", weight=0.5)
    def logit_mse(context, centre: bool = True):
        def loss(forward):
            gap = forward.student.logits - forward.teacher.logits
            return (gap - centre * gap.mean(1, keepdim=True)).square().mean()

        return loss

    @registry.LABEL_LOSSES.register("brier")
    def brier(logits, targets, class_counts):
        return (logits.softmax(1) - torch.eye(len(class_counts))[targets]).square().sum(1).mean()

    run = student_run(kd_methods=["logit_mse"], student_losses=["brier"])
    assert run.objective["logit_mse"] == {"weight": 0.5, "centre": True}
    student, batch, views = setting(run, digits)
    assert student.loss(batch, views, torch.autocast("cpu", enabled=False)).isfinite()
