"""The doctor: tells what is there, survives what is not, and promises only what was seen."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from r1kit.distill import cli, doctor
from r1kit.distill.doctor import NEEDS, PROBES, Finding, Need, advice, examine, show, verdicts
from r1kit.teacher import environment
from r1kit.teacher.environment import memory_gib
from typer.core import TyperGroup


def test_every_need_is_something_that_is_looked_for() -> None:
    for need in NEEDS:
        assert set(need.needs) | set(need.helped_by) <= set(PROBES), need.command


def test_a_command_lacks_exactly_what_is_missing() -> None:
    findings = {name: Finding(True, "there") for name in PROBES}
    assert set(verdicts(findings).values()) == {"yes"}
    findings["cuda"] = Finding(False, "no GPU", "buy one")
    said = verdicts(findings)
    assert said["r1kit students sft (0.5B and more)"] == "no: cuda missing"
    assert said["r1kit teacher train-tiny"] == "yes (better with cuda)"
    assert said["r1kit run quickstart"] == "yes"
    findings["cuda"] = Finding(None, "cannot be told")
    assert verdicts(findings)["r1kit students sft (0.5B and more)"] == "yes"


def test_a_machine_without_anything_is_examined_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (doctor, environment):
        monkeypatch.setattr(module, "version", lambda package: None)
        monkeypatch.setattr(module, "output", lambda *command: None)
    monkeypatch.setattr(doctor, "find_library", lambda name: None)
    monkeypatch.setattr(sys, "platform", "plan9")
    findings = examine()
    assert findings.keys() == PROBES.keys()
    for name in (
        "torch",
        "cuda",
        "gpu",
        "vllm",
        "bwrap",
        "landlock",
        "c++ compiler",
        "nvrtc or nvcc",
    ):
        assert findings[name].there is False, name
        assert findings[name].get, name


@pytest.mark.parametrize(
    ("package", "library", "nvcc", "says"),
    [
        ("nvidia-cuda-nvrtc", None, None, "NVRTC 13.0.88"),
        ("nvidia-cuda-nvrtc-cu12", None, None, "NVRTC 13.0.88"),
        ("other", "libnvrtc.so.13", None, "NVRTC, libnvrtc.so.13"),
        ("other", None, "nvcc", "Cuda compilation tools, release 13.0, V13.0.88"),
        ("other", None, "/opt/toolkit/bin/nvcc", "Cuda compilation tools, release 13.0, V13.0.88"),
        ("other", None, None, "no NVRTC, no nvcc"),
    ],
)
def test_any_compiler_of_cuda_will_do_for_the_hopper_kernels(
    package: str,
    library: str | None,
    nvcc: str | None,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = "nvcc: NVIDIA\nCuda compilation tools, release 13.0, V13.0.88\n"
    monkeypatch.setenv("CUDA_HOME", "/opt/toolkit")
    monkeypatch.setattr(doctor, "version", lambda name: "13.0.88" if name == package else None)
    monkeypatch.setattr(doctor, "find_library", lambda name: library)
    monkeypatch.setattr(doctor, "output", lambda *command: words if command[0] == nvcc else None)
    found = doctor.cuda_compiler()
    assert found.found == says
    findings = {name: Finding(True, "there") for name in PROBES} | {"nvrtc or nvcc": found}
    said = verdicts(findings)
    hopper = "yes" if found.there else "no: nvrtc or nvcc missing"
    assert said["r1kit kernels check (H100, H200)"] == hopper
    assert said["r1kit kernels bench mla (H100, H200)"] == hopper
    assert said["r1kit kernels bench mla (another NVIDIA GPU)"] == "yes"


def commands_of(group: TyperGroup, path: str) -> Iterator[str]:
    context = typer.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, TyperGroup):
            yield from commands_of(command, f"{path} {name}")
        else:
            yield f"{path} {name}"


def test_it_knows_every_command() -> None:
    typed = [need.command.partition(" (")[0] for need in NEEDS]
    told = {
        " ".join([*words[:-1], last])
        for words in map(str.split, typed)
        for last in words[-1].split("|")
    }
    root = typer.main.get_command(cli.app)
    assert isinstance(root, TyperGroup)
    commands = set(commands_of(root, "r1kit"))
    assert "r1kit students sft" in commands
    assert commands - {"r1kit run", "r1kit doctor"} <= told
    assert {each for each in told if each.startswith("r1kit ")} - commands == {
        "r1kit run quickstart",
        "r1kit run RECIPE",
    }


def test_it_says_what_is_not_worth_getting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NEEDS", (Need("r1kit x", ("torch",), ("cuda",)),))
    missing = Finding(False, "gone", "get it")
    assert advice("torch", missing) == advice("cuda", missing) == "get it"
    assert advice("nvrtc or nvcc", missing) == "get it (no command of this version needs it)"
    assert advice("nvrtc or nvcc", Finding(True, "here", "get it")) == ""


def test_a_containers_memory_counts_and_not_its_hosts(tmp_path: Path) -> None:
    whole = memory_gib(tmp_path / "nothing")
    assert whole > 0.5
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_gib(tmp_path) == whole
    (tmp_path / "memory.max").write_text("536870912\n")
    assert memory_gib(tmp_path) == 0.5


@pytest.mark.parametrize(
    ("driver", "build", "says"),
    [
        (False, "2.13.0", "torch sees no GPU"),
        (True, "2.13.0+cpu", "torch is a CPU build"),
        (True, "2.13.0", "torch cannot use the GPU"),
    ],
)
def test_it_tells_a_missing_gpu_from_a_build_that_cannot_use_it(
    driver: bool, build: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_in_a_child", lambda code: "")
    monkeypatch.setattr(doctor, "gpus", lambda: [{"name": "H100"}] if driver else [])
    monkeypatch.setattr(doctor, "version", lambda package: build)
    assert doctor.cuda().found == says


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
