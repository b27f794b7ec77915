"""What the keys of params are made of: bounded numbers, axes without doubles, strict models."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str | int | float) else value


def distinct(values: tuple) -> tuple:
    """The values, ValueError where one stands twice."""
    if len(set(values)) < len(values):
        raise ValueError("a value stands twice")
    return values


_AXIS = (BeforeValidator(_as_tuple), AfterValidator(distinct), Field(min_length=1))
Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], *_AXIS]
Names = Annotated[tuple[str, ...], *_AXIS]
Lengths = Annotated[tuple[Count, ...], *_AXIS]
Switches = Annotated[tuple[bool, ...], *_AXIS]


class Strict(BaseModel):
    """A frozen model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)
