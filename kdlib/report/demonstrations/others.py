"""Self-distillation, several teachers, overlapping teachers: terms, weights and targets that were
not what they were called."""

import numpy as np
import pandas as pd
import torch
from torch import nn

from kdlib import losses, metrics, models, seeding
from kdlib.report import literature
from kdlib.report.demonstrations.base import Shown, demonstration, gradient_norm
from kdlib.studies.published_claims import Analysis

DMFL_PAIRS = Analysis(
    table="self_distillation", metric="top1_error_percent", side="lower",
    level={"dmfl": True}, versus={"dmfl": False},
)  # fmt: skip


@demonstration(
    "Mutual learning without a gradient",
    "self-distillation: training code",
    "read; the shipped bytecode has the same call, so the published runs very likely had it",
)
def detached_dmfl() -> Shown:
    """Pair losses put into a new tensor, and summed as they are."""
    generator = seeding.generator(0, "features")
    sides = [torch.randn(32, 64, generator=generator, requires_grad=True) for _ in range(3)]
    final = torch.randn(32, 64, generator=generator)
    pairs = [losses.mutual_feature([side], final) for side in sides]
    found = {
        "a new tensor of their values": torch.tensor([pair.item() for pair in pairs]).mean(),
        "their mean": torch.stack(pairs).mean(),
    }
    lines = [
        {
            "pair losses become": name,
            "loss": value.item(),
            "gradient_norm": gradient_norm(value, sides),
        }
        for name, value in found.items()
    ]
    (published,) = literature.paired(DMFL_PAIRS).to_dict("records")
    return Shown(
        pd.DataFrame(lines),
        f"The loss is the same, its gradient {lines[0]['gradient_norm']:g} instead of "
        f"{lines[1]['gradient_norm']:.2g}. So the {published['pairs']} published pairs with and "
        "without DMFL would be repeats of one training: their top-1 errors differ by "
        f"{published['size']:.2f} points on average, by {published['largest']:.2f} at most, the "
        "noise of a single run (an inference, no repeat is published).",
    )


@demonstration(
    "Constant weights in the log",
    "multi-teacher: training code and result files",
    "read; every logged weight is 0.2",
)
def constant_weights() -> Shown:
    """Weights of five good teachers: as logged, of batch means (the loss), of single images."""
    generator = seeding.generator(0, "teachers")
    labels = torch.randint(10, (128,), generator=generator)
    sure = torch.tensor([5.0, 5.5, 6.0, 6.5, 7.0])[:, None, None]  # some better than others
    teachers = sure * nn.functional.one_hot(labels, 10)
    teachers = teachers + torch.randn(5, 128, 10, generator=generator)
    found = {
        "logged: 1 / M for any tensor": torch.full((5,), 1 / 5),
        "from batch means": losses.camkd_weights(teachers, labels, per_sample=False),
        "from each image": losses.camkd_weights(teachers, labels),
    }
    table = pd.DataFrame([
        {"weights": name, "lowest": float(w.min()), "highest": float(w.max())}
        for name, w in found.items()
    ])  # fmt: skip
    low, high = table["lowest"], table["highest"]
    return Shown(
        table,
        f"The loss had weights of {low[1]:.3f} to {high[1]:.3f}, the log says {low[0]:.3f}: means "
        f"over a batch carry little confidence; single images give {low[2]:.3f} to {high[2]:.3f}.",
    )


@demonstration(
    "Two centroids of one name",
    "multi-teacher: metrics of the two experiments",
    "read; that large logits cause the gap is inference",
)
def two_centroids() -> Shown:
    """A student that is the mean of the teachers' logits, against both means."""
    generator = seeding.numpy_generator(0, "centroids")
    shapes = (
        generator.normal(size=(3, 2000, 10)) + 3 * np.eye(10)[generator.integers(10, size=2000)]
    )
    lines = []
    for scale in (1, 3, 9):
        teachers = shapes * np.array([1, 1, scale])[:, None, None]
        student = teachers.mean(axis=0)
        kl = {
            f"kl_to_mean_{pool}": metrics.centroid_fidelity(student, teachers, pool=pool)
            for pool in ("logits", "probs")
        }
        lines.append({"scale of the third teacher's logits": scale, **kl})
    published = literature.read("multi_teacher").set_index(["experiment", "metric"])["value"]
    theirs = (
        published["exp3", "F_cent"].min(),
        published["4methods", "centroid_fidelity_final"].min(),
    )
    return Shown(
        pd.DataFrame(lines),
        "A student that equals the mean of the logits is 0 from it, and up to "
        f"{lines[-1]['kl_to_mean_probs']:.2f} nats from the mean of the probabilities once a "
        f"teacher's logits are large. Under one name the closest student is {theirs[0]:.3f} "
        f"away in one experiment (logits) and {theirs[1]:.3f} in the other (probabilities).",
    )


@demonstration(
    "Soft targets that sum to more than 1",
    "overlapping teachers: training code",
    "read; report.tex has the mean, which sums to 1",
)
def unnormalised_targets() -> Shown:
    """Two teachers of five classes that share one, equally confident of it."""
    sets, shared = [[0, 1, 2, 3, 4], [0, 5, 6, 7, 8]], torch.tensor([0])
    lines = []
    for confidence in (0.95, 0.8, 0.6):
        probs = torch.full((1, 5), (1 - confidence) / 4)
        probs[0, 0] = confidence
        code = losses.published_consensus([probs.log()] * 2, sets, 9, shared)
        mean = losses.consensus_targets([probs.log()] * 2, sets, 9, shared)
        lines.append({
            "confidence": confidence,
            "weight": float(code.sum()),
            "of the shared class": float(code[0, 0] / code.sum()),
            "of the shared class, mean": float(mean[0, 0]),
        })  # fmt: skip
    sure, unsure = lines[0], lines[-1]
    return Shown(
        pd.DataFrame(lines),
        "A target q of sum Q is the target q / Q with Q times the weight: "
        f"{sure['weight']:.2f} where both teachers are 95 % sure, {unsure['weight']:.2f} where "
        f"both are 60 % sure, and there the shared class gets {unsure['of the shared class']:.2f}. "
        "What the teachers are unsure of weighs most and is blurred most.",
    )


@demonstration(
    "A smaller footprint",
    "overlapping teachers: report.tex, abstract",
    "counted on networks rebuilt from their description; FLOPs and latency are not published",
)
def footprint() -> Shown:
    """Parameters of the teachers and of each student, at 12 classes."""
    teacher = models.num_parameters(models.build("teacher_overlap", 5, image_size=64))
    lines = [{"network": "3 teachers", "parameters": 3 * teacher}]
    for name in ("efficientnet_b0", "mobilenet_v3_small", "torchvision_resnet18"):
        network = models.build(name, 12, image_size=64)
        lines.append({"network": name, "parameters": models.num_parameters(network)})
    share = lines[1]["parameters"] / lines[0]["parameters"]
    return Shown(
        pd.DataFrame(lines),
        f"EfficientNet-B0 has {100 * share:.0f} % of the parameters of all three teachers, "
        f"{lines[1]['parameters'] / teacher:.1f} times those of one.",
    )
