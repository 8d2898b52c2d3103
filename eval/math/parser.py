"""Tokens to a tree: a recursive-descent parser for the mathematics that answers are written in.

From loose to tight: lists (`,` `;` and, or), relations, set operations, ratios, sums, products
(explicit, implicit, `/`, mod), signs, powers and postfix signs, atoms. A function without brackets
takes the factors that follow up to a sign or the next function: `\\sin 2x \\cos y`.

Readings that a person would choose win over LaTeX's letter: `2^10` is 1024, `3\\frac{1}{2}` is a
mixed number, `\\{1+2\\}\\{3-4\\}` is a product. What this parser does not know (limits,
derivatives, cases, words in between) raises `Unreadable`, and a slower reader gets the text.
"""

import re

from flint import fmpq, fmpz

from .lexer import FUNCTIONS, OutOfBounds, Token, Unreadable, tokenize
from .numerals import number_in_words
from .tree import CONSTANTS, Apply, Node, Number, Symbol, has_symbol, rename, symbols

MAX_DEPTH = 60
MAX_DIGITS = 4000
MAX_POWER_OF_TEN = 5000

RELATIONS = frozenset({"=", "<", ">", "le", "ge", "ne", "approx", "in", "notin", "equiv"})
INVERSES = {
    name: f"arc{name}"
    for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")
}
CASES = frozenset({"cases", "dcases", "rcases"})
CONDITION_WORDS = re.compile(r"[,;\s]*+(?:if|for|when|where)?+[,;:\s]*+")
MATRICES = frozenset({"matrix", "pmatrix", "bmatrix", "Bmatrix", "vmatrix", "smallmatrix", "array"})
SEPARATING_TEXT = re.compile(r"[,\s]*(?:and|or|und|et|,|;)?[,\s]*", re.IGNORECASE)
CLOSING = {"(": (")", "]"), "[": ("]", ")"), "set{": ("set}",), "{": ("}",)}
MIXED_ENDS = frozenset({")", "]", ",", ";", "}", "set}", "and", "or", "%"})
"""What may follow a mixed number in plain text."""

UNKNOWN_FUNCTIONS = frozenset({"f", "g", "h", "F", "G"})


def parse(text: str, *, tight: bool = False) -> Node:
    """The tree of a formula, or of a list of formulas.

    Args:
        text: LaTeX, or mathematics in plain text.
        tight: read `1/2x` as 1/(2x) rather than as (1/2)x.

    Raises:
        Unreadable: it is not one that this parser knows.
    """
    parser = _Parser(split_pairs(tokenize(text)), tight)
    node = parser.items("end")
    parser.expect("end")
    return _with_imaginary_unit(node)


def split_pairs(tokens: list[Token]) -> list[Token]:
    """Commas in brackets separate: `(100,200)` is a pair, and 100,200 is a number.

    Where a bracket separates with comma and space, as in `(1,000, 2,000)`, its other commas group
    digits.
    """
    if not any(token.kind == "num" and "," in token.text for token in tokens):
        return tokens
    opened: list[bool] = []
    out: list[Token] = []
    for place, token in enumerate(tokens):
        if token.kind == "op" and token.text in ("(", "[", "set{"):
            opened.append(_has_spaced_comma(tokens, place + 1))
        elif token.kind == "op" and token.text in (")", "]", "set}") and opened:
            opened.pop()
        if token.kind == "num" and PLAIN_COMMAS.fullmatch(token.text) and opened == [False]:
            for part in re.split("(,)", token.text):
                out.append(Token("op" if part == "," else "num", part))
        else:
            out.append(token)
    return out


PLAIN_COMMAS = re.compile(r"\d+(?:,\d+)+(?:\.\d+)?")


def _has_spaced_comma(tokens: list[Token], place: int) -> bool:
    """Whether the bracket that opens before `place` has a comma with a space behind it."""
    depth = 0
    for token, after in zip(tokens[place:], tokens[place + 1 :], strict=False):
        depth += (token.text in ("(", "[", "set{")) - (token.text in (")", "]", "set}"))
        if depth < 0:
            return False
        if depth == 0 and token.text == "," and token.kind == "op" and after.spaced:
            return True
    return False


def _with_imaginary_unit(node: Node) -> Node:
    """`I` beside other things is `i`, as sympy prints it; alone it is a letter."""
    if isinstance(node, Symbol) or "I" not in symbols(node) or has_symbol(node, "i"):
        return node
    return rename(node, "I", "i")


