"""The loop: a cohort is as good as lone runs, bit for bit; randomness is a function of the seed."""

import numpy as np
import pytest
import torch
from torch import nn

from kdlib import augment, data, grid, losses, metrics, objectives, seeding, train
from kdlib.config import Augment, Params, Recipe
from kdlib.train import loop, recipes, student
from kdlib.types import Mix

BASE = {
    "imbalance_factor": 20, "batch_size": 16, "epochs": 2, "mixup": [True], "warmup_epochs": 1,
    "teacher_losses": ["ce"], "student_losses": ["ce", "bs"], "teacher_model": "resnet8_half",
    "options": {"crd": {"negatives": 8}},
}  # fmt: skip


@pytest.fixture(scope="module")
def digits():
    record = data.load("digits")
    return record, data.select(record, 20, None, 0)


def same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_cohort_ends_bit_identical_to_lone_runs(digits):
    runs = grid.student_runs(Params(kd_methods=["kd", "crd", "rkd", "at"], **BASE))
    (teacher,) = grid.teacher_runs(Params(**BASE))
    network = train.fit([teacher], *digits)[0].network
    together = train.fit(runs, *digits, [network])
    for one in together:
        (alone,) = train.fit([one.run], *digits, [network])
        assert same(alone.network.state_dict(), one.network.state_dict()), one.run.id
        assert (alone.history, alone.kd_share) == (one.history, one.kd_share)
    states = [one.network.state_dict() for one in together]
    assert not any(same(states[0], state) for state in states[1:])


def test_dropout_does_not_depend_on_the_company(digits):
    record = data.load("digits", image_size=28)
    params = Params(**BASE | {"student_model": "student", "image_size": 28}, kd_methods=["none"])
    runs = grid.student_runs(params)
    together = train.fit(runs, record, digits[1])
    for one in together:
        (alone,) = train.fit([one.run], record, digits[1])
        assert same(alone.network.state_dict(), one.network.state_dict())


def test_runs_of_two_streams_are_no_cohort(digits):
    runs = grid.student_runs(Params(kd_methods=["none"], **BASE | {"seeds": [0, 1]}))
    with pytest.raises(ValueError, match="a cohort shares one stream"):
        train.fit(runs, *digits)


@pytest.mark.parametrize("optimizer", [{}, {"optimizer": "adam", "lr": 1e-3}], ids=["sgd", "adam"])
def test_going_on_leaves_the_progress_it_was_given_as_it_was(digits, optimizer):
    params = Params(kd_methods=["none"], **BASE | {"student_losses": ["ce"]} | optimizer)
    (run,), kept = grid.student_runs(params), []
    train.fit([run], *digits, keep=lambda run, progress: kept.append(progress))
    before = {name: value.clone() for name, value in kept[0].tensors.items()}
    train.fit([run], *digits, resume=kept[:1])
    assert same(kept[0].tensors, before)


def test_a_loss_that_is_not_finite_is_noted_and_harms_no_other(digits):
    runs = grid.student_runs(Params(kd_methods=["none", "kd"], **BASE))
    (teacher,) = grid.teacher_runs(Params(**BASE))
    network = train.build_network(teacher, digits[0])
    runs = [run for run in runs if run.teachers]
    broken = runs[0].model_copy(
        update={"objective": runs[0].objective | {"kd": {"weight": float("nan"), "temperature": 4}}}
    )
    ill, well = train.fit([broken, runs[1]], *digits, [network])
    assert ill.failure == "label, kd was not finite in epoch 1"
    (alone,) = train.fit([runs[1]], *digits, [network])
    assert well.failure is None
    assert same(alone.network.state_dict(), well.network.state_dict())


def test_a_student_that_breaks_in_the_last_step_harms_no_other(digits, monkeypatch):
    """Its losses were finite all the time, its weights no longer are."""
    runs = grid.student_runs(Params(kd_methods=["none"], **BASE | {"epochs": 1}))
    real = train.predict

    def predict(network, images):
        logits = real(network, images)
        return logits / 0 if network is broken[0] else logits

    broken = []
    init = student.Student.__init__

    def remember(self, *arguments):
        init(self, *arguments)
        broken.append(self.trained.network)

    monkeypatch.setattr(student.Student, "__init__", remember)
    monkeypatch.setattr(student, "predict", predict)
    ill, well = train.fit(runs, *digits)
    assert ill.failure == "validation logits were not finite in epoch 1"
    assert well.failure is None


