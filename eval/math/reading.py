"""The text of an answer to what it may mean: words, or one formula or more.

`tidied` gives LaTeX its usual spelling and drops what is only there for looks: signs around the
formula, a closing full stop, doubled backslashes, currency signs. `readings` parses it, in more
than one way where people write two things alike: `1,234` is a number or two, `1,5` two numbers or
a decimal, `1/2x` a half of x or one over 2x.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from .lexer import KNOWN, OutOfBounds, Unreadable, spelled
from .numerals import number_in_words
from .parser import number, parse
from .polynomials import resolved
from .tree import Apply, Node, Number
from .units import mark_units, parse_unit

WRAPPERS = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("**", "**"), ("`", "`"))
ESCAPES = (
    (re.compile("\x0c(?=rac)"), r"\\f"), (re.compile("\t(?=ext|imes|frac|an|heta|o\\b)"), r"\\t"),
    (re.compile("\x08(?=egin|inom|oxed|eta|ar)"), r"\\b"), (re.compile("\r(?=ight|m)"), r"\\r"),
)  # fmt: skip
"""Commands whose backslash and first letter somebody's string escape has eaten."""

DOUBLED = re.compile(r"\\\\+(?=[a-zA-Z{}(\[$%,])")
SPACED_GROUPS = re.compile(r"(?<![\d.,])\d{1,3}(?:(?: |\\ )\d{3})+(?![\d])(?:[.,]\d+)?")
DECIMAL_COMMA = re.compile(r"([+-]?\s*)(?:(0),(\d+)|(\d+),(\d{1,2}|\d{4,}))(?!\d)")
EUROPEAN = re.compile(
    r"(?=[^,]*\.[^,]*(?:,|\.\d{3}$))([+-]?\s*\d{1,3}(?:\.\d{3})+)(?:,(\d+)|(?<=\.\d{3}))"
)
"""`1.234,5` and `1.234.567`: points that can only part thousands."""
GROUPED = re.compile(r"[+-]?\s*\d{1,3}(?:,\d{3})+")
MONEY = re.compile(
    r"(?P<sign>[-+]?)\s*"
    r"(?P<currency>\\\$|\$|US\$|USD\b|Rs\b\.?|RMB\b|EUR\b|€|£|¥|₹|\\text\{\s*\$\s*\}|\\mathdollar)"
    r"\s*(?P<minus>-?)(?=[\d.\\])"
)
CURRENCIES = {
    "€": "euros", "EUR": "euros", "£": "gbp", "¥": "yuan", "RMB": "yuan", "₹": "rupees",
    "Rs": "rupees", "Rs.": "rupees",
}  # fmt: skip
ORDINAL = re.compile(r"^(\d+)(?:\^?\{?(?:\\(?:text|mathrm)\{)?(?:st|nd|rd|th)\}*)$")
TRAILING_MONEY = re.compile(r"(?<=[\d}\s])\s*(?:\\\$|\$|€|£)\s*$")
LABEL = re.compile(
    r"(?i)^\s*+(?:\\text\{)?\s*+(?:the\s+)?(?:final\s+|correct\s+)?answers?\s*(?:is|:|=)\s*:?\s*\}?\s*"
)
TO = re.compile(r"(?<=\d)\s*(?:\\text\{\s*to\s*\}|\bto\b)\s*(?=\d)")
LEADING = re.compile(r"^\s*(?:\\approx|\\sim|≈|~|=)\s*(?=[^=])")
TIMES_TEN = re.compile(r"(?<=\d)\s*[xX]\s*10(?=\s*(?:\^|\*\*|[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]))")
TIME = re.compile(
    r"(?:\\text\{\s*)?(\d{1,2})(?:(?::|\{:\})(\d\d))?\s*(?:\\text\{\s*)?([ap])\.?\s*m\.?\s*\}?",
    re.IGNORECASE,
)
LETTERED = re.compile(
    r"(?:\\(?:text|mathrm)\{\s*)?(?=[0-9]*[A-Za-z])([0-9A-Za-z]{1,40})\s*\}?_\{?(?:\\text\{)?(\d{1,2})\}*"
)
BINOMIAL = re.compile(r"(?<![A-Za-z\\])C\(\s*(\w+)\s*,\s*(\w+)\s*\)")
PERCENT_WORDS = re.compile(
    r"(?<=[\d}$)])\s*(?:\\text\{\s*)?(?:per ?cent|percentage|pct)\b\.?\s*\}?"
)
DOTTED = re.compile(r"(\d*\.)(\d*?)(\d+?)\3{1,}(?:\\ldots|\\dots|\.\.\.|…)$")
REPEATING = re.compile(r"(\d*\.\d*)\((\d+)\)(?!\d)")
DEGREES = re.compile(r"(?<=[\d}])\s*(?:\\text\{)?\s*degrees?\s*\}?(?=$|[.,;\s)])")
TEMPERATURE = re.compile(
    r"(?<=[\d}])\s*(?:\^\s*\{?\s*\\circ\s*\}?|(?:\\text\{\s*)?degrees?)\s*"
    r"(?:\\(?:text|mathrm|rm)\s*\{?\s*)?(?:(C|[Cc]elsius)|(?:F|[Ff]ahrenheit))\s*\}?$"
)
WHOLE_PARAMETER = re.compile(
    r"[,;]?\s*\(?\s*(?:\\text\{)?[,;\s]*(?:(?:where|for|with)\s*)?(?:"
    r"(?:(?:any|all|every|an|some)\s+)?integers?\s*\}?\s*\$?([a-zA-Z])\$?"
    r"|\}?\s*\$?([a-zA-Z])\$?\s*(?:\\text\{)?\s*(?:is|being)\s+(?:an|any)\s+(?:arbitrary\s+)?integer\s*\}?"
    r")\s*\)?\s*$"
)
MATHEMATICA = re.compile(
    r"(?<![A-Za-z\\])(Sqrt|Sin|Cos|Tan|Cot|Sec|Csc|ArcSin|ArcCos|ArcTan|Sinh|Cosh|Tanh|Log(?!\[[^\[\]]*,)|Exp|Abs|"
    r"Floor|Ceiling|Max|Min|GCD|LCM)\[([^\[\]]*)\]"
)
PERMUTATIONS = re.compile(r"(?<![A-Za-z\\])P\(\s*(\d{1,3})\s*,\s*(\d{1,3})\s*\)")
PERMUTATIONS_MARKED = re.compile(r"(?:\{\})?[_^]\{?(\d{1,3})\}?P_\{?(\d{1,3})\}?")
COMBINATIONS = re.compile(r"(?:\{\})?[_^]\{?([0-9A-Za-z]{1,4})\}?C_\{?([0-9A-Za-z]{1,4})\}?")
PARAMETER_IN_BRACKETS = re.compile(
    r"(?:\\[ ,;]|\\q?quad|~|\s)*(?:\\left)?\("
    r"\s*([a-zA-Z]\s*\\in\s*\\?[A-Za-z{} ]{1,20}?)\s*(?:\\right)?\)$"
)
CUP = re.compile(r"(?<=[)\]])\s*U\s*(?=[(\[])")
IN_R = re.compile(r"\\in\s*R(?=$|[,;])")
WHOLE_FORMS = (
    (re.compile(r"^\{\s*([a-z])\s*(?:\||:|\\mid)([^{}]*)\}$"), r"\\{\1 \\mid \2\\}"),
    (re.compile(r"^<([^<>=,]*,[^<>=]*)>$"), r"\\langle \1 \\rangle"),
    (re.compile(r"^Matrix\((\[.*\])\)$"), r"\1"),
)
"""A set without its backslashes, a vector in plain angles, a matrix as sympy prints it."""