class _Parser:
    """A cursor over tokens."""

    def __init__(self, tokens: list[Token], tight: bool = False) -> None:
        self.tokens = tokens
        self.tight = tight
        self.place = 0
        self.depth = 0
        self.bars = 0
        self.no_ratio = False
        self.no_bar = False
        self.outward = False

    # -- the cursor --------------------------------------------------------------------------

    @property
    def token(self) -> Token:
        return self.tokens[self.place]

    def at(self, *spellings: str) -> bool:
        """Whether the next token is one of these signs or commands."""
        token = self.tokens[self.place]
        return token.text in spellings and token.kind in ("op", "cmd")

    def take(self) -> Token:
        token = self.tokens[self.place]
        self.place += 1
        return token

    def expect(self, spelling: str) -> None:
        if spelling == "end":
            if self.token.kind != "end":
                raise Unreadable(f"{self.token.text!r} where the formula should end")
            return
        if not self.at(spelling):
            raise Unreadable(f"{self.token.text!r} instead of {spelling!r}")
        self.place += 1

    def _deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise OutOfBounds(f"nested deeper than {MAX_DEPTH}")

    # -- lists and relations -------------------------------------------------------------------

    def items(self, *closing: str) -> Node:
        """One relation or several, up to a closing sign."""
        self._deeper()
        outer: list[Node] = []
        inner = [self.relation()]
        words = ""
        while not self._closes(closing):
            separator = self._separator()
            if separator is None:
                raise Unreadable(f"{self.token.text!r} behind a complete formula")
            if self._closes(closing):
                break  # a comma at the end
            if separator in ("and", "or"):
                words = separator if words in ("", separator) else "or"
            if separator == ";":
                outer.append(_listed(inner, words))
                inner, words = [], ""
            inner.append(self.relation())
        self.depth -= 1
        if outer:
            return Apply("list", (*outer, _listed(inner, words)), ";")
        return _listed(inner, words)

    def _closes(self, closing: tuple[str, ...]) -> bool:
        token = self.token
        if token.kind == "end":
            return True
        return token.kind in ("op", "cmd") and token.text in closing

    def _separator(self) -> str | None:
        """Take what separates two items: commas, semicolons and words, several in a row."""
        found: str | None = None
        while True:
            token = self.token
            if token.kind == "op" and token.text in (",", ";"):
                found = token.text if found is None else found
            elif token.kind == "name" and token.text in ("and", "or"):
                found = token.text
            elif token.kind == "cmd" and token.text in ("vee", "wedge"):
                found = "or" if token.text == "vee" else "and"
            elif token.kind == "cmd" and token.text == "newline":
                found = found or ","
            elif token.kind == "text" and SEPARATING_TEXT.fullmatch(token.text):
                word = token.text.strip(" ,;").casefold()
                found = {"or": "or", "and": "and", "": found or ","}.get(word, "and")
            else:
                return found
            self.place += 1

    def relation(self) -> Node:
        """`a < b <= c`, or a value."""
        args, signs = [self._side()], []
        while self.token.kind in ("op", "cmd") and self.token.text in RELATIONS:
            signs.append(self.take().text)
            args.append(self._side())
        if not signs:
            return _labelled(args[0])
        if signs[-1] == "equiv" and isinstance(args[-1], Apply) and args[-1].head == "cong":
            return args[-1]
        return Apply("chain", tuple(args), tuple(signs))

    def _side(self) -> Node:
        node = self.setlike()
        if self.at("to"):
            raise Unreadable("an arrow")
        return node

    def setlike(self) -> Node:
        """Unions, intersections and differences, from left to right."""
        node = self.ratio()
        while True:
            if self.at("cup") or (self.token.kind == "name" and self.token.text == "cup"):
                head = "union"
            elif self.at("cap"):
                head = "inter"
            elif self.at("setminus"):
                head = "minus"
            else:
                return node
            self.place += 1
            node = Apply(head, (node, self.ratio()))

    def ratio(self) -> Node:
        """`a : b : c`, and TeX's older `a \\over b`."""
        args = [self.additive()]
        if self.at("over", "choose"):
            head = {"over": "div", "choose": "binom"}[self.take().text]
            return Apply(head, (_single(args[0]), _single(self.additive())))
        while self.at(":") and not self.no_ratio:
            self.place += 1
            args.append(self.additive())
        return args[0] if len(args) == 1 else Apply("ratio", tuple(args))

    # -- arithmetic ----------------------------------------------------------------------------

    def additive(self) -> Node:
        """Sums and differences, and plus-minus."""
        self._deeper()
        node = self._signed()
        terms = [node]
        while True:
            if self.at("+"):
                self.place += 1
                terms.append(self._signed())
            elif self.at("-"):
                self.place += 1
                term = self._signed()
                if terms == [Symbol("bbR")] and isinstance(term, Apply) and term.head == "set":
                    terms = [Apply("minus", (terms[0], term))]
                else:
                    terms.append(negative(term))
            elif self.at("pm", "mp"):
                head = self.take().text
                left = terms[0] if len(terms) == 1 else Apply("add", tuple(terms))
                terms = [Apply(head, (left, self._signed()))]
            else:
                break
        self.depth -= 1
        return terms[0] if len(terms) == 1 else Apply("add", tuple(terms))

    def _signed(self) -> Node:
        """A product with signs before it."""
        minus = False
        while self.at("-", "+"):
            minus ^= self.take().text == "-"
        if self.at("pm", "mp"):
            head = self.take().text
            node: Node = Apply(head, (self._signed(),))
            return negative(node) if minus else node
        return self.product(minus)

    def product(self, minus: bool = False) -> Node:
        """Factors with `*`, `/`, mod or nothing between them, from left to right.

        A minus before all of it goes to the left side of a mod, and else to the whole.
        """
        node = self.factor()
        while True:
            token = self.token
            if token.kind == "op" and token.text == "*":
                self.place += 1
                node = multiply(node, self._signed_factor())
            elif token.kind == "op" and token.text == "/":
                self.place += 1
                node = Apply("div", (_single(node), self._divisor()))
            elif token.text in ("mod", "pmod") and token.kind in ("cmd", "name"):
                node = self._modulus(negative(node) if minus else node)
                minus = False
            elif self._starts_factor():
                node = self._implicit(node)
            else:
                return negative(node) if minus else node

    def _divisor(self) -> Node:
        """What a `/` divides by: one factor, or all that follow without a sign between them."""
        node = _single(self._signed_factor())
        while self.tight and self._starts_factor() and isinstance(node, Number | Symbol):
            node = self._implicit(node)
        return node

    def _implicit(self, left: Node) -> Node:
        """Two factors side by side: a mixed number or a product."""
        before = self.tokens[self.place - 1]
        token = self.token
        if token.kind == "num" and before.kind == "num":
            return self._mixed_in_words(left)
        if token.kind == "num" and before.text not in (")", "}", "]", "|", "!"):
            if before.kind == "name":
                return multiply(left, self.factor())
            raise Unreadable("a number behind a value")
        return multiply(left, self.factor())

    def _mixed(self, whole: Number) -> Node:
        """`3\\frac{1}{2}`; a fraction that is not proper is another factor."""
        if whole.value.q != 1 or whole.digits:
            return whole
        place, tokens = self.place, list(self.tokens)
        part = self.atom()
        if _is_proper(part):
            return Apply("add", (whole, part))
        self.place, self.tokens = place, tokens
        return whole

    def _mixed_in_words(self, whole: Node) -> Node:
        """`3 1/2`."""
        texts = [token.text for token in self.tokens[self.place : self.place + 3]]
        if len(texts) == 3 and texts[1] == "/" and texts[0].isdigit() and texts[2].isdigit():
            after = self.tokens[self.place + 3]
            part = Apply("div", (number(texts[0]), number(texts[2])))
            ends = after.kind == "end" or after.text in MIXED_ENDS
            if ends and _is_proper(part) and isinstance(whole, Number) and whole.value.q == 1:
                self.place += 3
                return Apply("add", (whole, part))
        raise Unreadable("two numbers side by side")

    def _modulus(self, node: Node) -> Node:
        """`a mod m` as a value, and `a \\pmod{m}` as an answer with its modulus."""
        if self.take().text == "pmod":
            return Apply("cong", (node, self.latex_argument()))
        return Apply("mod", (node, self._signed_factor()))

    def _signed_factor(self) -> Node:
        if self.at("-"):
            self.place += 1
            return negative(self._signed_factor())
        if self.at("+"):
            self.place += 1
            return self._signed_factor()
        return self.factor()

    def _starts_factor(self) -> bool:
        """Whether the next token can begin a factor of an implicit product."""
        token = self.token
        if token.kind == "num":
            return True
        if token.kind == "text":
            return SEPARATING_TEXT.fullmatch(token.text) is None
        if token.kind == "name":
            return token.text not in ("and", "or", "cup", "mod")
        if token.kind == "op":
            if token.text == "|":
                return self.bars == 0 and not self.no_bar
            if token.text == "norm":
                return False
            return token.text in ("(", "{", "set{") or (token.text == "[" and not self.outward)
        return token.kind == "cmd" and (
            token.text
            in ("frac", "sqrt", "binom", "lfloor", "lceil", "lvert", "langle", "overline",
                "vec", "hat", "sum", "prod", "int", "dot", "emptyset", "angle", "triangle")
            or token.text.startswith("begin:")
        )  # fmt: skip

    def factor(self) -> Node:
        """An atom with its powers and postfix signs."""
        self._deeper()
        start = self.place
        node = self.atom()
        if isinstance(node, Number) and self.at("frac"):
            node = self._mixed(node)
        while True:
            if self.at("^"):
                self.place += 1
                node = self._power(node)
            elif self.at("_"):
                self.place += 1
                node = self._subscript(node, start)
            elif self.at("!"):
                self.place += 1
                if self.at("!"):
                    self.place += 1
                    node = Apply("fact2", (node,))
                else:
                    node = Apply("fact", (node,))
            elif self.at("%"):
                self.place += 1
                node = Apply("percent", (node,))
            elif self.at("circ"):
                self.place += 1
                node = Apply("degree", (node,))
            elif self.at("'", "prime"):
                self.place += 1
                node = _primed(node)
            else:
                break
        self.depth -= 1
        return node

    def _power(self, base: Node) -> Node:
        """What stands behind `^`."""
        if self.at("circ"):
            self.place += 1
            return Apply("degree", (base,))
        if self.at("'", "prime"):
            self.place += 1
            return _primed(base)
        if self.at("{") and self.tokens[self.place + 1].text in ("circ", "prime", "'"):
            inside = self.tokens[self.place + 1].text
            if self.tokens[self.place + 2].text == "}":
                self.place += 3
                return Apply("degree", (base,)) if inside == "circ" else _primed(base)
        if base == Symbol("bbR") and (half := self._half_of_the_line()) is not None:
            return half
        exponent = self._exponent()
        return Apply("pow", (_single(base), exponent))

    def _half_of_the_line(self) -> Node | None:
        """The sign of `\\mathbb{R}^+`, which stands for the numbers of that sign."""
        texts = [token.text for token in self.tokens[self.place : self.place + 3]]
        braced = texts[0] == "{" and texts[2:] == ["}"]
        sign = texts[1] if braced else texts[0]
        if sign not in ("+", "-"):
            return None
        self.place += 3 if braced else 1
        ends = (number("0"), Symbol("oo"))
        return Apply("group", ends if sign == "+" else (negative(ends[1]), ends[0]), "()")

    def _exponent(self) -> Node:
        if self.at("-"):
            self.place += 1
            return negative(self._exponent())
        if self.at("+"):
            self.place += 1
            return self._exponent()
        node = self._braced() if self.at("{") else self.atom()
        while self.at("^"):
            self.place += 1
            node = Apply("pow", (node, self._exponent()))
        while self.at("!"):
            self.place += 1
            node = Apply("fact", (node,))
        return node

    def _subscript(self, base: Node, start: int) -> Node:
        """A variable's index, or a number's base."""
        index = self._index()
        if isinstance(base, Symbol):
            return Symbol(f"{base.name}_{index}")
        if isinstance(base, Number) and (named := number_in_words(index)) is not None:
            index = str(named)
        if isinstance(base, Number) and index.isdigit():
            written = self.tokens[start].text
            if written.isdigit() and self.tokens[start].kind == "num":
                return Apply("based", (number(index),), written)
        bracketed = index.isdigit() and self.tokens[start].text == "("
        if bracketed and isinstance(base, Number) and base.value.q == 1 and base.value >= 0:
            return Apply("based", (number(index),), str(base.value.p))  # `(1011)_2`
        if isinstance(base, Apply) and base.head == "pow" and isinstance(base.args[0], Symbol):
            return Apply("pow", (Symbol(f"{base.args[0].name}_{index}"), base.args[1]))
        if isinstance(base, Apply):
            return Apply("indexed", (base,), index)
        raise Unreadable("an index behind a number")

    def _index(self) -> str:
        """The text of a subscript, its tokens run together."""
        if not self.at("{"):
            token = self.take()
            if token.kind not in ("num", "name", "text"):
                raise Unreadable(f"{token.text!r} as an index")
            if token.kind == "num" and len(token.text) > 1 and not self._is_base(token):
                self._push_back(token, 1)
                return token.text[0]
            return token.text
        self.place += 1
        depth, parts = 1, []
        while depth:
            token = self.take()
            if token.kind == "end":
                raise Unreadable("an index without an end")
            depth += {"{": 1, "}": -1}.get(token.text, 0)
            if depth:
                parts.append(token.text)
        return "".join(part for part in parts if part not in "{}")

    def _is_base(self, token: Token) -> bool:
        """Whether an unbraced subscript of two digits is a base: `101_10`."""
        before = self.tokens[self.place - 3] if self.place >= 3 else token
        return before.kind == "num" and token.text.isdigit() and int(token.text) <= 36

    def _push_back(self, token: Token, used: int) -> None:
        """Split a number token: its first digits were used, the rest comes next."""
        self.tokens.insert(self.place, Token(token.kind, token.text[used:]))

    # -- atoms ---------------------------------------------------------------------------------

    def atom(self) -> Node:
        token = self.token
        if token.kind == "num":
            self.place += 1
            return self._recurring(number(token.text), token.text)
        if token.kind == "name":
            return self._name()
        if token.kind == "cmd":
            return self._command()
        if token.kind == "op":
            return self._bracketed()
        if token.kind == "text":
            self.place += 1
            return Apply("text", (), token.text)
        raise Unreadable("a formula that breaks off")

    def _recurring(self, node: Node, written: str) -> Node:
        """`0.1\\overline{6}`, `0.\\dot{3}`: the digits of the period belong to the number."""
        dotted = self.at(".") and "." not in written  # `0.\overline{3}` lexes as `0`, `.`
        if dotted:
            after = self.tokens[self.place + 1]
            if after.kind != "cmd" or after.text not in ("overline", "dot"):
                return node
            self.place += 1
            written += "."
        if "." not in written or not self.at("overline", "dot"):
            return node
        marked = self._period()
        return recurring(written, marked)

    def _period(self) -> str:
        """The digits under a bar, or between two dots."""
        digits = ""
        while self.at("overline", "dot"):
            kind = self.take().text
            self.expect("{")
            token = self.take()
            if token.kind != "num" or not token.text.isdigit():
                raise Unreadable("a period that is not digits")
            self.expect("}")
            digits += token.text
            if kind == "overline":
                return digits
            if self.token.kind == "num" and self.tokens[self.place + 1].text == "dot":
                digits += self.take().text
        return digits

    def _name(self) -> Node:
        name = self.take().text
        if name in FUNCTIONS and not (name in ("arg", "Re", "Im", "Gamma") and not self.at("(")):
            return self._function(name)
        if name in ("and", "or", "cup", "mod"):
            raise Unreadable(f"{name!r} where a value should stand")
        if name in UNKNOWN_FUNCTIONS and (self.at("(", "'") or self._applied_in_braces()):
            return self._unknown_function(name)
        return Symbol(name)

    def _applied_in_braces(self) -> bool:
        """`f{\\left(x\\right)}`, as sympy prints it."""
        return self.at("{") and self.tokens[self.place + 1].text == "("

    def _unknown_function(self, name: str) -> Node:
        """`f(x)`, `f'(x)`."""
        while self.at("'"):
            self.place += 1
            name += "'"
        if not self.at("(", "{"):
            return Symbol(name)
        return Apply("apply", _arguments(self._bracketed()), name)

    def _function(self, name: str) -> Node:
        """A function with its power, its base and its argument."""
        power: Node | None = None
        base: Node | None = None
        if name == "log" and self._has_base_behind_it():
            base = number(self.take().text)
        while self.at("^", "_"):
            if self.take().text == "^":
                power = self._exponent()
            elif self.at("{"):
                base = self._braced()
            else:
                base = self.atom()
        if name == "sqrt" and base is None:
            root = self._root()
            return root if power is None else Apply("pow", (root, power))
        args = self._function_arguments()
        if isinstance(power, Number) and power.value == -1 and name in INVERSES:
            name, power = INVERSES[name], None
        node = _applied(name, args, base)
        return node if power is None else Apply("pow", (node, power))

    def _has_base_behind_it(self) -> bool:
        """`log2(8)`."""
        token, after = self.token, self.tokens[min(self.place + 1, len(self.tokens) - 1)]
        return token.kind == "num" and not token.spaced and after.text == "(" and not after.spaced

    def _function_arguments(self) -> tuple[Node, ...]:
        """What a function is applied to: brackets, or the factors that follow."""
        if self.at("(", "[", "set{", "{"):
            group = self._bracketed()
            args = tuple(_single(arg) for arg in _arguments(group))
            if not args:
                raise Unreadable("a function of nothing")
            return args
        if self.at("-"):
            self.place += 1
            return (negative(self._function_arguments()[0]),)
        if not self._starts_factor():
            raise Unreadable("a function of nothing")
        node = self.factor()
        while self._starts_factor() and not self._starts_function():
            if self.token.kind == "num" or self.at("(", "[", "{", "set{", "|"):
                break
            node = multiply(node, self.factor())
        return (node,)

    def _starts_function(self) -> bool:
        return self.token.kind == "name" and self.token.text in FUNCTIONS

    def latex_argument(self) -> Node:
        """A command's argument: a braced group, or one digit or atom."""
        if self.at("{"):
            return self._braced()
        if self.token.kind == "num":
            token = self.take()
            if self.tokens[self.place - 2].text == "frac" or (
                self.place >= 3 and self.tokens[self.place - 3].text == "frac"
            ):
                if len(token.text) > 1:
                    self._push_back(token, 1)
                return number(token.text[0])
            return number(token.text)
        if self.at("-"):
            self.place += 1
            return negative(self.latex_argument())
        return self.atom()

    def _braced(self) -> Node:
        """`{...}`, which LaTeX does not show."""
        self.expect("{")
        bars, self.bars = self.bars, 0
        node = self.items("}")
        self.bars = bars
        self.expect("}")
        return node

    def _command(self) -> Node:
        name = self.take().text
        if name == "frac":
            return self._fraction()
        if name == "binom":
            return Apply("binom", (self.latex_argument(), self.latex_argument()))
        if name in ("lfloor", "lceil", "lvert"):
            return self._delimited(name)
        if name == "langle":
            node = self.items("rangle")
            self.expect("rangle")
            return Apply("group", _members(node), "<>")
        if name == "emptyset":
            return Apply("set", ())
        if name in ("overline", "vec", "hat"):
            return _decorated(name, self.latex_argument())
        if name in ("angle", "triangle"):
            return _decorated(name, self.factor())
        if name in ("sum", "prod"):
            return self._repeated(name)
        if name == "int":
            return self._integral()
        if name.startswith("begin:"):
            return self._environment(name.removeprefix("begin:"))
        if name in ("lim", "oint", "iint", "iiint"):
            raise Unreadable(f"\\{name}")
        raise Unreadable(f"\\{name}")

    def _fraction(self) -> Node:
        top = self.latex_argument()
        bottom = self.latex_argument()
        if (quotient := _differential_quotient(top, bottom)) is not None:
            return quotient
        if isinstance(bottom, Apply) and bottom.head == "mul" and bottom.args[0] == Symbol("d"):
            raise Unreadable("a derivative")
        if _ends_with_differential(top):
            raise Unreadable("a differential in a fraction")
        return Apply("div", (_single(top), _single(bottom)))

    def _root(self) -> Node:
        if self.at("["):
            self.place += 1
            degree = self.items("]")
            self.expect("]")
            return Apply("root", (_single(self.latex_argument()), degree))
        return Apply("sqrt", (_single(self.latex_argument()),))

    def _delimited(self, opening: str) -> Node:
        """Floors, ceilings and absolute values with their own signs."""
        closing, head = {
            "lfloor": ("rfloor", "floor"),
            "lceil": ("rceil", "ceil"),
            "lvert": ("rvert", "abs"),
        }[opening]
        bars, self.bars = self.bars, 0
        node = self.items(closing)
        self.bars = bars
        self.expect(closing)
        return Apply(head, (node,))

    def _bracketed(self) -> Node:
        """Brackets with one thing or several in them, and bars."""
        opening = self.token.text
        if opening == "|":
            return self._absolute()
        if opening == "]":
            return self._outward_interval()
        if opening == ".":
            raise Unreadable("a point")
        if opening not in CLOSING:
            raise Unreadable(f"{opening!r} where a value should stand")
        self.place += 1
        if opening == "set{":
            return self._set()
        bars, self.bars = self.bars, 0
        kept, self.no_ratio, self.no_bar = (self.no_ratio, self.no_bar), False, False
        if opening == "{" and self.at("}"):
            self.place += 1
            raise Unreadable("empty braces")
        node = self.items(*CLOSING[opening])
        self.bars = bars
        self.no_ratio, self.no_bar = kept
        closing = self.token.text
        if self.token.kind == "end":
            raise Unreadable(f"{opening!r} that never closes")
        self.place += 1
        if opening == "{":
            return node
        if isinstance(node, Apply) and node.head == "list":
            return Apply("group", node.args, opening + closing)
        if opening + closing not in ("()", "[]"):
            raise Unreadable(f"one value in {opening + closing!r}")
        return node

    def _absolute(self) -> Node:
        self.place += 1
        bars, self.bars = self.bars, 1
        node = self.additive()
        self.bars = bars
        self.expect("|")
        return Apply("abs", (node,))

    def _outward_interval(self) -> Node:
        """`]0, 1[`, the open interval of other countries."""
        self.place += 1
        self.outward = True
        node = self.items("[", "]")
        self.outward = False
        if not (isinstance(node, Apply) and node.head == "list" and len(node.args) == 2):
            raise Unreadable("']' where a value should stand")
        if not self.at("[", "]"):
            raise Unreadable("an interval that never closes")
        closing = self.take().text
        return Apply("group", node.args, "(" + {"[": ")", "]": "]"}[closing])

    def _set(self) -> Node:
        """What stands in `\\{...\\}`: members, or a form and a condition."""
        if self.at("set}"):
            self.place += 1
            return Apply("set", ())
        bars, self.bars = self.bars, 0
        kept = (self.no_ratio, self.no_bar)
        self.no_ratio = self.no_bar = True
        if self.at("begin:array"):
            return self._braced_rows()
        node = self.items("set}", "|", ":")
        self.no_ratio, self.no_bar = kept
        if self.at("|", ":"):
            self.place += 1
            condition = self.items("set}")
            node = Apply("build", (node, condition))
        else:
            node = Apply("set", _members(node))
        self.bars = bars
        self.expect("set}")
        return node

    def _braced_rows(self) -> Node:
        """`\\left\\{\\begin{array}...\\right.`, which is how cases were once set."""
        self.place += 1
        node = self._cases("array")
        self.no_ratio = self.no_bar = False
        if self.at("set}"):
            raise Unreadable("an array in braces")
        return node

    def _repeated(self, head: str) -> Node:
        """`\\sum_{k=1}^{n} body`."""
        lower = upper = None
        while self.at("_", "^"):
            if self.take().text == "_":
                lower = self._braced() if self.at("{") else self.atom()
            else:
                upper = self._exponent()
        if not (
            isinstance(lower, Apply)
            and lower.head == "chain"
            and lower.info == ("=",)
            and isinstance(lower.args[0], Symbol)
            and upper is not None
        ):
            raise Unreadable(f"a {head} without plain bounds")
        body, name = self.product(), lower.args[0].name
        if name in CONSTANTS:  # `\\sum_{i=1}^n i` has no imaginary unit in it
            body, name = rename(body, name, f"index {name}"), f"index {name}"
        return Apply(head, (body, lower.args[1], upper), name)

    def _integral(self) -> Node:
        """`\\int_a^b body dx`."""
        bounds: dict[str, Node] = {}
        while self.at("_", "^"):
            sign = self.take().text
            bounds[sign] = self._braced() if self.at("{") else self._exponent()
        end = self._differential()
        inside = _Parser([*self.tokens[self.place : end], Token("end", "")])
        body = inside.additive() if end > self.place else number("1")
        if end > self.place:
            inside.expect("end")
        variable = self.tokens[end + 1].text
        self.place = end + 2
        if len(bounds) == 1:
            raise Unreadable("an integral with one bound")
        limits = (bounds["_"], bounds["^"]) if bounds else ()
        return Apply("int", (body, *limits), variable)

    def _differential(self) -> int:
        """Where the `d` of `dx` stands that closes the integral at the cursor."""
        depth = 0
        for place in range(self.place, len(self.tokens) - 1):
            token, after = self.tokens[place], self.tokens[place + 1]
            depth += (token.text in ("(", "[", "{")) - (token.text in (")", "]", "}"))
            if depth < 0:
                break
            if token.text == "d" and token.kind == after.kind == "name" and depth == 0:
                return place
        raise Unreadable("an integral without a plain differential")

    def _environment(self, name: str) -> Node:
        """A matrix; other environments are not formulas of one value."""
        if name in CASES:
            return self._cases(name)
        if name not in MATRICES:
            if name in ("align", "aligned", "gathered", "split", "equation", "gather"):
                node = self.items(f"end:{name}")
                self.expect(f"end:{name}")
                return node
            raise Unreadable(f"the environment {name!r}")
        rows: list[Node] = []
        entries: list[Node] = []
        while not self.at(f"end:{name}"):
            if self.token.kind == "end":
                raise Unreadable("a matrix that never ends")
            if self.at("newline"):
                self.place += 1
                if entries:
                    rows.append(Apply("row", tuple(entries)))
                entries = []
            elif self.at("&"):
                self.place += 1
            else:
                entries.append(self._entry())
        self.place += 1
        if entries:
            rows.append(Apply("row", tuple(entries)))
        if not rows or len({len(row.args) for row in rows if isinstance(row, Apply)}) != 1:
            raise Unreadable("a matrix with rows of unequal length")
        matrix = Apply("matrix", tuple(rows))
        return Apply("det", (matrix,)) if name == "vmatrix" else matrix

    def _cases(self, name: str) -> Node:
        """A system of relations, one in each row; or values, each with its condition."""
        rows: list[tuple[Node, ...]] = []
        while not self.at(f"end:{name}"):
            parts = [self.relation()]
            while not (self.at("newline", f"end:{name}") or self.token.kind == "end"):
                if not self._skip_condition_words():
                    parts.append(self.relation())
            rows.append(tuple(parts))
            while self.at("newline"):
                self.place += 1
            if self.token.kind == "end":
                raise Unreadable("cases that never end")
        self.place += 1
        if all(len(row) == 1 and _is_relation(row[0]) for row in rows):
            return Apply("list", tuple(row[0] for row in rows), "and")
        if any(len(row) != 2 for row in rows):
            raise Unreadable("cases without a condition each")
        return Apply("cases", tuple(Apply("row", row) for row in rows))

    def _skip_condition_words(self) -> bool:
        """Step over what parts a value from its condition: `,`, `&`, `if`."""
        token = self.token
        parting = self.at("&", ",", ";") or (
            token.kind == "text" and CONDITION_WORDS.fullmatch(token.text) is not None
        )
        self.place += parting
        return parting

    def _entry(self) -> Node:
        node = self.additive()
        if not (self.at("&", "newline") or self.token.text.startswith("end:")):
            raise Unreadable(f"{self.token.text!r} in a matrix")
        return node