def test_fp16_trains_one_student_at_a_time(digits):
    runs = grid.student_runs(Params(kd_methods=["none"], precision="fp16", **BASE))
    with pytest.raises(ValueError, match="precision fp16 trains one student at a time, got 2"):
        train.fit(runs, *digits)


def test_a_first_step_that_a_scaler_skips_leaves_no_rubbish_in_the_momentum():
    """The fused kernel would make its buffers of memory as it comes, and use them ever after."""
    weights = [nn.Parameter(torch.ones(1000)) for _ in range(3)]
    recipe = Recipe(optimizer="sgd", lr=0.1).explicit()
    for weight in weights:
        weight.grad = torch.full_like(weight, torch.inf)
    optimizer = recipes.sgd(recipe, weights, torch.tensor(0.1), False)
    for weight in weights:  # there before any step, for what a step makes may be anything
        assert not optimizer.state[weight]["momentum_buffer"].any()
    scaler = torch.amp.GradScaler("cpu")
    for gradient in (torch.inf, 1.0):
        for weight in weights:
            weight.grad = torch.full_like(weight, gradient)
        scaler.scale(torch.zeros(()))
        scaler.step(optimizer)
        scaler.update()
    for weight in weights:
        assert optimizer.state[weight]["momentum_buffer"].abs().max() <= 1
        assert weight.isfinite().all()


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_steps_as_torchs_plain_one(momentum):
    own, plain = ([nn.Parameter(torch.arange(5.0))] for _ in range(2))
    recipe = Recipe(optimizer="sgd", lr=0.1, momentum=momentum, weight_decay=0.01).explicit()
    found = recipes.sgd(recipe, own, torch.tensor(0.1), False)
    literal = torch.optim.SGD(
        plain, lr=0.1, weight_decay=0.01, momentum=momentum, nesterov=momentum > 0
    )
    for step in range(4):
        for (weight,), optimizer in ((own, found), (plain, literal)):
            weight.grad = torch.linspace(-1, 1, 5) * (step + 1)
            optimizer.step()
    torch.testing.assert_close(own[0], plain[0])


def test_training_learns(digits):
    params = Params(**BASE | {"epochs": 15, "mixup": [False], "student_losses": ["ce"]})
    (run,) = grid.teacher_runs(params)
    (trained,) = train.fit([run], *digits)
    record, _ = digits
    probs = metrics.softmax(train.predict(trained.network, record.test_images))
    assert metrics.accuracy(probs, record.test_labels) > 0.5
    losses = [entry["train"]["label"] for entry in trained.history]
    assert losses[-1] < 0.5 * losses[0]
    assert [entry["epoch"] for entry in trained.history] == list(range(1, 16))
    best = max(entry["val_acc"] for entry in trained.history)
    assert trained.history[trained.selected_epoch - 1]["val_acc"] == best


