"""The doctor: tells what is there, survives what is not, and promises only what was seen."""

import json
import sys

import pytest
from r1kit.distill import doctor, environment
from r1kit.distill.doctor import NEEDS, PROBES, Finding, examine, show, verdicts


def test_every_need_is_something_that_is_looked_for() -> None:
    for need in NEEDS:
        assert set(need.needs) | set(need.helped_by) <= set(PROBES), need.command


def test_a_command_lacks_exactly_what_is_missing() -> None:
    findings = {name: Finding(True, "there") for name in PROBES}
    assert set(verdicts(findings).values()) == {"yes"}
    findings["cuda"] = Finding(False, "no GPU", "buy one")
    said = verdicts(findings)
    assert said["r1kit students sft (0.5B and more)"] == "no: cuda missing"
    assert said["r1kit run quickstart"] == "yes"
    findings["cuda"] = Finding(None, "cannot be told")
    assert verdicts(findings)["r1kit students sft (0.5B and more)"] == "yes"


def test_a_machine_without_anything_is_examined_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (doctor, environment):
        monkeypatch.setattr(module, "version", lambda package: None)
        monkeypatch.setattr(module, "output", lambda *command: None)
    monkeypatch.setattr(sys, "platform", "plan9")
    findings = examine()
    assert findings.keys() == PROBES.keys()
    for name in ("torch", "cuda", "gpu", "vllm", "bwrap", "landlock", "c++ compiler"):
        assert findings[name].there is False, name
        assert findings[name].get, name


def test_a_probe_that_breaks_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Finding:
        raise OSError("the driver is upset")

    probes = {"gpu": broken, "memory": doctor.memory}
    monkeypatch.setattr(doctor, "PROBES", probes)
    assert examine()["gpu"] == Finding(None, "cannot be told: the driver is upset")
    assert examine()["memory"].there is not None


def test_the_extras_survive_the_tables_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    probes = {name: (lambda: Finding(False, "no", "pip install 'r1kit[serve]'")) for name in PROBES}
    monkeypatch.setattr(doctor, "PROBES", probes)
    show()
    assert "r1kit[serve]" in capsys.readouterr().out
    show(as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["machine"]["vllm"] == {
        "there": False,
        "found": "no",
        "get": "pip install 'r1kit[serve]'",
    }
    assert told["commands"].keys() == {need.command for need in NEEDS}