# -- what trees are made with ------------------------------------------------------------------


def number(written: str) -> Number:
    """A number token's value."""
    text = re.sub(r"[^\dEe.+-]", "", written)
    mantissa, _, power = text.replace("E", "e").partition("e")
    whole, _, behind = mantissa.partition(".")
    exponent = int(power or 0) - len(behind)
    digits = (whole + behind) or "0"
    if len(digits) > MAX_DIGITS or abs(exponent) > MAX_POWER_OF_TEN:
        raise OutOfBounds("a number of too many digits")
    value = fmpq(fmpz(digits))
    scale = fmpz(10) ** abs(exponent)
    value = value * scale if exponent >= 0 else value / scale
    if "." not in text and not power:
        return Number(value)
    return Number(value, len(digits.lstrip("0")) or 1, -exponent, bool(power))


def recurring(written: str, period: str) -> Number:
    """The value of a decimal whose last digits recur for ever."""
    if not period or len(period) + len(written) > 200:
        raise Unreadable("a recurring decimal without a period, or of too many digits")
    start = number(written + "0").value
    places = len(written.partition(".")[2])
    tail = fmpq(fmpz(period), (fmpz(10) ** len(period) - 1) * fmpz(10) ** places)
    return Number(start + tail)


def negative(node: Node) -> Node:
    """Minus something."""
    if isinstance(node, Number):
        return Number(-node.value, node.digits, node.places, node.scientific)
    return Apply("neg", (node,))