def test_kd_share_is_the_ratio_of_gradient_norms(digits, monkeypatch):
    monkeypatch.setattr(loop, "PROBED_BATCHES", 1)
    runs = grid.student_runs(Params(kd_methods=["kd", "none"], **BASE | {"epochs": 1}))
    network = train.build_network(runs[-1], digits[0])
    taught = [run for run in runs if run.teachers]
    record, selection = digits
    labels = torch.from_numpy(record.train_labels[selection.train_indices])
    images = torch.from_numpy(record.train_images[selection.train_indices])
    run = taught[0]
    stream = augment.Stream(images, labels, 10, 16, 0, run.augment, run.mixup_alpha)
    batch, student = next(stream.epoch(0, 1)), train.build_network(run, record)
    logits, teacher = student(batch.images).logits, network.eval()(batch.images).logits
    parts = (
        0.9 * losses.kd(logits, teacher, 4.0),
        0.1 * losses.soft_cross_entropy(logits, batch.targets),
    )
    norms = [
        torch.cat(
            [
                one.flatten()
                for one in torch.autograd.grad(part, student.parameters(), retain_graph=True)
            ]
        )
        .norm()
        .item()
        for part in parts
    ]
    (found,) = train.fit([run], record, selection, [network])
    assert found.kd_share["first"] == pytest.approx(norms[0] / norms[1], rel=1e-3)
    (once,) = train.fit(taught[:1], *digits, [network])
    heavier = taught[0].objective | {"kd": {"weight": 9.0, "temperature": 4.0}}
    (more,) = train.fit([taught[0].model_copy(update={"objective": heavier})], *digits, [network])
    assert 0.01 < once.kd_share["first"] < more.kd_share["first"]
    assert train.fit([run for run in runs if not run.teachers][:1], *digits)[0].kd_share == {}


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (Recipe(epochs=10, warmup_epochs=2, lr=0.1), {0: 0, 1: 0.05, 2: 0.1, 6: 0.05, 10: 0}),
        (
            Recipe(epochs=10, schedule="step", milestones=(4, 6), lr=1.0),
            {0: 1, 3.9: 1, 4: 0.1, 5.5: 0.1, 6: 0.01, 9: 0.01},
        ),
        (Recipe(epochs=2, warmup_epochs=5, lr=0.1), {0: 0, 1: 0.1, 2: 0}),
    ],
)
def test_learning_rate(recipe, expected):
    for epoch, rate in expected.items():
        assert train.learning_rate(recipe, epoch) == pytest.approx(rate, abs=1e-12)


def stream(alpha=0.0, crop=1, flip=True, seed=0, count=50):
    images = torch.randint(256, (count, 8, 8, 3), dtype=torch.uint8)
    labels = torch.arange(count) % 10
    made = augment.Stream(images, labels, 10, 16, seed, Augment(crop=crop, flip=flip), alpha)
    return images, labels, made


def test_batches_are_a_function_of_seed_and_epoch():
    _images, _labels, one = stream(alpha=1.0)
    first, again = list(one.epoch(3, 9)), list(one.epoch(3, 9))
    assert all(torch.equal(a.images, b.images) for a, b in zip(first, again, strict=True))
    other = list(one.epoch(4, 9))
    assert not torch.equal(first[0].rows, other[0].rows)
    assert len(first) == 3
    assert all(len(batch.rows) == 16 for batch in first)
    rows = torch.cat([batch.rows for batch in first])
    assert len(rows.unique()) == 48  # without replacement, the short batch left out


def test_a_crop_as_large_as_an_image_is_refused():
    images, labels = torch.zeros(4, 8, 8, 1, dtype=torch.uint8), torch.arange(4)
    with pytest.raises(ValueError, match=r"augment.crop must be below the 8 pixels .* got 8"):
        augment.Stream(images, labels, 4, 2, 0, Augment(crop=8, flip=False))
    augment.Stream(images, labels, 4, 2, 0, Augment(crop=7, flip=False))


def test_crop_and_flip_against_a_loop():
    images, _, made = stream(crop=2)
    batch = next(made.epoch(0, 1))
    padded = np.pad(images.numpy(), ((0, 0), (2, 2), (2, 2), (0, 0)))
    for row, image in zip(batch.rows.tolist(), batch.images, strict=True):
        windows = [
            padded[row, y : y + 8, x : x + 8][:, ::step]
            for y in range(5) for x in range(5) for step in (1, -1)
        ]  # fmt: skip
        found = (image.permute(1, 2, 0) * 255).round().numpy()
        assert any(np.array_equal(found, window) for window in windows)


