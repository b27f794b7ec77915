"""Negatives for contrastive losses: rows of other classes, without replacement."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NegativeSampler(nn.Module):
    """Draws rows of a data set whose labels (num_train,) differ from those of given anchors.

    In the order of classes an anchor's pool is everything but one block (two under mixup), so a
    draw is a subset of 0..pool-1 that hops over the blocks. All of it is on the labels' device.
    """

    def __init__(self, labels: Tensor):
        super().__init__()
        _, classes, sizes = labels.unique(return_inverse=True, return_counts=True)
        tables = {
            "classes": classes,
            "rows": classes.argsort(stable=True),
            "starts": sizes.cumsum(0) - sizes,
            "sizes": sizes,
        }
        for name, table in tables.items():  # follow from the labels: not in the state dict
            self.register_buffer(name, table, persistent=False)
        self.largest = sizes.sort(descending=True).values[:2].tolist()

    def forward(
        self, anchors: Tensor, count: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """anchors (B, 1), or (B, 2) under mixup -> (B, count) rows of none of an anchor's classes.

        For each anchor independently, each subset of its pool is equally likely. ValueError where
        some anchor of the data set would have a pool of less than `count`.
        """
        smallest = len(self.rows) - sum(self.largest[: anchors.shape[1]])
        if count > smallest:
            pool = f"the smallest pool of rows of other classes, {smallest}"
            raise ValueError(f"num_negatives={count} is larger than {pool}")
        classes = self.classes[anchors].sort(dim=1).values
        new = F.pad(classes.diff(dim=1) != 0, (1, 0), value=True)  # a class twice is one block
        starts, sizes = self.starts[classes], self.sizes[classes] * new
        picks = uniform_subsets(len(self.rows) - sizes.sum(1), count, len(self.rows), generator)
        for start, size in zip(starts.split(1, dim=1), sizes.split(1, dim=1), strict=True):
            picks += (picks >= start) * size
        return self.rows[picks]


def uniform_subsets(
    pools: Tensor, count: int, limit: int, generator: torch.Generator | None = None
) -> Tensor:
    """(B,) pool sizes, count <= pool <= limit -> (B, count): a uniform subset of 0..pool-1 each.

    Floyd's algorithm (Bentley & Floyd 1987), all rows and all its steps at once: step s draws from
    0..top, top = pool - count + s, and takes top instead if the draw is in the subset already. It
    is where an earlier step drew it, or where it was the top of an earlier step that had to take
    it: such links lead to earlier steps only and are followed by doubling. Half the time of a
    top-k of random keys on a CPU, and nothing that waits for a GPU.
    """
    step = torch.arange(count, device=pools.device)
    low = (pools - count)[:, None]
    top = low + step
    source = pools.device if generator is None else generator.device
    uniform = torch.rand(top.shape, dtype=torch.float64, device=source, generator=generator)
    draw = uniform.to(pools.device, non_blocking=True).mul_(top + 1).long()
    # Steps as int32: this is the largest table, and half of it fits into twice the cache.
    first = torch.full((len(pools), limit), count, dtype=torch.int32, device=pools.device)
    first.scatter_reduce_(1, draw, step.int().expand_as(draw), "amin")
    # A link is the step to ask next, `count` stands for "taken", the step itself for "free".
    link = torch.where(draw >= low, draw - low, step)
    link = F.pad(link.masked_fill_(first.gather(1, draw) < step, count), (0, 1), value=count)
    for _ in range(count.bit_length()):
        before, link = link, link.gather(1, link)
        # Links are short: about log(count), so a third of the rounds. A GPU would have to wait.
        if link.device.type == "cpu" and torch.equal(link, before):
            break
    return torch.where(link[:, :count] == count, top, draw)
