"""How a network is optimised, by name: optimizers, and the rate over the epochs.

Another one is one function, in a file of your own:

    @OPTIMIZERS.register("adamw")
    def adamw(recipe, parameters, lr, cuda_graphs):
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=recipe.weight_decay)

    @SCHEDULES.register("linear")
    def linear(recipe, epoch):
        return recipe.lr * (1 - epoch / recipe.epochs)

An optimizer serves all students of a cohort at once, so it must treat each parameter for itself:
one that couples them, as a clipped norm does, makes a cohort differ from students alone.
"""

import math

import torch
from torch import Tensor, nn

from kdlib.config import Recipe
from kdlib.registry import OPTIMIZERS, SCHEDULES


@OPTIMIZERS.register("sgd")
def sgd(
    recipe: Recipe, parameters: list[nn.Parameter], lr: Tensor, cuda_graphs: bool
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, where there is any."""
    found = torch.optim.SGD(
        parameters, lr=lr, weight_decay=recipe.weight_decay, momentum=recipe.momentum,
        nesterov=recipe.momentum > 0, fused=True,
    )  # fmt: skip
    for parameter in parameters if recipe.momentum else ():
        # Made in the first step they are whatever memory holds, if a scaler skips that step.
        found.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return found


@OPTIMIZERS.register("adam", needs_lr=True)
def adam(
    recipe: Recipe, parameters: list[nn.Parameter], lr: Tensor, cuda_graphs: bool
) -> torch.optim.Optimizer:
    """Adam with torch's betas; weight decay is added to the gradient."""
    found = torch.optim.Adam(
        parameters, lr=lr, weight_decay=recipe.weight_decay, fused=True, capturable=cuda_graphs
    )
    found._warned_capturable_if_run_uncaptured = True  # its first steps do run uncaptured
    return found


@SCHEDULES.register("cosine")
def cosine(recipe: Recipe, epoch: float) -> float:
    """A linear warm-up, never longer than half of the training, then half a cosine to 0."""
    warmup = min(recipe.warmup_epochs, recipe.epochs / 2)
    if epoch < warmup:
        return recipe.lr * epoch / warmup
    done = (epoch - warmup) / (recipe.epochs - warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * done))


@SCHEDULES.register("step", milestones=True)
def step(recipe: Recipe, epoch: float) -> float:
    """lr times gamma at each of the milestones."""
    return recipe.lr * recipe.gamma ** sum(epoch >= at for at in recipe.milestones)


def learning_rate(recipe: Recipe, epoch: float) -> float:
    """The rate at a point of training; `epoch` counts finished epochs, fractions included.

    >>> recipe = Recipe(epochs=10, warmup_epochs=2, lr=0.1)
    >>> [round(learning_rate(recipe, epoch), 3) for epoch in (0, 1, 2, 6, 10)]
    [0.0, 0.05, 0.1, 0.05, 0.0]
    """
    return SCHEDULES[recipe.schedule].build(recipe, epoch)