CHOSEN = re.compile(
    r"(?:\\(?:mathrm|text)\{)?(?<![A-Za-z])([CA])\}?(?:_\{?(\d{1,3})\}?\^\{?(\d{1,3})\}?|\^\{?(\d{1,3})\}?_\{?(\d{1,3})\}?)"
)
MICRO = re.compile(r"\\mu\s*\\(?:text|mathrm)\s*\{\s*|\\(?:text|mathrm)\s*\{\s*\\mu\s*(?=[A-Za-z])")
WORD_RUN = re.compile(r"[^\W\d_]+")
TEXT_COMMAND = re.compile(
    r"\\(?:text|textbf|textit|textrm|textnormal|mbox|mathrm|mathbf|mathit|operatorname|texttt|"
    r"mathsf|emph|bf|rm|it)\s*\{([^{}]*)\}"
)
DIGIT = re.compile(r"\d")
LATEX_SPACE = re.compile(r"\\[,;:! ]|~|\\q?quad(?![A-Za-z])|\\(?:left|right)(?![A-Za-z])")
INDEX = re.compile(r"_\{[^{}]*\}")
COMMANDS = re.compile(r"\\(?:begin|end)\s*\{[^{}]*\}(?:\s*\{[lcr| ]*\})?|\\[A-Za-z]+")
PLAIN_WORDS = re.compile(r"[^\W\d_]+(?:[ '\-/][^\W\d_]+)*")

