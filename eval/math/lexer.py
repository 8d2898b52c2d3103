"""LaTeX, Unicode and plain-text mathematics as one stream of tokens.

Linear in the text; nothing is evaluated. What LaTeX only uses for looks (sizes, thin spaces,
colours) is dropped here, and signs that are written in several ways get one spelling.
"""

import re
import unicodedata
from dataclasses import dataclass

MAX_TOKENS = 3000


class Unreadable(ValueError):
    """The text is not a formula that this reader knows. The message says what stood in the way."""


class OutOfBounds(Unreadable):
    """The text is too long or too deep for any reader."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token.

    Attributes:
        kind: `num`, `name` (a variable, constant or function), `text` (words), `cmd` (a LaTeX
            command that means something to the parser), `op` (a sign or bracket), `end`.
        text: its spelling.
        spaced: whether a space stood before it.
    """

    kind: str
    text: str
    spaced: bool = False


SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿ", "0123456789+-n", strict=True))
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True))
SIGNS = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "，": ",", "（": "(", "）": ")", "；": ";", "：": ":",
    "［": "[", "］": "]", "｛": r"\{", "｝": r"\}", "＝": "=", "＋": "+", "＜": "<", "＞": ">",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "", "\ufeff": "", "\u2061": "",
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "÷": r"\div ", "∗": "*",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≡": r"\equiv ", "∈": r"\in ",
    "⩽": r"\le ", "⩾": r"\ge ", "∪": r"\cup ", "∩": r"\cap ", "∖": r"\setminus ",
    "∞": r"\infty ", "√": r"\sqrt ", "∛": r"\sqrt[3]", "±": r"\pm ", "∓": r"\mp ",
    "∅": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "°": r"^\circ ", "º": r"^\circ ", "′": "'", "’": "'",
    "…": r"\ldots ",
    "π": r"\pi ", "θ": r"\theta ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ",
    "δ": r"\delta ", "λ": r"\lambda ", "μ": r"\mu ", "σ": r"\sigma ", "φ": r"\phi ",
    "ω": r"\omega ", "Δ": r"\Delta ", "Σ": r"\Sigma ", "Ω": r"\Omega ", "ε": r"\epsilon ",
    "∠": r"\angle ", "△": r"\triangle ", "→": r"\to ", "⟨": r"\langle ", "⟩": r"\rangle ",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "∣": "|",
    "½": r"\frac{1}{2}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}", "¼": r"\frac{1}{4}",
    "¾": r"\frac{3}{4}", "⅕": r"\frac{1}{5}", "⅛": r"\frac{1}{8}", "⁄": "/", "∕": "/",
    "％": "%", "－": "-", "。": ".", "、": ",",
    **{chr(0xFF10 + digit): str(digit) for digit in range(10)},
}  # fmt: skip
"""Typographic, full-width and mathematical characters, as ASCII or LaTeX."""

TABLE = str.maketrans(SIGNS)
DIGITS = re.compile(r"[^\D0-9]")
"""Decimal digits of other scripts."""

SUPER_RUN = re.compile("[" + "".join(SUPERSCRIPTS) + "]+")
SUB_RUN = re.compile("[" + "".join(SUBSCRIPTS) + "]+")

TEXTS = frozenset(
    "text textbf textit textrm textnormal textsf texttt mbox hbox mathrm mathbf mathit mathsf "
    "mathtt boldsymbol bm operatorname emph underline mathcal mathscr mathfrak mathbb".split()
)
"""Commands whose argument may be words."""

DROPPED = frozenset(
    "left right mleft mright big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr "
    "displaystyle textstyle scriptstyle limits nolimits nonumber notag hfill middle "
    "tiny small normalsize large Large LARGE huge Huge "
    "quad qquad enspace thinspace allowbreak hline par noindent rm it bf "
    "boxed fbox framebox mathstrut strut variable".split()
)
"""Commands that change nothing but looks."""

