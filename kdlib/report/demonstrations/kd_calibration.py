"""KD x calibration: why none of the published differences is one of KD methods on a long tail."""

from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import nn

from kdlib import data, losses, models, seeding
from kdlib.report import literature
from kdlib.report.demonstrations import toys
from kdlib.report.demonstrations.base import Shown, demonstration, gradient_norm
from kdlib.report.images import batch_ece

CIFAR10_TAIL = 100
_shown = partial(
    demonstration,
    source="KD x calibration, training and evaluation modules",
    known="read from the compiled CIFAR-10 modules; the CIFAR-100 code was not seen, there it is "
    "presumed",
)


@_shown("ECE as a mean over mini-batches")
def batch_ece_floor() -> Shown:
    """A perfectly calibrated predictor, measured per batch of 128 and as a whole."""
    table, published = batch_ece(), literature.read("kd_calibration")
    line, lowest = table.iloc[-1], published.loc[published["data"] == "cifar10", "ece"].min()
    return Shown(
        table,
        f"With {100 * line['accuracy']:.0f} % accuracy and perfect calibration, a mean over "
        f"batches of 128 says {line['ece_batches']:.3f}, all 10,000 images say "
        f"{line['ece']:.3f}. The lowest published CIFAR-10 value is {lowest:.4f}.",
    )


@_shown("Positions in the tail, read as images")
def no_long_tail() -> Shown:
    """Class counts of CIFAR-10-LT IF 100 with real indices, and with positions used as such."""
    generator = seeding.numpy_generator(0, "labels in random order")
    labels = generator.permutation(np.repeat(np.arange(10), 5000))
    tail = data.long_tail(labels, CIFAR10_TAIL, seed=0)
    positions, _ = data.split_validation(labels[tail], 0.2, seed=0)
    used = {"indices": labels[tail[positions]], "positions": labels[positions]}
    counts = {f"images_by_{name}": np.bincount(found) for name, found in used.items()}
    table = pd.DataFrame({"class": range(10), **counts})
    real, read = table["images_by_indices"], table["images_by_positions"]
    return Shown(
        table,
        f"The tail keeps {real.max()} to {real.min()} images a class; positions read as indices "
        f"train on {read.min()} to {read.max()}: there is no long tail left to correct.",
    )