SYNONYMS = {
    "true": "yes", "correct": "yes", "false": "no", "incorrect": "no", "y": "yes", "n": "no",
    "does not exist": "undefined", "dne": "undefined", "not defined": "undefined",
    "no solution": "empty set", "no solutions": "empty set", "no real solutions": "empty set",
    "no real solution": "empty set", "no such": "empty set",
    "all reals": "all real numbers", "all real": "all real numbers",
    "real numbers": "all real numbers",
    "any real number": "all real numbers", "all real values": "all real numbers",
    "every real number": "all real numbers", "infinitely many": "infinite",
    "infinitely many solutions": "infinite", "impossible": "no", "possible": "yes",
}  # fmt: skip
"""Words that say the same as others; compared after case and articles are gone."""

AS_FORMULA = {"empty set": r"\emptyset", "all real numbers": r"\mathbb{R}", "infinity": r"\infty"}
SMALL_WORDS = frozenset("the a an is are it in on at of".split())

CHOICE = re.compile(
    r"(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s*:?\s*)?(?:\\(?:text|textbf|mathrm|mathbf|textit)\s*\{)?\s*[(\[]?\s*([A-Ja-j])\s*[)\]]?\s*\}?\s*"
    r"(?:[.:)]\s*.*)?",
    re.DOTALL,
)
MAX_LENGTH = 2000
WORDS = "words that no reader of formulas knows"


@dataclass(frozen=True, slots=True)
class Reading:
    """What an answer may mean.

    Attributes:
        text: its tidied spelling.
        key: a spelling in which equal strings are equal answers.
        words: what it says in words, synonyms resolved; empty where it is a formula.
        formulas: the trees it may stand for; empty where none could be read.
        reason: why there is no tree; empty where there is one.
    """

    text: str
    key: str
    words: str
    formulas: tuple[Node, ...]
    reason: str = ""
    is_hopeless: bool = False
    """Whether no other reader need try: it is too long or too deep, or prose."""


@lru_cache(maxsize=4096)
def tidied(text: str) -> str:
    """The text in LaTeX's usual spelling, without what is only for looks."""
    for pattern, replacement in ESCAPES:
        text = pattern.sub(replacement, text)
    text = unwrapped(spelled(text))
    if "\\\\" in text and "\\begin" not in text:
        text = DOUBLED.sub(r"\\", text)
    text = LABEL.sub("", text)
    text = unwrapped(text)
    if (only := TEXT_COMMAND.fullmatch(text)) is not None and DIGIT.search(only[1]):
        text = only[1].replace("\\ ", " ").replace("~", " ").strip()
    text = _without_money(text)
    text = ORDINAL.sub(r"\1", text)
    text = PERCENT_WORDS.sub(r"\\%", text)
    text = SPACED_GROUPS.sub(lambda m: re.sub(r"\\? ", "", m[0]), text)
    text = TO.sub(":", LEADING.sub("", text))
    text = TIMES_TEN.sub(r"\\times 10", text)
    text = _with_tail(text)
    text = CUP.sub(r"\\cup ", text)
    text = IN_R.sub(r"\\in \\mathbb{R}", text)
    for pattern, replacement in WHOLE_FORMS:
        text = pattern.sub(replacement, text)
    if "[" in text and MATHEMATICA.search(text):
        text = _from_mathematica(text)
    text = MICRO.sub(r"\\text{u", text)
    text = DEGREES.sub(r"^\\circ", text)
    text = REPEATING.sub(r"\1\\overline{\2}", text)
    text = DOTTED.sub(r"\1\2\\overline{\3}", text.rstrip())
    return text.strip()