RENAMED = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "nicefrac": "frac", "sfrac": "frac",
    "leq": "le", "leqslant": "le", "geq": "ge", "geqslant": "ge", "neq": "ne", "lt": "<", "gt": ">",
    "times": "*", "cdot": "*", "ast": "*", "div": "/", "lbrace": "{", "rbrace": "}",
    "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")", "lgroup": "(", "rgroup": ")",
    "vert": "|", "mid": "|", "lvert": "lvert", "rvert": "rvert", "Vert": "norm", "colon": ":",
    "varnothing": "emptyset", "backslash": "setminus", "smallsetminus": "setminus",
    "bigcup": "cup", "bigcap": "cap", "dbinom": "binom", "tbinom": "binom", "choose": "choose",
    "arsinh": "arcsinh", "arcosh": "arccosh", "artanh": "arctanh", "asin": "arcsin",
    "acos": "arccos", "atan": "arctan", "asinh": "arcsinh", "acosh": "arccosh",
    "atanh": "arctanh", "arccot": "arccot", "tg": "tan", "ctg": "cot", "cosec": "csc",
    "ulcorner": "lceil", "urcorner": "rceil", "llcorner": "lfloor", "lrcorner": "rfloor",
    "infinity": "infty", "lnot": "neg", "implies": "to", "Rightarrow": "to", "rightarrow": "to",
    "longrightarrow": "to", "iff": "to", "bmod": "mod", "dots": "ldots", "cdots": "ldots",
    "dotsc": "ldots", "dotsb": "ldots", "vdots": "ldots", "ddots": "ldots", "degree": "circ",
    "exponentialE": "e", "imaginaryI": "i", "simeq": "approx", "sim": "approx", "cong": "approx",
    "doteq": "approx", "lor": "vee", "land": "wedge", "varepsilon": "varepsilon", "sgn": "sign",
    "widehat": "hat", "overrightarrow": "vec", "bar": "overline",
}  # fmt: skip
"""Other spellings of a command."""

FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech "
    "csch arcsinh arccosh arctanh ln log lg exp abs floor ceil gcd lcm max min sign arg "
    "cis det erf Gamma Re Im sqrt cbrt round".split()
)
GREEK = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi "
    "rho sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Sigma Phi Psi "
    "Omega ell hbar partial nabla".split()
)
PLAIN = {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh", "acosh": "arccosh",
    "atanh": "arctanh", "infinity": "oo", "infty": "oo", "inf": "oo", "oo": "oo", "pi": "pi",
    "Pi": "pi", "arsinh": "arcsinh", "arcosh": "arccosh", "artanh": "arctanh", "ceiling": "ceil",
    "theta": "theta", "alpha": "alpha", "beta": "beta", "gamma": "gamma", "lambda": "lambda",
    "cup": "cup", "union": "cup", "mod": "mod", "or": "or", "and": "and",
    "Abs": "abs", "Max": "max", "Min": "min", "log": "log", "tg": "tan", "ctg": "cot",
}  # fmt: skip
"""Names that are read in a run of plain letters, besides the functions."""

KNOWN = {**{name: name for name in FUNCTIONS if name not in ("Re", "Im", "arg", "Gamma")}, **PLAIN}
NAME_IN_RUN = re.compile("|".join(sorted(KNOWN, key=len, reverse=True)) + "|[A-Za-z]")

TOKEN = re.compile(
    r"(?P<space>(?:\s|\\[,;:! >]|~|\\(?:hspace|vspace|kern|mspace|color|textcolor|label|tag|"
    r"phantom|hphantom|vphantom)\*?\s*"
    r"\{[^{}]*\})+)"
    r"|(?P<num>(?:\d{1,3}(?:(?:\{,\}|,\\! ?|\\,|\\!)\d{3})+(?!\d)|\d{1,3}(?:,\d{3})+(?![\d])|\d+)"
    r"(?:\.\d+)?(?:[eE][+-]?\d{1,6}(?![A-Za-z\d]))?|\.\d+(?:[eE][+-]?\d{1,6}(?![A-Za-z\d]))?)"
    r"|(?P<not>\\not\s*(?:=|\\in(?![A-Za-z])))"
    r"|(?P<brace>\\[{}|])"
    r"|(?P<cmd>\\[A-Za-z]+)"
    r"|(?P<newline>\\\\)"
    r"|(?P<escaped>\\[%$#&_'\"])"
    r"|(?P<word>[A-Za-z]+)"
    r"|(?P<dots>\.\.\.+)"
    r"|(?P<power>\*\*)"
    r"|(?P<op><=|>=|!=|=<|=>|==|[-+*/^_=<>()\[\]{}|,;:!%'.$&])"
)


