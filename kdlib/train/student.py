"""One student of a cohort: its step, its record, its state between two epochs."""

import copy
import itertools
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kdlib import metrics, objectives, seeding
from kdlib.config import Run
from kdlib.train.networks import predict
from kdlib.types import Batch, Clock, Forward, View


@dataclass
class Trained:
    """What came of a run.

    network: at the last epoch, eval mode. selected: the state dict of the epoch with the best
    class-balanced validation accuracy, number `selected_epoch` (1-based, as in history). history:
    one entry an evaluated epoch. kd_share: ||gradient of the weighted non-label terms|| /
    ||gradient of the weighted label loss||, mean of the first batches of the first and the last
    epoch (None where there is no other term or no label loss). weights: of each term as used.
    teacher_views: "live" or "cached", None where none are read. failure: None, or what went wrong.
    """

    run: Run
    network: nn.Module
    selected: dict[str, Tensor] = field(default_factory=dict)
    selected_epoch: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    kd_share: dict[str, float | None] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    teacher_views: str | None = None
    seconds: float = 0.0
    failure: str | None = None


@dataclass(frozen=True)
class Progress:
    """A run between two epochs: all that going on takes. facts: JSON-able, `epoch` of them counts
    the finished epochs."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]


class Student:
    """A network, its objective, and what is known of it so far.

    views: those of its teachers that its terms read, "live" or "cached", None where none does;
    keeps: what is cached beside their logits.
    """

    def __init__(
        self,
        run: Run,
        network: nn.Module,
        context: objectives.Context,
        device: str,
        cached: bool = False,
    ):
        self.terms = objectives.build(run, context).to(device)
        source = objectives.build_targets(run, context)
        self.source = source and source.to(device)
        self.views = "cached" if cached else "live" if objectives.reads_teachers(run) else None
        self._parts = {name: term.loss for name, term in self.terms.items()}
        if self.source:
            self._parts["targets"] = self.source
        self.keeps = tuple(itertools.chain(*self._hooked("keeps").values()))
        self.trained = Trained(run, network, teacher_views=self.views)
        self.validation = context.validation
        self.trained.weights = {name: term.weight for name, term in self.terms.items()}
        self.network = torch.compile(network) if run.compile else network
        self.losses: dict[str, Tensor] = {}
        self.totals = {name: torch.zeros((), device=device) for name in self.terms}
        self.shares: list[Tensor] = []

    def parameters(self) -> list[nn.Parameter]:
        """All that is optimised."""
        return [*self.trained.network.parameters(), *self.terms.parameters()]

    def generators(self) -> list[torch.Generator]:
        """All that a step draws from."""
        return list(self._hooked("generator").values())

    def tick(self, clock: Clock) -> None:
        """Before a step: where training stands."""
        self._hooked("tick", clock)

    def settle(self) -> None:
        """What waits for the backward pass."""
        self._hooked("settle")

    def _hooked(self, name: str, *arguments: Any) -> dict[str, Any]:
        """What the losses and the target source answer to a hook, those that do, by name."""
        found = {part: objectives.hook(own, name, *arguments) for part, own in self._parts.items()}
        return {part: answer for part, answer in found.items() if answer is not None}

    def loss(self, batch: Batch, shared: tuple[View, ...], autocast: Any) -> Tensor:
        """The objective on one batch; its parts stay in `losses`."""
        if clock := batch.clock:
            self.tick(clock)
            seeding.seed_global(self.trained.run.seed, "dropout", clock.epoch, clock.step)
        with autocast:
            view = self.network(batch.images)
        targets = self.source(batch) if self.source else batch.targets
        forward = Forward(batch, targets, view, shared)
        self.losses = {name: term(forward) for name, term in self.terms.items()}
        for name, value in self.losses.items():
            self.totals[name] += value.detach()
        if self.source:
            with autocast:
                self.source.observe(batch, self.trained.network, view)
        return sum(self.losses.values())

    def modules(self) -> dict[str, nn.Module]:
        """All that has a state, by name."""
        own = {"network": self.trained.network, "terms": self.terms, "targets": self.source}
        return {name: module for name, module in own.items() if module is not None}

    def probe(self) -> None:
        """Note how strongly the other terms pull on the network, compared with the label loss."""
        label = self.losses[objectives.LABEL]
        others = [loss for name, loss in self.losses.items() if name != objectives.LABEL]
        if others:
            pull, label_pull = (self._pull(part) for part in (sum(others), label))
            self.shares.append(pull / label_pull)

    def _pull(self, loss: Tensor) -> Tensor:
        """The norm of a loss's gradient in the network's weights; 0 for one that has none."""
        if not loss.requires_grad:
            return loss.new_zeros(())
        weights = [one for one in self.trained.network.parameters() if one.requires_grad]
        found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
        norms = [part.norm() for part in found if part is not None]
        return torch.stack(norms).norm() if norms else loss.new_zeros(())

    def end_epoch(self, epoch: int, steps: int) -> dict[str, float]:
        """The epoch's mean of each term; one that is not finite is noted as the run's failure."""
        means = {name: total.item() / steps for name, total in self.totals.items()}
        for total in self.totals.values():
            total.zero_()
        broken = [name for name, mean in means.items() if not math.isfinite(mean)]
        if broken and not self.trained.failure:
            self.trained.failure = f"{', '.join(broken)} was not finite in epoch {epoch}"
        if self.shares:
            moment = "first" if epoch == 1 else "last"
            share = torch.stack(self.shares).mean().item()
            label_weight = self.trained.weights[objectives.LABEL]
            self.trained.kd_share[moment] = share if label_weight else None
            self.shares = []
        return means

    def look(self, epoch: int, means: dict[str, float], images: Tensor, labels: Tensor) -> None:
        """Evaluate on validation and keep the best epoch's weights."""
        trained, entry = self.trained, {"epoch": epoch, "train": means}
        if trained.failure:
            return
        if len(labels):
            logits = predict(trained.network, images)
            if not logits.isfinite().all():
                trained.failure = f"validation logits were not finite in epoch {epoch}"
                return
            probs = metrics.softmax(logits)
            weights = metrics.class_weights(labels, probs.shape[1])
            entry["val_acc"] = metrics.accuracy(probs, labels, weights=weights)
            entry["val_nll"] = metrics.nll(probs, labels, weights=weights)
            every = trained.run.fidelity_every
            if every and (epoch % every == 0 or epoch == trained.run.recipe.epochs):
                theirs, _ = self.validation()
                entry["fidelity"] = metrics.fidelity_scores(logits, theirs)
        if notes := self._hooked("note"):  # of those that keep account of themselves
            entry["notes"] = notes
        best = max((past.get("val_acc", 0.0) for past in trained.history), default=-1.0)
        if entry.get("val_acc", 0.0) > best or not len(labels):
            trained.selected = copy.deepcopy(trained.network.state_dict())
            trained.selected_epoch = epoch
        trained.history.append(entry)


