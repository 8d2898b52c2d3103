"""The ledger: what was acknowledged is there exactly once, whatever happened in between."""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from r1kit import KitError
from r1kit.teacher.engine import Finish, Identity, Prompt, Request, Response, Sampling
from r1kit.teacher.ledger import Ledger
from r1kit.teacher.ledger_file import LedgerError, file_system_of
from r1kit.teacher.salvage import salvage

TORCH = Identity("torch", "tiny-r1", "1")


def ask(number: int) -> Request:
    prompt = Prompt.user(f"{number}+1?", prefill="<think>\n")
    return Request(prompt, Sampling(max_tokens=64), number % 4, 7, problem_id=f"p{number}")


def raw(text: str, finish: str = "stop") -> str:
    usage = {"prompt_tokens": 5, "completion_tokens": len(text)}
    return json.dumps(
        {"choices": [{"message": {"content": text}, "finish_reason": finish}], "usage": usage}
    )


def reply(number: int, text: str = "<think>\nadd</think>4", finish: str = "stop") -> Response:
    return Response(ask(number), raw(text, finish), "torch:cpu", 0.25)


def key(number: int) -> str:
    return ask(number).key(TORCH)


def rows(path: Path, sql: str) -> list[tuple[object, ...]]:
    """What any SQLite tool reads."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "traces.sqlite"


def test_what_was_put_comes_back_after_reopening_with_its_provenance(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.attempt(key(1), ask(1), "torch:cpu")
        ledger.put(key(1), TORCH, reply(1))
        ledger.put(key(2), TORCH, reply(2, "<think>\nadd add", finish="length"))
    with Ledger.open(path) as ledger:
        assert ledger.done([key(1), key(2), key(3)]) == {key(1), key(2)}
        found = dict(ledger.completions([key(2), key(3), key(1)]))
    assert list(found) == [key(2), key(1)]
    assert (found[key(1)].thinking, found[key(1)].answer) == ("add", "4")
    assert (found[key(2)].finish, found[key(2)].answer) == (Finish.LENGTH, None)
    columns = "problem_id, engine, model, revision, prefilled, endpoint, seconds, raw"
    (stored,) = rows(path, f"SELECT {columns} FROM responses WHERE problem_id = 'p1'")
    assert stored == ("p1", "torch", "tiny-r1", "1", 1, "torch:cpu", 0.25, reply(1).raw)
    ((request, created),) = rows(
        path, "SELECT request, created FROM responses WHERE problem_id = 'p1'"
    )
    assert json.loads(str(request))["prompt"]["prefill"] == "<think>\n"
    assert str(created).endswith("+00:00")


def test_putting_a_key_twice_keeps_the_first_response(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.put(key(1), TORCH, reply(1, "<think>\na</think>first"))
        ledger.put(key(1), TORCH, reply(1, "<think>\na</think>second"))
        ((_, completion),) = ledger.completions([key(1)])
    assert completion.answer == "first"
    assert rows(path, "SELECT count(*) FROM responses") == [(1,)]


def test_the_raw_text_is_committed_before_anything_reads_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def spy(response: Response) -> None:
        seen.append(rows(path, "SELECT raw FROM responses"))
        raise KeyboardInterrupt

    monkeypatch.setattr("r1kit.teacher.ledger.parse_response", spy)
    with Ledger.open(path) as ledger:
        ledger.put(key(1), TORCH, reply(1))
        with pytest.raises(KeyboardInterrupt):
            ledger.done([key(1)])
    assert seen == [[(reply(1).raw,)]]


def test_errors_and_unreadable_responses_are_kept_as_attempts_and_asked_again(path: Path) -> None:
    broken = Response(ask(1), '{"choices": []}', "http://a/v1", 1.0)
    failed = Response(ask(2), "half a bo", "http://a/v1", 1.0, error="HTTP 500: overload")
    with Ledger.open(path) as ledger:
        for number, response in ((1, broken), (2, failed)):
            ledger.attempt(key(number), ask(number), "http://a/v1")
            ledger.put(key(number), TORCH, response)
        assert ledger.done([key(1), key(2)]) == set()
        assert ledger.counts().errors == 2
        ledger.attempt(key(1), ask(1), "http://b/v1")
        ledger.put(key(1), TORCH, reply(1))
        assert ledger.done([key(1), key(2)]) == {key(1)}
    attempts = rows(path, "SELECT endpoint, outcome, error, raw FROM attempts ORDER BY id")
    assert attempts[0][:2] == ("http://a/v1", "unreadable")
    assert attempts[0][3] == '{"choices": []}'
    assert attempts[1] == ("http://a/v1", "error", "HTTP 500: overload", "half a bo")
    assert attempts[2] == ("http://b/v1", "answered", None, None)


def test_the_last_error_of_what_was_never_answered_is_known(path: Path) -> None:
    with Ledger.open(path) as ledger:
        for number, error in ((1, "HTTP 500"), (1, "HTTP 503"), (2, "HTTP 400"), (3, "HTTP 500")):
            ledger.attempt(key(number), ask(number), "http://a/v1")
            ledger.put(key(number), TORCH, Response(ask(number), "", "http://a/v1", 0.1, error))
        ledger.attempt(key(3), ask(3), "http://a/v1")
        ledger.put(key(3), TORCH, reply(3))
        wanted = [key(n) for n in range(5)]
        assert ledger.failures(wanted) == {key(1): "HTTP 503", key(2): "HTTP 400"}


def test_every_attempt_has_an_outcome_or_is_known_to_be_lost(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.attempt(key(1), ask(1), "http://a/v1")
        ledger.attempt(key(1), ask(1), "http://a/v1")
        ledger.put(key(1), TORCH, reply(1))
        ledger.attempt(key(2), ask(2), "http://a/v1")
        assert ledger.counts().unanswered == 1
    with Ledger.open(path) as ledger:
        assert ledger.counts().unanswered == 1
    outcomes = rows(path, "SELECT outcome FROM attempts ORDER BY id")
    assert outcomes == [("retried",), ("answered",), ("lost",)]


def test_an_attempt_that_waits_is_on_disk_when_it_returns_and_shares_its_fsync(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.attempt(key(1), ask(1), "http://a/v1", wait=True)
        assert rows(path, "SELECT key FROM attempts") == [(key(1),)]
        statements: list[str] = []
        ledger._database._connection.set_trace_callback(statements.append)
        start = threading.Barrier(32)

        def record(number: int) -> None:
            start.wait()
            ledger.attempt(key(number), ask(number), "http://a/v1", wait=True)

        threads = [threading.Thread(target=record, args=(n,)) for n in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(rows(path, "SELECT key FROM attempts")) == 33
        assert statements.count("COMMIT") <= 16


def test_a_write_is_committed_within_50_ms_without_anybody_asking(path: Path) -> None:
    with Ledger.open(path) as ledger:
        time.sleep(0.1)
        ledger.put(key(1), TORCH, reply(1))
        put = time.monotonic()
        while not rows(path, "SELECT key FROM responses"):
            assert time.monotonic() - put < 1
        assert time.monotonic() - put < 0.5  # 50 ms, and what a busy machine adds


def test_verdicts_and_tags_are_replaced_and_read_back(path: Path) -> None:
    with Ledger.open(path) as ledger:
        ledger.put_verdicts([("k1", "math", "wrong", "3", ""), ("k2", "math", "correct", "4", "")])
        ledger.put_verdicts([("k1", "math", "unverifiable", None, "no box")])
        ledger.put_verdicts([("k1", "code", "correct", None, "")])
        ledger.put_tags([("k1", "length", ["long", "cut"]), ("k2", "length", [])])
        with pytest.raises(ValueError, match="one word, got 'two words'"):
            ledger.put_tags([("k3", "length", ["two words"])])
    with Ledger.open(path, write=False) as ledger:
        said = ledger.verdicts("math")
        assert said["k1"] == ("unverifiable", None, "no box")
        assert said["k2"].verdict == "correct"
        assert ledger.tags("length") == {"k1": ("long", "cut"), "k2": ()}
        assert ledger.tags("format") == {}
        with pytest.raises(LedgerError, match="reading only"):
            ledger.put_tags([("k1", "length", [])])


def test_counts_add_up(path: Path) -> None:
    with Ledger.open(path) as ledger:
        for number in range(6):
            ledger.put(
                key(number), TORCH, reply(number, "12345", "length" if number < 2 else "stop")
            )
        ledger.done(key(n) for n in range(6))
        counts = ledger.counts()
    assert (counts.completions, counts.truncated) == (6, 2)
    assert (counts.prompt_tokens, counts.completion_tokens) == (30, 30)


def test_many_keys_are_more_than_one_query_can_name(path: Path) -> None:
    keys = [key(number) for number in range(1200)]
    with Ledger.open(path) as ledger:
        for number in range(0, 1200, 2):
            ledger.put(keys[number], TORCH, reply(number))
        assert ledger.done(keys) == set(keys[::2])
        assert [k for k, _ in ledger.completions(keys)] == keys[::2]


def test_5000_rows_a_second_are_put_in_grouped_commits(path: Path) -> None:
    responses = [(key(n), reply(n, "<think>\n" + "step " * 200)) for n in range(5000)]
    with Ledger.open(path) as ledger:
        seconds = time.thread_time()
        for stored, response in responses:
            ledger.put(stored, TORCH, response)
        ledger.flush()
        seconds = time.thread_time() - seconds
    assert seconds < 1.0  # of this thread: the machine may be busy with other things


# One writer.


def test_a_second_writer_is_refused_and_told_who_writes_and_a_reader_is_not(path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from r1kit.teacher.ledger import Ledger\n"
        f"ledger = Ledger.open(Path({str(path)!r})); print('open', flush=True); sys.stdin.read()"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert writer.stdin is not None and writer.stdout is not None
    assert writer.stdout.readline() == b"open\n"
    with pytest.raises(KitError, match=f"process {writer.pid} is writing"):
        Ledger.open(path)
    with Ledger.open(path, write=False) as reader:
        assert reader.counts().completions == 0
    writer.kill()
    writer.wait()
    writer.stdin.close()
    writer.stdout.close()
    with Ledger.open(path) as ledger:  # the kernel freed the lock
        assert ledger.counts().completions == 0


# Files that are not a sound ledger of this schema.


def make(path: Path, count: int = 200) -> None:
    with Ledger.open(path) as ledger:
        for number in range(count):
            ledger.put(key(number), TORCH, reply(number, "<think>\n" + "step " * 200))


def damage(path: Path) -> None:
    with path.open("r+b") as file:
        for page in range(2, 60):
            file.seek(page * 4096)
            file.write(b"\xff" * 2000)


def older(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 0")
    connection.close()


def newer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


def foreign(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE photos (id)")
    connection.close()


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


@pytest.mark.parametrize("write", [True, False], ids=["write", "read"])
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (damage, r"the ledger is damaged .*`r1kit teacher salvage .*traces.sqlite` copies"),
        (cut, r"the ledger is damaged .*`r1kit teacher salvage .*traces.sqlite` copies"),
        (older, r"made by an older r1kit \(schema 0, this one reads 1\).*move it away"),
        (newer, r"made by a newer r1kit \(schema 99, this one reads 1\).*open it with that"),
        (foreign, r"not a ledger of r1kit .*tables \['photos'\]"),
        (lambda path: path.write_text("id,answer\n"), r"begins with b'id,answer\\n'.*move it away"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read: Is a directory"),
    ],
    ids=["damaged", "cut", "older", "newer", "foreign", "text", "directory"],
)
def test_a_file_that_is_no_sound_ledger_is_refused_untouched(
    path: Path, spoil: object, says: str, write: bool
) -> None:
    make(path)
    assert callable(spoil)
    spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(LedgerError, match=says):
        Ledger.open(path, write=write)
    assert (path.read_bytes() if path.is_file() else b"") == before
    if path.is_file():
        path.unlink()
        with Ledger.open(path) as ledger:  # the refusal left no lock behind
            assert ledger.counts().completions == 0


@pytest.mark.parametrize(
    ("spoil", "least"), [(lambda path: None, 200), (cut, 50), (damage, 50)], ids=str
)
def test_salvage_saves_what_can_be_read_and_keeps_the_damaged_file(
    path: Path, spoil: Callable[[Path], object], least: int
) -> None:
    make(path)
    spoil(path)
    before = path.read_bytes()
    found = salvage(path)
    assert found.damaged.read_bytes() == before
    with Ledger.open(path) as ledger:
        keys = [key(number) for number in range(200)]
        done = ledger.done(keys)
        assert len(done) == found.answers >= least
        assert all(completion.text for _, completion in ledger.completions(done))
        ledger.put(key(0), TORCH, reply(0))  # and it takes more


def test_salvage_takes_no_row_whose_request_is_not_what_its_key_says(path: Path) -> None:
    make(path, 3)
    with sqlite3.connect(path) as connection:
        connection.execute(
            "UPDATE responses SET request = replace(request, '+1?', '+2?') WHERE key = ?", (key(1),)
        )
    connection.close()
    assert salvage(path).answers == 2


def test_salvage_leaves_a_ledger_alone_that_somebody_writes(path: Path) -> None:
    with Ledger.open(path), pytest.raises(LedgerError, match="is writing this ledger"):
        salvage(path)
    assert [file.name for file in path.parent.iterdir() if "damaged" in file.name] == []


def test_a_missing_ledger_is_named_when_reading_and_a_missing_folder_when_writing(
    path: Path,
) -> None:
    with pytest.raises(LedgerError, match="no ledger there"):
        Ledger.open(path, write=False)
    with pytest.raises(LedgerError, match="No such file or directory"):
        Ledger.open(path.parent / "absent" / "traces.sqlite")


def test_a_log_that_was_left_behind_is_named_and_moved_away_it_is_in_nobodys_way(
    path: Path,
) -> None:
    log = path.with_name("traces.sqlite-wal")
    log.write_bytes(b"answers")
    with pytest.raises(LedgerError, match=r"missing, but its log traces.sqlite-wal is there"):
        Ledger.open(path)
    assert log.read_bytes() == b"answers"
    log.unlink()
    make(path, 3)


def test_a_writer_killed_before_it_made_the_tables_leaves_a_file_that_can_be_used(
    path: Path,
) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    assert path.stat().st_size > 0
    with Ledger.open(path) as ledger:
        ledger.put(key(1), TORCH, reply(1))
        assert ledger.done([key(1)]) == {key(1)}


# Journals.


@pytest.mark.parametrize(
    ("file_system", "journal"),
    [("ext4", "wal"), ("nfs4", "truncate"), ("cifs", "truncate"), ("fuse.sshfs", "truncate")],
)
def test_the_journal_suits_the_file_system_and_a_slower_one_is_announced(
    tmp_path: Path, file_system: str, journal: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "my share"
    folder.mkdir()
    point = str(folder).replace(" ", "\\040")
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/x {point} {file_system} rw 0 0\n")
    path = folder / "traces.sqlite"
    with Ledger.open(path, mounts=mounts) as ledger:
        ledger.put(key(1), TORCH, reply(1))
        ledger.flush()
        assert ledger._database.select("PRAGMA journal_mode") == [(journal,)]
        assert ledger._database.select("PRAGMA synchronous") == [(2,)]
        told = [f"{folder} is {file_system}", "TRUNCATE"] if journal == "truncate" else []
        assert len(ledger.notices) == bool(told)
        assert all(word in ledger.notices[0] and word in caplog.text for word in told)
    with Ledger.open(path, mounts=mounts) as ledger:
        assert ledger.done([key(1)]) == {key(1)}


def test_the_innermost_mount_decides() -> None:
    mounts = "a / ext4 rw\nb /data nfs4 rw\nc /data/fast xfs rw\nd /database cifs rw\n"
    assert file_system_of(Path("/data/runs/x"), mounts) == ("nfs4", "/data")
    assert file_system_of(Path("/data/fast/x"), mounts) == ("xfs", "/data/fast")
    assert file_system_of(Path("/home/x"), mounts) == ("ext4", "/")


# Kills and full disks.

PUT_FOR_EVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from r1kit.teacher.ledger import Ledger
from test_ledger import TORCH, key, reply
number = int(sys.argv[2])
with Ledger.open(Path(sys.argv[1])) as ledger:
    while True:
        batch = range(number, number + 7)
        for n in batch:
            ledger.attempt(key(n), reply(n).request, "torch:cpu")
            ledger.put(key(n), TORCH, reply(n, "<think>\\n" + "step " * 400))
        ledger.flush()
        print(*(key(n) for n in batch), flush=True)
        number += 7
"""


