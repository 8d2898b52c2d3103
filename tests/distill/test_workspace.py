"""The run's directory: whole files, markers last, one run at a time, nothing foreign touched."""

import os
from pathlib import Path

import pytest
from r1kit.distill.workspace import (
    Marker,
    Stage,
    Workspace,
    WorkspaceError,
    is_disk_full,
    stages_from,
    write_text,
)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, ["old"])
    (tmp_path / ".a.txt.partial").symlink_to("/dev/full")
    with pytest.raises(OSError) as full:
        write_text(path, ["new"] * 100_000)
    assert is_disk_full(full.value)
    assert full.value.filename == str(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_recognised_under_other_errors() -> None:
    try:
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise RuntimeError("could not save") from error
    except RuntimeError as error:
        assert is_disk_full(error)
    assert is_disk_full(RuntimeError("I/O error: No space left on device (os error 28)"))
    assert not is_disk_full(OSError(13, "Permission denied"))


def test_a_marker_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "run")
    marker = Marker(Stage.VERIFY, "d", 1.5, {"verdicts": {"correct": 3}}, 100.0, True, None)
    with workspace.hold():
        assert not workspace.begin(Stage.VERIFY)
        assert workspace.begin(Stage.VERIFY)  # the first attempt was broken off
        workspace.finish(marker)
        assert workspace.marker(Stage.VERIFY) == marker
        assert not workspace.begin(Stage.VERIFY)


def test_redoing_a_stage_takes_away_all_that_came_of_it_but_the_ledger(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "run")
    with workspace.hold():
        for stage in Stage:
            workspace.finish(Marker(stage, "d", 0))
        for directory in (workspace.dataset, workspace.student, workspace.eval):
            directory.mkdir()
            (directory / "file").touch()
        for file in (workspace.ledger, workspace.report, workspace.samples, workspace.problems):
            file.touch()
        workspace.begin(Stage.VERIFY)
        done = [stage for stage in Stage if workspace.marker(stage) is not None]
        assert done == [Stage.PROBLEMS, Stage.SAMPLE]
        left = {path.name for path in workspace.root.iterdir()}
    assert left == {".lock", "stages", "traces.sqlite", "samples.jsonl", "problems.jsonl"}


def test_a_second_run_is_refused_and_the_first_one_named(tmp_path: Path) -> None:
    with (
        Workspace(tmp_path / "run").hold(),
        pytest.raises(WorkspaceError, match=rf"process {os.getpid()}\) is at work there"),
        Workspace(tmp_path / "run").hold(),
    ):
        pass
    with Workspace(tmp_path / "run").hold():
        pass


def test_a_directory_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    with (
        pytest.raises(WorkspaceError, match="holds files and is no run of r1kit"),
        Workspace(tmp_path).hold(),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["dataset"]


def test_a_file_in_the_place_of_the_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(WorkspaceError, match="is a file"), Workspace(tmp_path / "run").hold():
        pass


@pytest.mark.parametrize("text", ["", "{", '{"stage": "sample"}', "[]", '{"stage": "nosuch"}'])
def test_a_marker_that_cannot_be_read_says_how_to_recover(text: str, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "run")
    with workspace.hold():
        path = workspace.stages / "sample.json"
        path.write_text(text)
        with pytest.raises(WorkspaceError, match=r"sample\.json: not a marker .* delete it"):
            workspace.marker(Stage.SAMPLE)


def test_the_stages_stand_in_their_order() -> None:
    assert stages_from(Stage.BUILD) == [Stage.BUILD, Stage.TRAIN, Stage.EVALUATE, Stage.REPORT]
    assert len(stages_from(Stage.PROBLEMS)) == len(Stage)