TAIL = 100
"""Characters at the end in which a unit of temperature or a parameter's kind is looked for."""


def _with_tail(text: str) -> str:
    """`25^\\circ C` as `25\\text{ celsius }`, `for any integer k` as `, k \\in \\mathbb{Z}`."""
    before, tail = text[:-TAIL], " ".join(text[-TAIL:].split())  # no run of spaces to back over
    if before and text[-TAIL].isspace():
        tail = " " + tail
    tail = TEMPERATURE.sub(lambda m: r"\text{ celsius }" if m[1] else r"\text{ fahrenheit }", tail)
    if "\\in" in tail and tail.endswith(")"):
        tail = PARAMETER_IN_BRACKETS.sub(r", \1", tail)
    if "integer" in tail:
        tail = WHOLE_PARAMETER.sub(lambda m: rf", {m[1] or m[2]} \in \mathbb{{Z}}", tail)
    return before + tail


def _from_mathematica(text: str) -> str:
    """`Sqrt[2]` as `sqrt(2)`, from the inside out; its `Log` is natural."""
    for _ in range(5):
        text = MATHEMATICA.sub(lambda m: f"{'ln' if m[1] == 'Log' else m[1].lower()}({m[2]})", text)
    return text


def unwrapped(text: str) -> str:
    """The text without formula signs around all of it and without a full stop at the end."""
    while True:
        before = text
        text = text.strip().rstrip("。")
        if text.endswith((".", ",", ";", ":")) and not text.endswith("..."):
            text = text[:-1].rstrip()
        if text.endswith("\\") and not text.endswith("\\\\"):
            text = text[:-1].rstrip()
        for opening, closing in WRAPPERS:
            inside = text[len(opening) : -len(closing)]
            if (
                text.startswith(opening)
                and text.endswith(closing)
                and len(text) > len(opening + closing)
                and opening not in inside
                and not (closing == "$" and inside.endswith("\\"))
            ):
                text = inside
                break
        text = _unboxed(text)
        if text == before:
            return text


BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{(.*)\}\s*", re.DOTALL)