def test_without_augmentation_images_come_as_they_are():
    images, labels, made = stream(crop=0, flip=False)
    batch = next(made.epoch(0, 1))
    expected = images[batch.rows].permute(0, 3, 1, 2) / 255
    assert torch.equal(batch.images, expected)
    assert torch.equal(batch.targets, labels[batch.rows])
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_mixup_mixes_images_and_targets_alike():
    images, labels, made = stream(alpha=1.0, crop=0, flip=False)
    for batch in made.epoch(0, 1):
        lam, partner = batch.mix.lam.item(), batch.rows[batch.mix.permutation]
        clean = images.permute(0, 3, 1, 2) / 255
        mixed = lam * clean[batch.rows] + (1 - lam) * clean[partner]
        assert torch.allclose(batch.images, mixed, atol=1e-6)
        for i in range(16):  # a published mistake: the label of the partner was forgotten
            expected = torch.zeros(10)
            expected[labels[batch.rows[i]]] += lam
            expected[labels[partner[i]]] += 1 - lam
            assert torch.allclose(batch.targets[i], expected, atol=1e-6)


def test_lam_one_is_no_mixup():
    values = torch.rand(4, 3)
    assert torch.equal(
        augment.mixup(values, Mix(torch.tensor([1, 2, 3, 0]), torch.tensor(1.0))), values
    )


def test_mixup_shares_follow_their_law():
    _, _, made = stream(alpha=0.5, count=16000)
    lams = torch.stack([draw.lam for draw in made.draws(0, 1)])
    assert lams.mean().item() == pytest.approx(0.5, abs=0.04)
    assert lams.var().item() == pytest.approx(1 / 8, abs=0.015)  # of Beta(1/2, 1/2)


def test_streams_of_randomness_do_not_touch():
    draws = {
        torch.rand(1, generator=seeding.generator(*key)).item()
        for key in [(0, "order", 0), (0, "order", 1), (1, "order", 0), (0, "mixup", 0)]
    }
    assert len(draws) == 4