def spelled(text: str) -> str:
    """Signs and digits beyond ASCII in LaTeX's spelling."""
    if text.isascii():
        return text
    text = text.replace("³√", r"\sqrt[3]")
    text = SUPER_RUN.sub(lambda m: "^{" + "".join(SUPERSCRIPTS[c] for c in m[0]) + "}", text)
    text = SUB_RUN.sub(lambda m: "_{" + "".join(SUBSCRIPTS[c] for c in m[0]) + "}", text)
    text = text.translate(TABLE)
    return DIGITS.sub(lambda m: str(unicodedata.decimal(m[0])), text)


def tokenize(text: str) -> list[Token]:
    """The tokens of a formula, an `end` token last.

    Raises:
        Unreadable: a character that no formula has, or too many tokens.
    """
    text = spelled(text)
    tokens: list[Token] = []
    place, spaced, end = 0, False, len(text)
    while place < end:
        found = TOKEN.match(text, place)
        if found is None:
            raise Unreadable(f"the character {text[place]!r}")
        kind, spelling, place = str(found.lastgroup), found.group(), found.end()
        if kind == "space":
            spaced = True
            continue
        if kind == "cmd":
            place = _command(spelling[1:], text, place, spaced, tokens)
        elif kind == "word":
            _word(spelling, spaced, tokens)
        elif kind == "num":
            tokens.append(Token("num", spelling, spaced))
        else:
            _sign(kind, spelling, spaced, tokens)
        spaced = False
        if len(tokens) > MAX_TOKENS:
            raise OutOfBounds(f"over {MAX_TOKENS:,} tokens")
    tokens.append(Token("end", ""))
    return tokens


def _sign(kind: str, spelling: str, spaced: bool, tokens: list[Token]) -> None:
    """Add a bracket, sign or break."""
    if kind == "not":
        tokens.append(Token("op", "ne" if spelling.endswith("=") else "notin", spaced))
    elif kind == "brace":
        name = {"\\{": "set{", "\\}": "set}", "\\|": "norm"}[spelling]
        tokens.append(Token("op", name, spaced))
    elif kind == "newline":
        tokens.append(Token("cmd", "newline", spaced))
    elif kind == "dots":
        tokens.append(Token("cmd", "ldots", spaced))
    elif kind == "power":
        tokens.append(Token("op", "^", spaced))
    elif kind == "escaped":
        if spelling[1] == "%":
            tokens.append(Token("op", "%", spaced))
    else:
        if spelling == "$":
            return  # a stray sign of LaTeX's, or of money inside a formula
        sign = {"<=": "le", ">=": "ge", "!=": "ne", "=<": "le", "=>": "ge", "==": "="}.get(spelling)
        tokens.append(Token("op", sign or spelling, spaced))


def _word(spelling: str, spaced: bool, tokens: list[Token]) -> None:
    """Add the variables and names in a run of letters."""
    for part in NAME_IN_RUN.findall(spelling):
        tokens.append(Token("name", KNOWN.get(part, part), spaced))
        spaced = False


def _command(name: str, text: str, place: int, spaced: bool, tokens: list[Token]) -> int:
    """Add what a command stands for; the place to go on from."""
    name = RENAMED.get(name, name)
    if name in DROPPED:
        if name in ("left", "right", "mleft", "mright") and text.startswith(".", place):
            return place + 1  # an invisible bracket
        return place
    if name in TEXTS:
        return _text(name, text, place, spaced, tokens)
    if name in FUNCTIONS or name in GREEK or name in ("e", "i", "pi"):
        tokens.append(Token("name", name, spaced))
    elif name == "infty":
        tokens.append(Token("name", "oo", spaced))
    elif name in ("<", ">", "*", "/", "[", "]", "(", ")", "|", ":"):
        tokens.append(Token("op", name, spaced))
    elif name in ("{", "}"):
        tokens.append(Token("op", f"set{name}", spaced))
    elif name in ("le", "ge", "ne", "norm"):
        tokens.append(Token("op", name, spaced))
    elif name in ("begin", "end"):
        found = ENVIRONMENT.match(text, place)
        if found is None:
            raise Unreadable(f"\\{name} without a name")
        tokens.append(Token("cmd", f"{name}:{found[1].rstrip('*')}", spaced))
        return found.end()
    elif name in COMMANDS:
        tokens.append(Token("cmd", name, spaced))
    else:
        _unknown(name, spaced, tokens)
    return place


