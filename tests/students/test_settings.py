"""Settings: built-in students bring their own values, and every mistake is named."""

import pytest
from r1kit.students.settings import FROM_SCRATCH, SettingsError, SftSettings, read_settings


def test_a_built_in_student_brings_its_values_and_what_is_said_wins() -> None:
    tiny = SftSettings(model="tiny-llama", learning_rate=0.5)
    assert tiny.learning_rate == 0.5 and tiny.optimizer == "muon"
    assert SftSettings() == SftSettings(model="tiny-qwen")
    assert all(getattr(SftSettings(), key) == value for key, value in FROM_SCRATCH.items())
    real = SftSettings(model="Qwen/Qwen2.5-0.5B-Instruct")
    assert real.optimizer == "adamw" and real.learning_rate == 1e-5 and real.packing


def test_settings_survive_being_written_and_read() -> None:
    for model in ("tiny-qwen", "some/model"):
        settings = SftSettings(model=model, epochs=1.5)
        assert SftSettings.model_validate(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("learning_rat=1", "--set learning_rat: unknown setting; did you mean 'learning_rate'"),
        ("epochs", "--set needs key=value, got 'epochs'"),
        ("epochs=0", "--set epochs: input should be greater than 0, got 0"),
        ("optimizer=sgd", "--set optimizer: .*'muon' or 'adamw', got 'sgd'"),
        ("epochs=[", r"--set epochs: not a value: '\['"),
    ],
)
def test_a_wrong_override_is_named(override: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        read_settings("tiny-qwen", [override])
