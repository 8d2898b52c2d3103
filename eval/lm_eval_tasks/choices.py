"""Multiple choice for lm-eval: the rows of each data set as one shape, and the letter of a reply.

A row gets `choices`, `letters` (as many as there are choices) and `letter` (the right one). A reply
chose the letter that it stated last, in one of these ways:

    a box           \\boxed{B}, \\boxed{\\text{(B) ribosome}}
    a phrase        Answer: B / the answer is (B) / "answer": "B" / 答案是B / 答案：B
    nothing else    B / (B) / **B.** / B) ribosome, as the whole reply

Source: the patterns of simple-evals (common.py), ZeroEval, MMLU-Pro and C-Eval, which each read one
of the phrases.
"""

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import yaml

from ... import KitError
from ..math.extract import BOX, find_boxes

DECORATION = re.compile(r"\\(?:text|textbf|mathrm|mathbf|rm)\b|[\s*_`$\"'“”{}]")
"""What may stand around a letter without changing it."""

LETTER = (
    r"[\s*_`$\"'“”\[(（]*(?:\\(?:text|textbf|mathrm|mathbf|boxed|fbox)\{)*\(?([A-Z])(?![A-Za-z'’])"
)
PHRASE = re.compile(
    r"(?:\b(?i:answer|choice|option)[*_`\"”]*\s*(?:(?i:is)|[:：=])(?:\s*(?i:option|choice))?\s*[:：]?"
    r"|答案[*\s]*(?:是|为|[:：])\s*[:：]?(?:选项)?|(?:故选|应选|选择|正确选项[是为])\s*[:：]?)"
    + LETTER
)
REASON = re.compile(r" (?:because|since|as|for|due|with|and)\b")
"""How a sentence goes on behind a letter that is one."""

ALONE = re.compile(r"\(?([A-Z])(?:\)|\.|:|：|、|。|$)")

SUBJECTS = Path(__file__).with_name("ceval_subjects.yaml")


def find_letter(reply: str, letters: str) -> str:
    """The letter that a reply states last; empty where it states none of `letters`."""
    found = [
        (said.start(1), said.group(1))
        for said in PHRASE.finditer(reply)
        if not _is_a_word(said, reply)
    ]
    boxes = [box for box in find_boxes(reply)[0] if box]
    if boxes and (letter := _alone(boxes[-1])):
        found.append(([box.start() for box in BOX.finditer(reply)][-1], letter))
    stated = [letter for _, letter in sorted(found) if letter in letters]
    if stated:
        return stated[-1]
    letter = "" if found else _alone(reply)
    return letter if letter and letter in letters else ""


def _alone(text: str) -> str:
    """The letter that a text begins with, if it is one and not the beginning of a word."""
    found = ALONE.match(DECORATION.sub("", text))
    return found.group(1) if found else ""


def _is_a_word(said: re.Match[str], reply: str) -> bool:
    """Whether a letter is a sentence's article or pronoun: "is A matter of", "Answer: I think"."""
    if said.group(1) not in "AI" or REASON.match(reply, said.end(1)):
        return False
    is_after_a_colon = said.group(1) == "A" and said.group().lower().find(":") >= 0
    return not is_after_a_colon and re.match(r" [a-z]", reply[said.end(1) :]) is not None


def choice_results(doc: Mapping[str, Any], results: Sequence[Sequence[str]]) -> dict[str, float]:
    """lm-eval's `process_results`: the share of a question's replies that chose the right one."""
    (replies,) = results
    chosen = [find_letter(reply, doc["letters"]) for reply in replies]
    return {
        "acc": sum(letter == doc["letter"] for letter in chosen) / len(chosen),
        "unread": sum(not letter for letter in chosen),
    }


def total(counts: Iterable[float]) -> float:
    """lm-eval's aggregation of a metric that counts."""
    return sum(counts)


def mmlu_docs(dataset: Any) -> Any:
    """Rows of `question`, four `choices` and the right one's place, `answer`."""
    return dataset.map(lambda row: _question(row["choices"], int(row["answer"])))


def redux_docs(dataset: Any) -> Any:
    """Rows of `question`, `choices` and the right one's text, `correct_answer`."""
    return dataset.map(
        lambda row: _question(row["choices"], row["choices"].index(row["correct_answer"]))
    )


def pro_docs(dataset: Any) -> Any:
    """Rows of `question`, `options`, "N/A" where there is none, and the right letter, `answer`."""

    def read(row: Mapping[str, Any]) -> dict[str, Any]:
        real = [option for option in row["options"] if option != "N/A"]
        return _question(real, ascii_uppercase.index(row["answer"]))

    return dataset.map(read)


def gpqa_docs(dataset: Any) -> Any:
    """Rows of `Question`, `Correct Answer` and three `Incorrect Answer`s, put in a drawn order."""
    draw = random.Random(0)
    orders = [draw.sample(range(4), 4) for _ in range(len(dataset))]

    def read(row: Mapping[str, Any], place: int) -> dict[str, Any]:
        wrong = [row[f"Incorrect Answer {number}"] for number in (1, 2, 3)]
        order = orders[place]
        return _question([[row["Correct Answer"], *wrong][at] for at in order], order.index(0))

    return dataset.map(read, with_indices=True)


def ceval_docs(dataset: Any) -> Any:
    """Rows of `question`, `A` to `D`, the right letter, `answer`, and the Hub's `subject`."""
    names = yaml.safe_load(SUBJECTS.read_text(encoding="utf-8"))

    def read(row: Mapping[str, Any]) -> dict[str, Any]:
        if row["subject"] not in names:
            raise KitError(
                f"r1_ceval: subject {row['subject']!r} is none of C-Eval's {len(names)}, such as "
                "'computer_network'"
            )
        choices = [row[letter] for letter in "ABCD"]
        question = _question(choices, "ABCD".index(row["answer"]))
        return {**question, "subject_name": names[row["subject"]]}

    return dataset.map(read)


def _question(choices: Sequence[str], right: int) -> dict[str, Any]:
    """What every row gets; `right` is the place of the right choice."""
    letters = ascii_uppercase[: len(choices)]
    return {"choices": list(choices), "letters": letters, "letter": letters[right]}