def multiply(left: Node, right: Node) -> Node:
    """A product; a set of one member in it is a bracket."""
    left, right = _single(left), _single(right)
    if isinstance(left, Apply) and left.head == "mul":
        return Apply("mul", (*left.args, right))
    return Apply("mul", (left, right))


def _single(node: Node) -> Node:
    """The member of a set of one: braces that were meant as brackets."""
    if isinstance(node, Apply) and node.head == "set" and len(node.args) == 1:
        return node.args[0]
    if isinstance(node, Apply) and node.head == "list":
        raise Unreadable("a list inside a formula")
    return node


def _listed(items: list[Node], words: str) -> Node:
    return items[0] if len(items) == 1 else Apply("list", tuple(items), words or ",")


def _members(node: Node) -> tuple[Node, ...]:
    return node.args if isinstance(node, Apply) and node.head == "list" else (node,)


def _is_relation(node: Node) -> bool:
    return isinstance(node, Apply) and node.head == "chain"


def _labelled(node: Node) -> Node:
    """`A(1, 2)`, a point with its name, as `A = (1, 2)`."""
    if isinstance(node, Apply) and node.head == "mul" and len(node.args) == 2:
        name, place = node.args
        called = isinstance(name, Symbol) and LABEL.fullmatch(name.name) is not None
        if called and isinstance(place, Apply) and (place.head, place.info) == ("group", "()"):
            return Apply("chain", (name, place), ("=",))
    return node