def _unboxed(text: str) -> str:
    """What is in a box around the whole text."""
    found = BOXED.fullmatch(text)
    if found is None:
        return text
    depth = 0
    for sign in re.finditer(r"\\.|[{}]", found[1], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(sign.group(), 0)
        if depth < 0:
            return text
    return found[1]


def _without_money(text: str) -> str:
    """`\\$5.00` as `5.00\\text{ dollars}`; stray formula signs between the parts go."""
    found = MONEY.match(text)
    if found is not None and not (found["currency"] == "$" and _has_pairs(text)):
        unit = CURRENCIES.get(found["currency"], "dollars")
        sign = "-" if "-" in (found["sign"], found["minus"]) else ""
        rest = text[found.end() :].replace("\\$", "").replace("$", "")
        if re.search(r"\\text|[A-Za-z]{2,}", rest.replace("\\frac", "").replace("\\times", "")):
            return sign + rest
        return f"{sign}{rest.rstrip()}\\text{{ {unit} }}"
    text = TRAILING_MONEY.sub(r"\\text{ dollars }", text) if text.count("$") == 1 else text
    return re.sub(r"(?<!\\)\$", " ", text) if "$" in text else text


def _has_pairs(text: str) -> bool:
    """Whether the dollar signs of a text can be LaTeX's, which come in pairs."""
    return len(re.findall(r"(?<!\\)\$", text)) % 2 == 0


NOISE = re.compile(
    r"\\(?:left|right|big|Big|bigg|Bigg|mleft|mright)[lr]?(?![A-Za-z])|\\displaystyle(?![A-Za-z])"
    r"|\\[,;:! ]|~|\\q?quad(?![A-Za-z])|\s+"
)
FRACTIONS = re.compile(r"\\[dtc]frac(?![A-Za-z])")


DOTS = re.compile(r"\\(?:[lc]?dots|dots[cb])(?![A-Za-z])|\.\.\.")


def spelling_key(tidy: str) -> str:
    """A spelling in which equal strings are equal answers: no spaces, except between digits."""
    if (time := TIME.fullmatch(tidy)) is not None:
        hour = int(time[1]) % 12 + (12 if time[3] in "pP" else 0)
        return f"{hour}:{time[2] or '00'}"
    text = FRACTIONS.sub(r"\\frac", DOTS.sub(r"\\ldots ", tidy))
    text = TEXT_COMMAND.sub(r"\1", text)
    kept = NOISE.sub(" ", text)
    return re.sub(r"(?<!\d) +| +(?!\d)", "", kept).strip()


def words_of(tidy: str) -> str:
    """What an answer says in words, in lower case and without articles; empty for formulas."""
    text = TEXT_COMMAND.sub(r"\1", tidy)
    text = LATEX_SPACE.sub(" ", text)
    text = " ".join(text.replace("{", "").replace("}", "").strip(" .!()*").split())
    if not text or not PLAIN_WORDS.fullmatch(text.replace(",", "").replace(".", "")):
        return ""
    runs = WORD_RUN.findall(text)
    if max(len(run) for run in runs) < 2 and "\\text" not in tidy:
        return ""
    if all(run in KNOWN for run in runs):
        return ""
    said = text.casefold().replace(",", " ").replace(".", "").split()
    kept = [run for run in said if run not in SMALL_WORDS] or said
    joined = " ".join(kept)
    return SYNONYMS.get(joined, joined)


def is_prose(tidy: str) -> bool:
    """Whether words stand in the text that no formula has: a long one, or two side by side."""
    bare = COMMANDS.sub(" ", INDEX.sub(" ", TEXT_COMMAND.sub(" ", tidy)))
    if any(len(run) >= 4 and _is_word(run) for run in WORD_RUN.findall(bare)):
        return True
    pieces = bare.split()
    for one, other in pairwise(pieces):
        if APART.fullmatch(one) and APART.fullmatch(other) and _is_word(one) and _is_word(other):
            return True
    return False


APART = re.compile(r"[^\W\d_]{2,}(?:['’][^\W\d_]+)?,?")
"""A word with nothing of a formula at it."""


def _is_word(run: str) -> bool:
    run = run.rstrip(",")
    return run not in KNOWN and run.lower() not in KNOWN and not run.isupper()


@lru_cache(maxsize=4096)
def read(text: str) -> Reading:
    """All that an answer may mean."""
    tidy = tidied(text)
    key = spelling_key(tidy)
    words = words_of(tidy)
    if words and (counted := _count_in_words(words)) is not None:
        return Reading(tidy, key, words, (counted,))
    if (compound := _compound(tidy)) is not None:
        return Reading(tidy, key, words, (compound,))
    if words in AS_FORMULA:
        return Reading(tidy, key, words, (parse(AS_FORMULA[words]),))
    if len(tidy) > MAX_LENGTH:
        return Reading(tidy, key, words, (), f"over {MAX_LENGTH:,} characters", True)
    marked = mark_units(tidy)
    if is_prose(marked):
        return Reading(tidy, key, words, (), WORDS, True)
    try:
        formulas = _formulas(marked)
    except OutOfBounds as error:
        return Reading(tidy, key, words, (), str(error), True)
    except Unreadable as error:
        return Reading(tidy, key, words, (), str(error))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a fault here costs one answer, not the run
        return Reading(tidy, key, words, (), f"the reader failed: {type(error).__name__}")
    if all(isinstance(tree, Apply) and tree.head == "text" for tree in formulas):
        return Reading(tidy, key, words, (), WORDS, True)
    return Reading(tidy, key, words, formulas)


def _count_in_words(words: str) -> Node | None:
    """`seven`, and `five years`."""
    if (whole := number_in_words(words)) is not None:
        return Number(whole)
    counted, _, unit = words.rpartition(" ")
    if counted and (part := number_in_words(counted)) is not None:
        return Apply("mul", (Number(part), Apply("text", (), unit)))
    return None


COMPOUND = re.compile(
    r"(\d+)\s*(?:\\text\{)?\s*([A-Za-z]+)\.?\s*(?:,|\band\b)?\s*\}?"
    r"\s*(?:,|and|\\text\{\s*and\s*\})?\s*"
    r"(\d+(?:\.\d+)?)\s*(?:\\text\{)?\s*([A-Za-z]+)\.?\s*\}?"
)


def _compound(tidy: str) -> Node | None:
    """`1 hour 30 minutes`, `5 ft 6 in`: two units of one dimension, the larger one first."""
    found = COMPOUND.fullmatch(tidy)
    if found is None:
        return None
    large, small = parse_unit(found[2]), parse_unit(found[4])
    if large is None or small is None or not (large.known and small.known):
        return None
    if large.dimensions != small.dimensions or not large.factor > small.factor:
        return None
    count = number(found[3]).value + number(found[1]).value * large.factor / small.factor
    return Apply("mul", (Number(count), Apply("text", (), found[4])))


def _formulas(text: str) -> tuple[Node, ...]:
    """The trees that a text may stand for, the likeliest first."""
    plain = spelled(text)
    found = EUROPEAN.fullmatch(plain)
    if found is not None:
        return (parse(found[1].replace(".", "") + "." + (found[2] or "0")),)
    if (lettered := LETTERED.fullmatch(plain)) is not None and _is_based(lettered):
        based = Apply("based", (number(lettered[2]),), lettered[1])
        return (based,) if DIGIT.search(lettered[1]) else (based, *_readable(text))
    text = COMBINATIONS.sub(r"\\binom{\1}{\2}", text)
    text = PERMUTATIONS_MARKED.sub(_permutations, text)
    trees = [parse(text)]
    if GROUPED.fullmatch(plain):
        trees.append(parse(plain.replace(",", ", ")))
    decimal = DECIMAL_COMMA.match(plain)
    if decimal is not None and (
        decimal.end() == len(plain) or plain[decimal.end() :].lstrip().startswith(("\\text", "\\%"))
    ):
        whole, behind = decimal[2] or decimal[4], decimal[3] or decimal[5]
        trees.append(parse(f"{decimal[1]}{whole}.{behind}{plain[decimal.end() :]}"))
    if BINOMIAL.search(plain):
        trees.append(parse(BINOMIAL.sub(r"\\binom{\1}{\2}", plain)))
    if CHOSEN.search(plain):
        trees.append(parse(CHOSEN.sub(_chosen, plain)))
    if PERMUTATIONS.search(plain):
        trees.append(parse(PERMUTATIONS.sub(_permutations, plain)))
    if "/" in text:
        tight = parse(text, tight=True)
        if tight != trees[0]:
            trees.append(tight)
    return tuple(resolved(tree) for tree in trees)


def _is_based(lettered: re.Match[str]) -> bool:
    """Whether letters and digits are a number in the base behind them: `A3_{16}`."""
    digits, base = lettered[1], int(lettered[2])
    try:
        return 11 <= base <= 36 and digits == digits.upper() and int(digits, base) >= 0
    except ValueError:
        return False


def _readable(text: str) -> tuple[Node, ...]:
    """`F_{16}` may be a number, and the sixteenth of some F."""
    try:
        return (parse(text),)
    except Unreadable:
        return ()


def _permutations(found: re.Match[str]) -> str:
    """The number of permutations of r things out of n, n!/(n-r)!."""
    chosen = int(found[1]) - int(found[2])
    if chosen < 0:
        return found[0]
    return rf"\frac{{{found[1]}!}}{{{chosen}!}}"


def _chosen(found: re.Match[str]) -> str:
    """`C_{10}^{3}` and `A_{10}^{3}`, combinations and permutations as China writes them."""
    total, taken = found[2] or found[5], found[3] or found[4]
    if int(taken) > int(total):
        return found[0]
    order = "" if found[1] == "A" else f"{taken}!"
    return rf"\frac{{{total}!}}{{{int(total) - int(taken)}!{order}}}"


def choice_of(text: str) -> str:
    """The letter of a multiple-choice answer: `(C)`, `C`, `\\text{(C)}`, `C. 12`; else empty."""
    found = CHOICE.fullmatch(unwrapped(text))
    return found[1] if found is not None else ""


def is_number(node: Node) -> bool:
    """Whether a tree is a plain number, perhaps with a minus."""
    if isinstance(node, Apply) and node.head == "neg":
        node = node.args[0]
    return isinstance(node, Number)