_FACTS = ("selected_epoch", "history", "kd_share", "failure")


def save(
    student: Student, optimizer: torch.optim.Optimizer, epoch: int, seconds: float
) -> Progress:
    """What a student needs to go on after `epoch` finished epochs."""
    parts = {name: module.state_dict() for name, module in student.modules().items()}
    parts["selected"] = student.trained.selected
    for place, parameter in enumerate(student.parameters()):
        kept = optimizer.state[parameter]
        parts[f"optimizer.{place}"] = {k: v for k, v in kept.items() if v is not None}
    tensors = {
        f"{part}.{name}": value.detach().cpu().contiguous().clone()
        for part, state in parts.items()
        for name, value in state.items()
    }
    facts = {name: getattr(student.trained, name) for name in _FACTS}
    return Progress(tensors, copy.deepcopy(facts) | {"epoch": epoch, "seconds": seconds})


def restore(student: Student, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
    """Put a student and its part of the optimiser where `save` found them."""

    def part(name: str) -> dict[str, Tensor]:
        prefix = f"{name}."
        found = progress.tensors.items()
        return {key.removeprefix(prefix): value for key, value in found if key.startswith(prefix)}

    for name, module in student.modules().items():
        module.load_state_dict(part(name))
    student.trained.selected = part("selected")
    for place, parameter in enumerate(student.parameters()):
        state = {}
        for name, value in part(f"optimizer.{place}").items():
            # Fused kernels walk the memory of both: the state takes the parameter's format.
            like = parameter if value.shape == parameter.shape else value
            state[name] = torch.empty_like(like, device=parameter.device).copy_(value)
        if state:
            optimizer.state[parameter] = state
    for name in _FACTS:
        setattr(student.trained, name, copy.deepcopy(progress.facts[name]))