LABEL = re.compile(r"[A-Z](?:_\d|'){0,2}")


def _arguments(group: Node) -> tuple[Node, ...]:
    """The arguments in brackets."""
    if isinstance(group, Apply) and group.head in ("group", "list", "set"):
        return group.args
    return (group,)


def _is_proper(node: Node) -> bool:
    """Whether this is a fraction of two whole numbers below 1."""
    if not (isinstance(node, Apply) and node.head == "div"):
        return False
    top, bottom = node.args
    whole = (Number,)
    if not (isinstance(top, whole) and isinstance(bottom, whole)):
        return False
    return bool(top.value.q == bottom.value.q == 1 and 0 < top.value < bottom.value)


def _applied(name: str, args: tuple[Node, ...], base: Node | None) -> Node:
    """A function node, its base behind its argument."""
    if name == "lg":
        name, base = "log", number("10")
    if name == "cis":
        return Apply("exp", (multiply(Symbol("i"), *args),))
    if name == "cbrt":
        return Apply("root", (*args, number("3")))
    if base is not None:
        if name != "log":
            raise Unreadable(f"{name} with an index")
        return Apply("log", (*args, base))
    wanted = 2 if name in ("gcd", "lcm", "max", "min", "log", "round") else 1
    if len(args) > 1 and wanted == 1:
        raise Unreadable(f"{name} of {len(args)} arguments")
    return Apply(name, args)


