"""Contrastive representation distillation, the only loss with a state."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdlib.losses import checks
from kdlib.losses.negatives import NegativeSampler


class CRD(nn.Module):
    """Contrastive representation distillation (Tian et al., ICLR 2020, sec. 3.1).

    Student and teacher embeddings are projected to unit vectors v and compared with rows m of the
    other network's memory bank: h = P / (P + c), P = exp(v . m / temperature) / Z, c = N /
    num_train for N negatives. The loss of a direction is the batch mean of -log h(positive) - sum
    over the negatives of log(1 - h); both directions are added. Z = num_train * mean of exp(.) over
    the first training batch, one a direction. `feature_dim`, `num_negatives`, `temperature`,
    `momentum` (of the banks, in [0, 1]) are the paper's. `labels`: (num_train,) integers, or None,
    where every row is a class of its own.

    In the state dict: the linear maps `project_student`, `project_teacher` (both are trained), the
    buffers `student_bank`, `teacher_bank` (num_train, feature_dim), rows of unit norm, drawn from
    torch's global generator, and `log_z` (2,), student and teacher, -inf before the first batch.
    """

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        num_train: int,
        feature_dim: int = 128,
        num_negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        labels: Tensor | None = None,
    ):
        sizes = {"student_dim": student_dim, "teacher_dim": teacher_dim, "num_train": num_train}
        sizes |= {"feature_dim": feature_dim, "num_negatives": num_negatives}
        for name, size in sizes.items():
            checks.count(name, size)
        checks.positive("temperature", temperature)
        checks.fraction("momentum", momentum)
        labels = checks.numbers("labels", range(num_train) if labels is None else labels, num_train)
        super().__init__()
        self.num_negatives, self.temperature, self.momentum = num_negatives, temperature, momentum
        self.sampler = NegativeSampler(checks.integers("labels", labels, num_train))
        self.project_student = nn.Linear(student_dim, feature_dim)
        self.project_teacher = nn.Linear(teacher_dim, feature_dim)
        for name in ("student_bank", "teacher_bank"):
            self.register_buffer(name, F.normalize(torch.randn(num_train, feature_dim)))
        self.register_buffer("log_z", torch.full((2,), -math.inf))
        self._moves: dict[str, tuple[Tensor, Tensor]] = {}

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        indices: Tensor,
        negatives: Tensor | None = None,
        mix: tuple[Tensor, Tensor | float] | None = None,
        generator: torch.Generator | None = None,
        later: bool = False,
    ) -> Tensor:
        """The loss (); in training mode then moves each embedding's row in its own bank, or, with
        `later`, leaves that to `settle`.

        student (B, student_dim), teacher (B, teacher_dim), no gradient reaches the latter; indices
        (B,) distinct rows 0..num_train-1. negatives (B, N) rows, repeats allowed; by default
        `num_negatives` of other classes (under mixup: of neither class) without replacement, from
        `generator` or the global one; ValueError where a class leaves too few.

        mix = (permutation (B,), lam in [0, 1]), for images lam * x + (1 - lam) * x[permutation]:
        lam * CRD(indices) + (1 - lam) * CRD(indices[permutation]) on the same negatives; then only
        the dominant index's row moves, its step times max(lam, 1 - lam).
        """
        student = checks.floats("student", student, "B", self.project_student.in_features)
        batch = len(student)
        width = self.project_teacher.in_features
        teacher = checks.teacher("teacher", teacher, student, batch, width)
        positives = checks.integers("indices", indices, batch)[:, None]
        weights = self.log_z.new_ones(1)
        if mix is not None:
            permutation, weights = self._mix(mix, batch)
            positives = torch.cat([positives, positives[permutation]], dim=1)
        if negatives is None:
            negatives = self.sampler(positives, self.num_negatives, generator)
        rows = torch.cat([positives, checks.integers("negatives", negatives, batch, "N")], dim=1)
        with torch.autocast(student.device.type, enabled=False):
            v_student = _embed(self.project_student, student)
            v_teacher = _embed(self.project_teacher, teacher)
            loss = self._contrast(v_student, v_teacher, rows, weights)
        if self.training:
            self._moves = self._moved(v_student.detach(), v_teacher.detach(), positives, weights)
            if not later:  # new banks instead of changed ones: the backward pass needs the old
                for name, (rows, moved) in self._moves.items():
                    setattr(self, name, getattr(self, name).index_copy(0, rows, moved))
        return loss

    def settle(self) -> None:
        """Move the rows of the last `forward(later=True)` in place, after its backward pass."""
        for name, (rows, moved) in self._moves.items():
            getattr(self, name).index_copy_(0, rows, moved)

    def _mix(self, mix: tuple[Tensor, Tensor | float], batch: int) -> tuple[Tensor, Tensor]:
        """The permutation, and the weights (2,) of an image's two positives."""
        permutation, lam = checks.sequence("mix", mix, 2)
        permutation = checks.integers("mix[0]", permutation, batch)
        checks.share("mix[1]", lam)
        lam = self.log_z.new_zeros(()).add_(lam)  # neither a number nor a tensor makes a GPU wait
        return permutation, torch.stack([lam, 1 - lam])

    def _contrast(
        self, v_student: Tensor, v_teacher: Tensor, rows: Tensor, weights: Tensor
    ) -> Tensor:
        """The loss from `rows` (B, P + N), the P positives first, their `weights` (P,) sum to 1.

        Everything in logarithms: h is the sigmoid of v . m / temperature - log Z - log c.
        """
        # All rows first: a product with the whole bank is 15 times faster than gathering rows.
        pairs = (v_student, self.teacher_bank), (v_teacher, self.student_bank)
        scores = torch.stack([(v @ bank.T).gather(1, rows) for v, bank in pairs]) / self.temperature
        num_train, num_positives = len(self.student_bank), len(weights)
        num_negatives = rows.shape[1] - num_positives
        shares = F.pad(weights.log(), (0, num_negatives))
        mean = (scores.detach() + shares).flatten(1).logsumexp(1)
        mean = mean - math.log(len(rows) * (1 + num_negatives))
        log_z = torch.where(self.log_z.isinf(), math.log(num_train) + mean, self.log_z)
        if self.training:
            self.log_z.copy_(log_z)
        logits = scores - log_z[:, None, None] - math.log(num_negatives / num_train)
        positives, negatives = logits.split([num_positives, num_negatives], dim=2)
        losses = (weights * F.logsigmoid(positives)).sum(2) + F.logsigmoid(-negatives).sum(2)
        return -losses.mean(1).sum()

    @torch.no_grad()
    def _moved(
        self, v_student: Tensor, v_teacher: Tensor, positives: Tensor, weights: Tensor
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Bank -> rows (B,) and what stands there next (B, feature_dim)."""
        rows = torch.where(weights[0] >= 0.5, positives[:, 0], positives[:, -1])
        step = (1 - self.momentum) * weights.max()
        own = {"student_bank": v_student, "teacher_bank": v_teacher}
        return {
            name: (rows, F.normalize(torch.lerp(getattr(self, name)[rows], v, step)))
            for name, v in own.items()
        }


def _embed(project: nn.Linear, embedding: Tensor) -> Tensor:
    return F.normalize(project(embedding.to(project.weight.dtype)))
