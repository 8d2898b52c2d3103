"""A second opinion completes what the verifier leaves open, and never overrules it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from r1kit.eval.audit import DISAGREEMENTS, STEP, AuditCounts, AuditedJudge
from r1kit.eval.judge import Answered, MathJudge
from r1kit.eval.math.verify import Judgement
from r1kit.eval.problems import Problem
from r1kit.eval.short_answer import ShortAnswerJudge
from r1kit.eval.verdict import Verdict
from r1kit.teacher.engine import Request, Sampling
from r1kit.teacher.ledger import Ledger

OPEN = "by a theorem whose name I forget"
"""Words that nothing here can compare with other words."""


def answered(key: str, answer: str, gold: str) -> Answered:
    return Answered(Problem(f"p{key}", "what?", gold, "test"), 0, key, answer)


def audit(
    folder: Path, engine: object, answers: list[Answered], share: float
) -> tuple[AuditedJudge, dict[str, Judgement]]:
    with Ledger.open(folder / "judge.sqlite") as ledger:
        model = ShortAnswerJudge(engine, ledger, sampling=Sampling(0.0, 1.0, 64))  # type: ignore[arg-type]
        judge = AuditedJudge(MathJudge(workers=1), model, share)
        found = dict(judge.judge(answers))
        judge.write(folder)
    return judge, found


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("GRADE: CORRECT", Verdict.CORRECT),
        ("GRADE: INCORRECT", Verdict.WRONG),
        ("GRADE: NOT_ATTEMPTED", Verdict.WRONG),
        ("I cannot say", Verdict.UNVERIFIABLE),
        (None, Verdict.UNVERIFIABLE),
    ],
)
def test_what_the_verifier_leaves_open_the_model_decides(
    tmp_path: Path, engine_of: Callable[..., object], reply: str | None, verdict: Verdict
) -> None:
    answers = [answered("0" * 64, OPEN, "by the theorem of Bayes"), answered("1" * 64, "5", "5")]
    judge, found = audit(tmp_path, engine_of(lambda request: reply), answers, 0.0)
    assert [found[a.key].verdict for a in answers] == [verdict, Verdict.CORRECT]
    decided = verdict is not Verdict.UNVERIFIABLE
    assert (found["0" * 64].step == STEP) is decided
    assert judge.counts == AuditCounts(1, int(decided), 0, 0, int(not decided))


def test_a_disagreement_is_kept_and_the_verifier_stands(
    tmp_path: Path, engine_of: Callable[..., object]
) -> None:
    def script(request: Request) -> str:
        agrees = "Answer to grade" in request.prompt.messages[0].content and "\n5\n" in (
            request.prompt.messages[0].content
        )
        return "GRADE: CORRECT" if agrees else "It is off by one.\nGRADE: INCORRECT"

    answers = [answered("0" * 64, "5", "5"), answered("1" * 64, "7", "7")]
    judge, found = audit(tmp_path, engine_of(script), answers, 1.0)
    assert {judgement.verdict for judgement in found.values()} == {Verdict.CORRECT}
    assert judge.counts == AuditCounts(audited=2, disagreements=1)
    (row,) = map(json.loads, (tmp_path / DISAGREEMENTS).read_text().splitlines())
    assert (row["extracted"], row["verifier"], row["model"]) == ("7", "correct", "wrong")
    assert "off by one" in row["words"]


def test_the_same_answers_are_drawn_each_time_and_about_as_many_as_asked(
    tmp_path: Path, engine_of: Callable[..., object]
) -> None:
    answers = [answered(f"{i * 2654435761 % 16**8:08x}" + "0" * 56, "5", "5") for i in range(400)]
    asked = []
    for turn in range(2):
        folder = tmp_path / str(turn)
        folder.mkdir()
        engine = engine_of(lambda request: "GRADE: CORRECT")
        judge, _ = audit(folder, engine, answers[::-1] if turn else answers, 0.25)
        asked.append(judge.counts.audited)
    assert asked[0] == asked[1]
    assert 70 <= asked[0] <= 130


def test_a_share_that_is_none_is_refused(engine_of: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\], got 2"):
        AuditedJudge(MathJudge(), None, 2)  # type: ignore[arg-type]
