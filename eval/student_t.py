"""Student's t distribution: the quantile that an interval needs, and the p-value of a test."""

import math
from functools import lru_cache

Z95 = 1.959963984540054
"""The two-sided 95 % point of the normal distribution."""

Z80 = 0.8416212335729143
"""The one-sided 80 % point of the normal distribution: what 80 % power adds."""


def p_two_sided(t: float, df: float) -> float:
    """The probability of a value at least as far from zero as `t`, with `df` > 0 degrees."""
    import mpmath

    if math.isinf(t):
        return 0.0
    return float(mpmath.betainc(df / 2, 0.5, 0, df / (df + t * t), regularized=True))


@lru_cache(maxsize=4096)
def t95(df: float) -> float:
    """The two-sided 95 % point with `df` > 0 degrees of freedom: 12.706 for 1, 1.96 for many."""
    low, high = Z95, 2 * Z95
    while p_two_sided(high, df) > 0.05:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if p_two_sided(middle, df) > 0.05 else (low, middle)
    return (low + high) / 2