@_shown("KD terms without a gradient")
def kd_without_gradient() -> Shown:
    """Features taken as `children()[:-1]` of a wrapper with one child, as DataParallel is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        student, teacher = (models.build("resnet8", 10) for _ in range(2))
        images = torch.rand(16, 3, 32, 32)
    wrapped = (nn.Sequential(net) for net in (student, teacher))
    cut = [nn.Sequential(*list(net.children())[:-1]) for net in wrapped]
    features = [net(images).flatten(1) for net in cut]
    views = [net(images) for net in (student, teacher)]
    weights = list(student.parameters())
    found = {
        "all but the last child of the wrapper": losses.rkd_distance(*features),
        "the student's embedding": losses.rkd_distance(*(view.embedding for view in views)),
    }
    lines = [
        {"features": name, "loss": value.item(), "gradient_norm": gradient_norm(value, weights)}
        for name, value in found.items()
    ]
    table = pd.DataFrame(lines)
    return Shown(
        table,
        "The wrapper without its only child returns the input image, so student and teacher "
        f"features are equal: the loss is {lines[0]['loss']:g} and the student's gradient "
        f"{lines[0]['gradient_norm']:g} (with its embedding {lines[1]['gradient_norm']:.2g}).",
    )


@_shown("Temperature 1 / n_y")
def kd_switched_off() -> Shown:
    """The gradient of KD over that of cross-entropy: T = 4, and T = 1 / n_y on the teacher only
    with an element-wise mean and a factor of the mean T^2."""
    generator = seeding.generator(0, "temperature")
    labels = torch.randint(10, (128,), generator=generator)
    student = torch.randn(128, 10, generator=generator, requires_grad=True)
    teacher = 3 * torch.randn(128, 10, generator=generator)
    temperatures = 1 / torch.full((128, 1), 1000.0)  # n_y of the set as trained, without a tail
    sharp = (teacher / temperatures).softmax(dim=1)
    divergences = nn.functional.kl_div(student.log_softmax(dim=1), sharp, reduction="none")
    published = temperatures.square().mean() * divergences.mean()
    label = gradient_norm(losses.soft_cross_entropy(student, labels), [student])
    shares = {
        "T = 1 / n_y": gradient_norm(published, [student]) / label,
        "T = 4": gradient_norm(losses.kd(student, teacher, 4.0), [student]) / label,
    }
    table = pd.DataFrame({"temperature": list(shares), "kd_share": list(shares.values())})
    return Shown(
        table,
        f"KD pulls {shares['T = 1 / n_y']:.0e} times as hard as the labels, with T = 4 "
        f"{shares['T = 4']:.2g} times: vanilla KD was off.",
    )


@_shown("Balanced softmax, inverted")
def inverted_balanced_softmax() -> Shown:
    """Five overlapping classes of 1000 to 10 points: log n, nothing, or log 1 / n added in
    training."""
    inputs, labels = toys.points(toys.LONG_TAIL, "train")
    inverse = [max(toys.LONG_TAIL) / count for count in toys.LONG_TAIL]
    fitted = {
        "balanced softmax": lambda z, y: losses.balanced_softmax(z, y, toys.LONG_TAIL),
        "cross-entropy": losses.soft_cross_entropy,
        "inverted": lambda z, y: losses.balanced_softmax(z, y, inverse),
    }
    lines = [
        {"loss": name, **toys.test_row(*toys.fit(inputs, labels, loss))}
        for name, loss in fitted.items()
    ]
    accuracies = [f"{line['loss']} {100 * line['acc']:.1f} %" for line in lines]
    return Shown(
        pd.DataFrame(lines),
        f"Accuracy on a balanced test set: {', '.join(accuracies)}. Inverse frequencies correct "
        "the wrong way; on data without a tail all three are one.",
    )


@_shown("A confidence penalty with the sign reversed")
def reversed_confidence_penalty() -> Shown:
    """The same classes, balanced: entropy taken from the loss, or added to it."""
    inputs, labels = toys.points((200,) * toys.CLASSES, "balanced")
    lines = []
    for name, beta in (("penalty", 0.1), ("cross-entropy", 0.0), ("reversed", -0.1)):
        found = toys.fit(
            inputs, labels, lambda z, y, beta=beta: losses.confidence_penalty(z, y, beta)
        )
        lines.append({"loss": name, **toys.test_row(*found)})
    said = [f"{line['loss']} {line['confidence']:.3f}" for line in lines]
    return Shown(
        pd.DataFrame(lines),
        f"Mean confidence at an accuracy of {lines[1]['acc']:.3f}: {', '.join(said)}. Added "
        "entropy rewards the overconfidence that the penalty is there to prevent.",
    )


@_shown("Unmixed labels under mixup")
def unmixed_labels() -> Shown:
    """Mixup with Beta(0.1, 0.1): labels mixed as the points are, or left as they were."""
    inputs, labels = toys.points((200,) * toys.CLASSES, "balanced")
    generator = seeding.numpy_generator(0, "unmixed labels")
    shares = torch.from_numpy(generator.beta(0.1, 0.1, (len(labels), 1))).float()
    partners = torch.from_numpy(generator.permutation(len(labels)))
    mixed = shares * inputs + (1 - shares) * inputs[partners]
    own = nn.functional.one_hot(labels, toys.CLASSES).float()
    targets = {"mixed": shares * own + (1 - shares) * own[partners], "unmixed": own}
    lines = [
        {"labels": name, **toys.test_row(*toys.fit(mixed, target, losses.soft_cross_entropy))}
        for name, target in targets.items()
    ]
    published = literature.read("kd_calibration").query("data == 'cifar10' and mixup")
    means = published.groupby(published["student_loss"] == "als")["ece"].mean()
    return Shown(
        pd.DataFrame(lines),
        f"In {100 * (shares < 0.5).float().mean():.0f} % of the draws the point is mostly its "
        f"partner's. ECE with mixed labels {lines[0]['ece']:.3f}, with unmixed ones "
        f"{lines[1]['ece']:.3f} (published CIFAR-10 means with mixup: label smoothing "
        f"{means[True]:.3f}, the other losses {means[False]:.3f}).",
    )