def test_every_acknowledged_key_survives_kill_9_exactly_once(path: Path) -> None:
    draw, acknowledged = random.Random(5), set[str]()
    script = PUT_FOR_EVER.format(tests=str(Path(__file__).parent))
    for start in range(0, 60_000, 10_000):
        writer = subprocess.Popen(
            [sys.executable, "-c", script, str(path), str(start)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        lines = [writer.stdout.readline()]  # it runs
        timer = threading.Timer(draw.uniform(0, 0.15), writer.send_signal, (signal.SIGKILL,))
        timer.start()
        lines += writer.stdout.readlines()
        assert writer.wait() == -signal.SIGKILL
        timer.join()
        writer.stdout.close()
        acknowledged.update(word for line in lines if line.endswith("\n") for word in line.split())
    with Ledger.open(path) as ledger:
        assert ledger.done(acknowledged) == acknowledged
    stored = [str(k) for (k,) in rows(path, "SELECT key FROM responses")]
    assert len(acknowledged) >= 42
    assert acknowledged <= set(stored)
    assert len(stored) == len(set(stored))


FILL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from r1kit import KitError
from r1kit.teacher.ledger import Ledger
from test_ledger import TORCH, key, reply
if sys.argv[2:3] == ["bytes"]:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
ledger = Ledger.open(Path(sys.argv[1]))
if sys.argv[2:3] == ["pages"]:
    ledger._database.select(f"PRAGMA max_page_count = {{int(sys.argv[3])}}")
try:
    for n in range(5000):
        ledger.put(key(n), TORCH, reply(n, "<think>\\n" + "step " * 400))
        if n % 10 == 9:
            ledger.flush()
            print(n + 1, flush=True)
except KitError as error:
    print(error, flush=True)
ledger.close()
"""


def fill(path: Path, *limit: str) -> tuple[int, str]:
    """Put until the disk refuses; how many were acknowledged, and what was said."""
    script = FILL.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), *limit],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    *acknowledged, said = done.stdout.splitlines()
    return int(acknowledged[-1]), said


def check_resumes(path: Path, num_acknowledged: int) -> None:
    with Ledger.open(path) as ledger:
        keys = [key(n) for n in range(num_acknowledged + 1)]
        assert ledger.done(keys) >= set(keys[:-1])
        ledger.put(keys[-1], TORCH, reply(num_acknowledged))
        assert ledger.done(keys) == set(keys)


def test_a_file_that_may_not_grow_is_a_clear_error_and_nothing_acknowledged_is_lost(
    path: Path,
) -> None:
    num_acknowledged, said = fill(path, "bytes", "600000")
    assert 0 < num_acknowledged < 5000
    assert "all that was acknowledged is kept: make space" in said
    check_resumes(path, num_acknowledged)


def may_mount() -> bool:
    """Whether a small file system can be mounted here, tried where it disturbs nobody."""
    if shutil.which("unshare") is None or shutil.which("mount") is None:
        return False
    trial = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/tmp"]
    return os.geteuid() == 0 and subprocess.run(trial, capture_output=True).returncode == 0


def test_sqlite_out_of_pages_says_what_a_full_disk_says_and_goes_on_without_the_limit(
    path: Path,
) -> None:
    num_acknowledged, said = fill(path, "pages", "60")
    assert 0 < num_acknowledged < 5000
    assert said.startswith(f"{path}: the disk is full") and "make space" in said
    check_resumes(path, num_acknowledged)


def test_a_ledger_of_which_no_byte_can_be_written_is_named(path: Path) -> None:
    script = FILL.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", script, str(path), "bytes", "0"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert f"LedgerError: {path}.lock: cannot be locked: File too large" in done.stderr
    make(path, 3)


# A real full disk, where this machine lets a test make one: elsewhere the two above must do.

if may_mount():

    @pytest.fixture
    def small_disk(tmp_path: Path) -> Iterator[Path]:
        """A file system of 1 MiB."""
        point = tmp_path / "small"
        point.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(point)]
        subprocess.run(command, check=True, capture_output=True)
        yield point
        subprocess.run(["umount", str(point)], check=True)

    def test_a_full_disk_is_a_clear_error_and_sampling_goes_on_once_there_is_space(
        small_disk: Path,
    ) -> None:
        ballast = small_disk / "ballast"
        ballast.write_bytes(b"\0" * 400_000)
        path = small_disk / "traces.sqlite"
        num_acknowledged, said = fill(path)
        assert 0 < num_acknowledged < 5000
        assert said.startswith(f"{path}: the disk is full")
        assert "make space" in said
        ballast.unlink()
        check_resumes(path, num_acknowledged)

    def test_a_disk_that_is_full_from_the_start_is_named_too(small_disk: Path) -> None:
        with pytest.raises(OSError, match="No space"):
            (small_disk / "ballast").write_bytes(b"\0" * 2**21)
        with pytest.raises(LedgerError, match="No space left on device"):
            Ledger.open(small_disk / "traces.sqlite")
        (small_disk / "ballast").unlink()
        with Ledger.open(small_disk / "traces.sqlite") as ledger:
            ledger.put(key(1), TORCH, reply(1))
            assert ledger.done([key(1)]) == {key(1)}