ENVIRONMENT = re.compile(r"\s*\{([a-zA-Z]+\*?)\}(?:\s*\{[lcr| ]*\}|\s*\[[a-z]\](?=\s*\{))?")
ARGUMENT = re.compile(r"\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
ONE_LETTER = re.compile(r"\s*([A-Z])(?![A-Za-z])")
COMMANDS = frozenset(
    "frac sqrt binom choose pm mp cup cap setminus in notin ne approx equiv circ infty emptyset "
    "ldots mod pmod lfloor rfloor lceil rceil lvert rvert langle rangle overline dot sum prod int "
    "lim angle triangle vec hat to vee wedge prime neg oint iint iiint not subset subseteq perp "
    "parallel forall exists star square stackrel underset overset substack newline over".split()
)
"""Commands that the parser knows, or refuses with a reason."""


def _unknown(name: str, spaced: bool, tokens: list[Token]) -> None:
    """An unknown command: two known ones run together (`\\cdotx`), or a variable of that name."""
    for length in range(len(name) - 1, 1, -1):
        known = RENAMED.get(name[:length], name[:length])
        if (
            known in COMMANDS
            or known in FUNCTIONS
            or known in GREEK
            or known in DROPPED
            or (known in ("*", "/", "<", ">", "le", "ge", "ne", "pi", "|", "{", "[", "(", "norm"))
        ):
            place = _command(name[:length], "", 0, spaced, tokens)
            assert place == 0, "nothing follows inside a command's own name"
            _word(name[length:], False, tokens)
            return
    tokens.append(Token("name", name, spaced))


def _text(name: str, text: str, place: int, spaced: bool, tokens: list[Token]) -> int:
    """Add the argument of a command that sets words; letters in it may be variables."""
    found = ARGUMENT.match(text, place)
    if found is None and name == "mathbb":
        found = ONE_LETTER.match(text, place)
    if found is None:
        if name in ("operatorname", "boldsymbol", "bm", "underline", "mathbf", "mathrm", "text"):
            return place  # `\mathbf x`, `\mathrm d`: what follows stands for itself
        raise Unreadable(f"\\{name} without braces")
    inside = SPACES_INSIDE.sub(" ", found[1]).strip()
    if name == "mathbb" or (name in ("mathbf", "mathcal") and inside in ("R", "Z", "N", "Q", "C")):
        tokens.append(Token("name", f"bb{inside}", spaced))
    elif name == "operatorname" and (known := KNOWN.get(RENAMED.get(inside, inside))):
        tokens.append(Token("name", known, spaced))
    elif name in ("mathbf", "boldsymbol", "bm") and inside in ("i", "j", "k"):
        tokens.append(Token("name", f"hat {inside}", spaced))
    elif inside in ONE_LETTER_UNITS and any(token.kind == "num" for token in tokens):
        tokens.append(Token("text", inside, spaced))
    elif len(inside) == 1 and inside.isalnum():
        tokens.append(Token("num" if inside.isdigit() else "name", inside, spaced))
    elif inside == "":
        return found.end()
    elif inside.replace(",", "").replace(" ", "") == "":
        tokens.append(Token("op", ",", spaced))
    elif name in ("mathrm", "text") and UNIT_POWERS.fullmatch(inside):
        tokens.append(Token("text", inside, spaced))
    elif name in ("boldsymbol", "bm", "mathbf", "mathit", "underline", "mathsf") or (
        FORMULA_INSIDE.search(inside)
    ):
        tokens.extend(tokenize(inside)[:-1])
    elif (known := KNOWN.get(inside)) is not None and name != "text":
        tokens.append(Token("name", known, spaced))
    else:
        tokens.append(Token("text", inside, spaced))
    return found.end()


ONE_LETTER_UNITS = frozenset("mgshLltNJWVAKCF")
"""Upright behind a number, these are units."""

SPACES_INSIDE = re.compile(r"(?<!\\)\\[,;: ]|~")
UNIT_POWERS = re.compile(r"[A-Za-z]{1,3}(?:\^\{?-?\d\}?)?(?:[ /·]+[A-Za-z]{1,3}(?:\^\{?-?\d\}?)?)+|"
                         r"(?:[mgshLltNJWVAK]|[a-z]{2,3})\^\{?-?\d\}?")  # fmt: skip
"""Units with exponents in one upright group: `m s^{-1}`, `cm^2`."""

FORMULA_INSIDE = re.compile(r"^[^A-Za-z]*$|^\(?[A-Z]\)?$|[\\^=<>]")
