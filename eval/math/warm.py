"""What a fork server imports before it forks workers: sympy, and a reader that is warmed up.

The reader's grammar (ANTLR's adaptive LL(*)) builds its tables while it reads, so that a first
formula of a kind takes 50 to 200 ms and later ones a tenth of that. Importing this module reads one
formula of each common kind; workers that are forked afterwards inherit the tables. It is imported
in fork servers only.
"""

from latex2sympy2_extended import latex2sympy

from .slow import simplified, tree_of

FORMULAS = (
    r"\lim_{x\to 0} \frac{\sin x}{x}",
    r"\int_0^1 x^2 \, dx",
    r"\int \frac{dz}{z}",
    r"\frac{d}{dx} \left(x^2 + \sqrt{x}\right)",
    r"\sum_{n=1}^{\infty} \frac{1}{n^2}",
    r"\gcd(x + 76, \sqrt{x} * 4) + \operatorname{lcm}(2y, x) / 8y",
    r"\left\{1, 2\right\} \cup \left[0, \infty\right)",
    r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
    r"a \le b",
)

for formula in FORMULAS:
    tree_of(simplified(latex2sympy(formula)))
