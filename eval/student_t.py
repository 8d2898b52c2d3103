"""Student's t distribution: the quantile that an interval needs, and the p-value of a test.

The p-value is the regularised incomplete beta function I_x(df / 2, 1 / 2) at x = df / (df + t^2),
by its continued fraction, which takes about sqrt(df) steps (Abramowitz and Stegun, 26.5.8 and
26.7.1; evaluated as W. Lentz does). mpmath's `betainc` does not converge for df in the 100,000s.
"""

import math
from functools import lru_cache

Z95 = 1.959963984540054
"""The two-sided 95 % point of the normal distribution."""

Z80 = 0.8416212335729143
"""The one-sided 80 % point of the normal distribution: what 80 % power adds."""

_TINY = 1e-300
"""Stands for a zero that would be divided by."""


def p_two_sided(t: float, df: float) -> float:
    """The probability of a value at least as far from zero as `t`, with `df` > 0 degrees."""
    square = t * t
    if math.isinf(square):
        return 0.0
    x, rest = df / (df + square), square / (df + square)
    if rest > 1.5 / (df / 2 + 2.5):  # where the fraction of I_x converges faster
        return _beta_tail(x, rest, df / 2, 0.5)
    return 1 - _beta_tail(rest, x, 0.5, df / 2)


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


def _beta_tail(x: float, rest: float, a: float, b: float) -> float:
    """I_x(a, b), for x below about (a + 1) / (a + b + 2); `rest` is 1 - x without its rounding."""
    if x == 0:
        return 0.0
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(scale + a * math.log(x) + b * math.log(rest)) / a
    c, d = 1.0, 1 / _not_zero(1 - (a + b) * x / (a + 1))
    fraction, m, change = d, 1, 2.0
    while abs(change - 1) > 1e-15 and m < 100_000:
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d, c = 1 / _not_zero(1 + even * d), _not_zero(1 + even / c)
        fraction *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d, c = 1 / _not_zero(1 + odd * d), _not_zero(1 + odd / c)
        change = d * c
        fraction *= change
        m += 1
    assert m < 100_000, f"the fraction does not converge at x={x}, a={a}, b={b}"
    return front * fraction


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