def _primed(node: Node) -> Node:
    if isinstance(node, Symbol):
        return Symbol(f"{node.name}'")
    raise Unreadable("a prime behind a value")


def _decorated(name: str, node: Node) -> Node:
    """A segment, vector or angle: a variable of its own."""
    if name == "vec" and node in (Symbol("i"), Symbol("j"), Symbol("k")):
        name = "hat"
    if isinstance(node, Symbol):
        return Symbol(f"{name} {node.name}")
    if isinstance(node, Apply) and node.head == "mul":
        letters = [arg.name for arg in node.args if isinstance(arg, Symbol)]
        if len(letters) == len(node.args):
            return Symbol(f"{name} " + "".join(letters))
    return Apply("conj" if name == "overline" else name, (node,))


def _differential_quotient(top: Node, bottom: Node) -> Node | None:
    """`\\frac{dy}{dx}`: an unknown of its own, since y depends on x in a way nobody states."""
    letters = []
    for part in (top, bottom):
        if not (isinstance(part, Apply) and part.head == "mul" and len(part.args) == 2):
            return None
        sign, name = part.args
        if sign != Symbol("d") or not isinstance(name, Symbol):
            return None
        letters.append(name.name)
    return Symbol(f"d{letters[0]}/d{letters[1]}")


def _ends_with_differential(node: Node) -> bool:
    if isinstance(node, Symbol):
        return node.name == "d"
    if isinstance(node, Apply) and node.head == "mul":
        return any(arg == Symbol("d") for arg in node.args[:-1]) and isinstance(
            node.args[-1], Symbol
        )
    return False
