"""DROP for lm-eval: the answer in a reply, and its F1 against the accepted answers."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..math.extract import find_boxes

ANSWER = re.compile(r"(?i)answer[*_`]*\s*[:：]\s*([^\n]+)")
STYLE = re.compile(r"\\(?:text|mathrm|textbf)\b|[*_`${}]|\\[(),;! ]?")


def find_answer(reply: str) -> str:
    """What follows the last "Answer:", else the last box, else the whole reply."""
    if stated := ANSWER.findall(reply):
        return _plain(stated[-1])
    boxes = [box for box in find_boxes(reply)[0] if box]
    return _plain(boxes[-1]) if boxes else reply.strip()


def _plain(text: str) -> str:
    boxes = [box for box in find_boxes(text)[0] if box]
    return STYLE.sub("", boxes[-1] if boxes else text).strip()


def drop_results(doc: Mapping[str, Any], results: Sequence[Sequence[str]]) -> dict[str, float]:
    """lm-eval's `process_results`: F1 and exact match, the best of the accepted answers, averaged
    over a question's replies. A reply that says nothing has 0.
    """
    from lm_eval.tasks.drop.utils import get_metrics

    (replies,) = results
    accepted = [answer for answer in doc["ref_text"].split("|") if answer.strip()]
    em = f1 = 0.0
    for answer in map(find_answer, replies):
        if answer:
            measured = [get_metrics(answer, each) for each in accepted]
            em += max(each for each, _ in measured)
            f1 += float(max(each for _, each in measured))
    return {"f1": f1 / len(replies), "em": em / len(replies)}
