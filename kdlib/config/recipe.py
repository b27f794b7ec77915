"""How a run's images are varied and how its network is optimised."""

from typing import Annotated, Any, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from kdlib.config.fields import Count, Fraction, NonNegative, Positive, Strict
from kdlib.registry import AUGMENTATIONS, OPTIMIZERS, SCHEDULES, Entry, Registry


class Augment(Strict):
    """Random crop after zero padding by `crop` pixels on each side; random horizontal flip; then
    `transform`, a registered function of a user's."""

    crop: Annotated[int, Field(ge=0)] = 0
    flip: bool = False
    transform: str | None = None

    @model_validator(mode="after")
    def _registered(self) -> "Augment":
        if self.transform is not None:
            _known(AUGMENTATIONS, self.transform)
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what came later, where it says nothing: older ids stay as they were."""
        return {key: value for key, value in dump(self).items() if value is not None}


def _known(registry: Registry, name: str) -> Entry:
    """The entry of that name; ValueError, as pydantic wants it, where there is none."""
    try:
        return registry[name]
    except LookupError as error:
        raise ValueError(str(error)) from None


class Recipe(Strict):
    """How a network is optimised. lr None: 0.1 for a batch of 128, in proportion to the batch.

    schedule "cosine" falls to 0 after `warmup_epochs` of linear warm-up (at most half of the
    training); "step" multiplies lr by `gamma` at each of `milestones` (epochs), without warm-up.
    `eval_every`: epochs between looks at validation. lr must be given for adam. Others of both:
    `kdlib.train.recipes`.
    """

    epochs: Count = 200
    batch_size: Annotated[int, Field(ge=2)] = 128
    lr: Positive | None = None
    weight_decay: NonNegative = 5e-4
    momentum: Fraction = 0.9
    optimizer: str = "sgd"
    schedule: str = "cosine"
    warmup_epochs: NonNegative = 5
    milestones: tuple[Count, ...] = ()
    gamma: Positive = 0.1
    eval_every: Count = 1

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        reads = _known(SCHEDULES, self.schedule).facts.milestones
        if reads != bool(self.milestones):
            needed = "needs" if reads else "takes no"
            raise ValueError(f"schedule {self.schedule!r} {needed} milestones")
        if _known(OPTIMIZERS, self.optimizer).facts.needs_lr and self.lr is None:
            raise ValueError(f"lr must be given for {self.optimizer}, the default rule is SGD's")
        return self

    def explicit(self) -> Self:
        """The same with lr as a number, as every run has it."""
        return self.model_copy(update={"lr": self.lr or 0.1 * self.batch_size / 128})
