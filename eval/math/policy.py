"""What counts as the same answer, where mathematicians and problem sets differ: one table.

    setting    default   meaning
    units      optional  a missing unit is accepted, units of one dimension are converted, other
                         units are wrong
               required  as before, but a missing unit is wrong
               ignored   units are not looked at
    percent    either    p % is p/100, and it is the bare p, whichever side has the sign; the bare
                         p is never p/100
               exact     p % is p/100 alone
    order      any       `1, 2` is `2, 1` where a list has no brackets. In `(...)` order always
                         counts, in `{...}` it never does
               fixed     the order of a list without brackets counts as well
    rounding   asked     a decimal that is the exact value rounded to the decimal's own places is
                         right where the problem asks for rounding or a decimal
               always    it is right everywhere
               never     it is right nowhere, but see `decimals`
    decimals   4         a decimal equals a value that no decimal can equal, such as 1/3 or pi, if
                         it has at least so many significant digits and is that value rounded; one
                         less where it is written with a power of ten, whose digits are all meant
    tolerance  0         the relative difference that is overlooked where a side is a decimal

Two exact numbers are never compared with a tolerance, whatever the settings.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class MathPolicy(BaseModel):
    """Settings of the comparison of two answers; the table above explains them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    units: Literal["optional", "required", "ignored"] = Field(
        default="optional", description="what a missing unit means"
    )
    percent: Literal["either", "exact"] = Field(
        default="either", description="whether p % is also the bare p"
    )
    order: Literal["any", "fixed"] = Field(
        default="any", description="whether the order of a list without brackets counts"
    )
    rounding: Literal["asked", "always", "never"] = Field(
        default="asked", description="whether a correctly rounded decimal is right"
    )
    decimals: int = Field(
        default=4, ge=1, description="significant digits that make a decimal as good as exact"
    )
    tolerance: float = Field(
        default=0.0, ge=0, lt=1, description="relative difference overlooked between decimals"
    )
