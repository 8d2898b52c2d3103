"""IFEval for lm-eval: its own checkers, asked for before a model is, and averaged over replies."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from ... import KitError

NEEDS = ("immutabledict", "langdetect", "nltk")
SENTENCES = "tokenizers/punkt_tab"
"""nltk's data for counting sentences."""


def ifeval_docs(dataset: Any) -> Any:
    """The rows as they are: `prompt`, `instruction_id_list`, `kwargs`.

    Raises:
        KitError: something that the checkers need is missing. lm-eval would find out after the
            model has answered everything, and download data without being asked.
    """
    check_needs()
    return dataset


def check_needs() -> None:
    """Raise a KitError that says what lm-eval's checkers lack, if they lack something."""
    missing = [name for name in NEEDS if find_spec(name) is None]
    if missing:
        raise KitError(
            f"r1_ifeval: lm-eval's checkers need {', '.join(missing)}: "
            "pip install 'lm-eval[ifeval]'"
        )
    import nltk

    try:
        nltk.data.find(SENTENCES)
    except LookupError as error:
        raise KitError(
            "r1_ifeval: lm-eval's checkers need nltk's data for counting sentences: "
            "python -m nltk.downloader punkt_tab"
        ) from error


def ifeval_results(doc: Mapping[str, Any], results: Sequence[Sequence[str]]) -> dict[str, float]:
    """lm-eval's `process_results`: the share of a prompt's replies that follow every instruction,
    as they stand (strict), and with markup or a first or last line taken away (loose).
    """
    import langdetect
    from lm_eval.tasks.ifeval import utils

    langdetect.DetectorFactory.seed = 0  # it draws, and calls short texts now this, now that
    (replies,) = results
    asked = utils.InputExample(
        doc["key"], doc["instruction_id_list"], doc["prompt"], list(doc["kwargs"])
    )
    strict = [utils.test_instruction_following_strict(asked, reply) for reply in replies]
    loose = [utils.test_instruction_following_loose(asked, reply) for reply in replies]
    return {
        "prompt_strict": sum(each.follow_all_instructions for each in strict) / len(replies),
        "prompt_loose": sum(each.follow_all_instructions for each in loose) / len(replies),
    }