@pytest.mark.parametrize("method", ["none", "kd", "crd", "pskd", "byot+dmfl", "kd+pskd+byot+dmfl"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_going_on_after_any_epoch_is_exact(digits, method, optimizer):
    changes = {"epochs": 3, "student_losses": ["bs"], "optimizer": optimizer, "lr": 0.01}
    params = Params(**BASE | changes, kd_methods=[method])
    (run,) = grid.student_runs(params)
    network = [train.build_network(teacher, digits[0]) for teacher in run.teachers]
    kept = []
    (whole,) = train.fit([run], *digits, network, keep=lambda run, one: kept.append(one))
    assert [progress.facts["epoch"] for progress in kept] == [1, 2, 3]
    for progress in kept:
        (again,) = train.fit([run], *digits, network, resume=[progress])
        assert same(whole.network.state_dict(), again.network.state_dict())
        assert same(whole.selected, again.selected)
        assert (again.history, again.kd_share) == (whole.history, whole.kd_share)


def test_a_cohort_goes_on_from_one_epoch_only(digits):
    runs = grid.student_runs(Params(kd_methods=["none"], **BASE))
    kept = []
    train.fit(runs[:1], *digits, keep=lambda run, one: kept.append(one))
    with pytest.raises(ValueError, match=r"resume: .* same epoch"):
        train.fit(runs, *digits, resume=kept)


def test_cached_logits_of_teachers_equal_live_ones(digits, monkeypatch):
    fixed = BASE | {"mixup": [False], "augment": Augment(), "student_losses": ["ce"], "epochs": 1}
    (run,) = grid.student_runs(Params(**fixed, kd_methods=["kd"]))
    (teacher,) = train.fit(list(run.teachers), *digits)
    (cached,) = train.fit([run], *digits, [teacher.network])
    monkeypatch.setattr(objectives, "caches", lambda run: False)
    (live,) = train.fit([run], *digits, [teacher.network])
    assert (cached.teacher_views, live.teacher_views) == ("cached", "live")
    one, other = (trained.history[0]["train"]["kd"] for trained in (cached, live))
    assert one == pytest.approx(other, rel=1e-5)
    assert one != 0


@pytest.mark.parametrize("changes", [{"augment": Augment(crop=1)}, {"mixup": [True]}])
def test_teachers_stay_live_where_images_change(digits, changes):
    fixed = {"mixup": [False], "augment": Augment(), "student_losses": ["ce"], "epochs": 1}
    (run,) = grid.student_runs(Params(**BASE | fixed | changes, kd_methods=["kd"]))
    (trained,) = train.fit([run], *digits, [train.build_network(run.teachers[0], digits[0])])
    assert trained.teacher_views == "live"


def test_terms_that_read_maps_keep_their_teachers_live_beside_cached_ones(digits):
    fixed = {"mixup": [False], "augment": Augment(), "student_losses": ["ce"], "epochs": 1}
    runs = grid.student_runs(Params(**BASE | fixed, kd_methods=["kd", "at"]))
    network = train.build_network(runs[0].teachers[0], digits[0])
    together = train.fit(runs, *digits, [network])
    assert [trained.teacher_views for trained in together] == ["cached", "live"]
    for one in together:
        (alone,) = train.fit([one.run], *digits, [network])
        assert same(alone.network.state_dict(), one.network.state_dict())


@pytest.mark.parametrize("mixup", [False, True])
def test_pskd_is_the_literal_recipe(digits, mixup):
    """Three epochs of Kim et al. by hand: a table of last epoch's predictions, first the labels; in
    one go, and after an interruption."""
    record, selection = digits
    changes = {"mixup": [mixup], "student_losses": ["ce"], "epochs": 3, "weight_decay": 0.0}
    (run,) = grid.student_runs(Params(**BASE | changes, kd_methods=["pskd"]))
    kept = []
    (trained,) = train.fit([run], *digits, keep=lambda run, one: kept.append(one))
    resumed = [train.fit([run], *digits, resume=[progress])[0] for progress in kept[:2]]

    network = train.build_network(run, record).to(memory_format=torch.channels_last)
    labels = torch.from_numpy(record.train_labels[selection.train_indices])
    images = torch.from_numpy(record.train_images[selection.train_indices])
    stream = augment.Stream(images, labels, 10, 16, 0, run.augment, run.mixup_alpha)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    table = {row: torch.eye(10)[label] for row, label in enumerate(labels)}
    for epoch in (1, 2, 3):
        alpha = 0.8 * epoch / 3
        for batch in stream.epoch(epoch - 1, 3):
            optimizer.param_groups[0]["lr"] = train.learning_rate(
                run.recipe, epoch - 1 + batch.clock.step / stream.steps
            )
            soft = torch.stack(
                [
                    (1 - alpha) * torch.eye(10)[labels[row]] + alpha * table[row]
                    for row in batch.rows.tolist()
                ]
            )
            if epoch == 1:  # plain cross-entropy
                assert torch.equal(soft, torch.eye(10)[labels[batch.rows]])
            if mixup:
                lam = batch.mix.lam
                soft = lam * soft + (1 - lam) * soft[batch.mix.permutation]
            logits = network(batch.images).logits
            seen = logits
            if mixup:
                with torch.no_grad():
                    seen = network.eval()(batch.unmixed).logits
                network.train()
            for row, said in zip(batch.rows.tolist(), seen.detach().softmax(1), strict=True):
                table[row] = said
            optimizer.zero_grad()
            (-soft * logits.log_softmax(1)).sum(1).mean().backward()
            optimizer.step()
    for one in (trained, *resumed):
        for name, value in network.eval().state_dict().items():
            found = one.network.state_dict()[name]
            torch.testing.assert_close(found, value, rtol=1e-3, atol=1e-4, msg=name)


def test_a_student_may_have_frozen_weights(digits, monkeypatch):
    """They are no part of what is measured of the pull of its terms."""
    (run,) = grid.student_runs(
        Params(
            **BASE | {"mixup": [False], "student_losses": ["ce"], "epochs": 1}, kd_methods=["kd"]
        )
    )
    teacher, build = train.build_network(run.teachers[0], digits[0]), train.loop.build_network

    def frozen(run, record):
        network = build(run, record)
        next(network.parameters()).requires_grad_(False)
        return network

    monkeypatch.setattr(train.loop, "build_network", frozen)
    (trained,) = train.fit([run], *digits, [teacher])
    assert trained.kd_share["first"] > 0
    first, before = (next(one.parameters()) for one in (trained.network, build(run, digits[0])))
    assert torch.equal(first, before)
