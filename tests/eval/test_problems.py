"""Reading problem files: the published ones load as they are, and what is wrong is named."""

import gzip
import json
from pathlib import Path

import pytest
from r1kit.eval.problems import Problem, ProblemsError, load_problems
from r1kit.eval.suites import load_suite

GOOD = '{"id": "a", "problem": "1+1?", "answer": "2"}'


def write(folder: Path, text: str | bytes, name: str = "set.jsonl") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize(
    ("name", "count", "first", "sources"),
    [
        ("math500/test.jsonl", 500, "\\left( 3, \\frac{\\pi}{2} \\right)", 7),
        ("aime/aime24.jsonl", 30, "73", 1),
        ("aime/aime25.jsonl", 30, "70", 1),
        ("gsm8k/test.jsonl", 1319, "18", 1),
        ("gsm8k/train.jsonl", 7473, "72", 1),
    ],
)
def test_published_files_load_as_they_are(
    data_dir: Path, name: str, count: int, first: str, sources: int
) -> None:
    problems = load_problems(data_dir / name)
    assert len(problems) == count
    assert problems[0].answer == first
    assert len({problem.source for problem in problems}) == sources
    assert len({problem.id for problem in problems}) == count
    assert not [p for p in problems if not p.answer or "####" in p.answer]


def test_a_problem_takes_its_parts_from_the_recognised_fields(tmp_path: Path) -> None:
    row = {
        "question": " What is 6*7? ",
        "answer": "6*7 = <<6*7=42>>42\n#### 42",
        "level": 3,
        "subject": "Algebra",
    }
    folder = tmp_path / "school"
    folder.mkdir()
    path = write(folder, "\n" + json.dumps(row) + "\n", "test.jsonl")
    assert load_problems(path, split="test") == [
        Problem("school-test-2", "What is 6*7?", "42", "school/Algebra", "3", "test")
    ]


def test_expected_answer_wins_over_answer_and_numbers_become_text(tmp_path: Path) -> None:
    path = write(tmp_path, '{"problem": "p", "expected_answer": 204, "answer": "a long story"}')
    assert load_problems(path)[0].answer == "204"


def test_fields_can_be_mapped(tmp_path: Path) -> None:
    path = write(tmp_path, '{"text": "p", "solution_value": "7", "key": 12}')
    fields = {"statement": "text", "answer": "solution_value", "id": "key"}
    assert load_problems(path, fields=fields, source="mine") == [Problem("12", "p", "7", "mine")]


def test_bom_windows_line_ends_and_empty_lines_are_accepted(tmp_path: Path) -> None:
    second = GOOD.replace('"a"', '"b"')
    path = write(tmp_path, b"\xef\xbb\xbf" + GOOD.encode() + b"\r\n\r\n  \r\n" + second.encode())
    assert [problem.id for problem in load_problems(path)] == ["a", "b"]


def test_a_line_separator_inside_a_text_does_not_end_the_line(tmp_path: Path) -> None:
    path = write(tmp_path, '{"problem": "one\u2028two\u0085three", "answer": "2"}')
    assert load_problems(path)[0].statement == "one\u2028two\u0085three"


def test_gzip_is_read_and_broken_gzip_is_an_error(tmp_path: Path) -> None:
    packed = gzip.compress(GOOD.encode())
    assert load_problems(write(tmp_path, packed, "x.jsonl.gz"))[0].id == "a"
    assert load_problems(write(tmp_path, packed, "unnamed.jsonl"))[0].id == "a"
    for broken in (packed[:-12], b"plain text", packed[:12] + b"\xff" * 20):
        with pytest.raises(ProblemsError, match="cannot be read"):
            load_problems(write(tmp_path, broken, "y.jsonl.gz"))


def test_limit_reads_no_further(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + "\nbroken")
    assert len(load_problems(path, limit=1)) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no problems"),
        ("\n \n", "holds no problems"),
        (GOOD + "\n{'id': 1}", "set.jsonl:2: expected one JSON object per line, but this is not J"),
        (GOOD + '\n{"id": "b", "problem', "set.jsonl:2: expected one JSON object per line"),
        ("{", "set.jsonl:1: expected one JSON object per line"),
        ("[" * 100_000, "set.jsonl:1: .* nested too deeply"),
        ("[" + GOOD + "]", r"set.jsonl:1: .* found an array of 1; turn it into lines with jq"),
        ("3", "found a number: 3"),
        ("null", "found null"),
        (GOOD + "\n\n" + GOOD, "set.jsonl:3: the id 'a' already stands on line 1"),
        ('{"problem": "  ", "answer": "2"}', "set.jsonl:1: the statement is empty"),
        ('{"problem": "p", "answer": " "}', "set.jsonl:1: the answer is empty"),
        ('{"problem": "p", "answer": "steps ####"}', "set.jsonl:1: the answer is empty"),
        ('{"problem": "p", "answer": null}', "answer must be text or a number, got null"),
        ('{"problem": "p", "answer": ["1", "2"]}', r'answer must be .* got a list: \["1", "2"\]'),
        ('{"problem": {"a": 1}, "answer": "2"}', "problem must be .* got an object"),
        ('{"problem": "p", "answer": true}', "answer must be .* got a boolean: true"),
        ('{"problem": "p", "answer": "2", "id": [1]}', "id must be .* got a list"),
        ('{"problem": "\\ud800", "answer": "2"}', "problem holds half a character"),
        ('{"problem": "p", "answer": NaN}', "answer must be text or a finite number, got nan"),
        ('{"problem": "p", "answer": 1e999}', "answer must be .* a finite number, got inf"),
        ("[\n" + GOOD + "\n]", r"set.jsonl:1: .* over many lines\? turn it into lines with jq"),
        ("a\x1b[2Jb\x00", "set.jsonl:1: .* a\ufffd.2Jb\ufffd$"),
        (b"PAR1\x15\x04", "set.jsonl: this is a Parquet file; a file of problems is JSON Lines"),
        (GOOD.encode("utf-16"), "set.jsonl: this is UTF-16 text, not UTF-8; a file of problems"),
        (b'{"problem": "\xff\xfe"}', "set.jsonl:1: not UTF-8 text .byte 0xff at position 13"),
        ("{}", "no statement .* the line has no fields"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    tmp_path: Path, text: str | bytes, says: str
) -> None:
    with pytest.raises(ProblemsError, match=says):
        load_problems(write(tmp_path, text))


def test_the_usual_names_are_recognised_in_any_case_and_the_exact_one_wins(tmp_path: Path) -> None:
    path = write(tmp_path, '{"Problem": "p", "ANSWER": "1", "ID": "x"}')
    assert load_problems(path) == [Problem("x", "p", "1", "set")]
    path = write(tmp_path, '{"Answer": "2", "answer": "1", "problem": "p"}')
    assert load_problems(path)[0].answer == "1"


def test_advice_on_a_field_can_be_pasted_into_a_shell_or_is_about_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, '{"problem": "p", "the answer": "2"}')
    with pytest.raises(
        ProblemsError, match=r"Map it with --set 'problems\.fields\.answer=the answ"
    ):
        load_problems(path)
    with pytest.raises(ProblemsError, match="Rename the field 'the answer' to 'answer'"):
        load_suite(path)
    with pytest.raises(ProblemsError, match=r"problem\. Map it with --set .*answer=NAME$"):
        load_problems(write(tmp_path, '{"problem": "p"}'))


def test_an_absent_answer_names_the_fields_and_the_mapping(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD + '\n{"problem": "p", "anwser": "2", "id": "b"}')
    with pytest.raises(ProblemsError) as raised:
        load_problems(path)
    assert str(raised.value) == (
        f"{path}:2: no answer (looked for 'expected_answer' or 'answer' or 'final_answer' or "
        "'gold'); the line has anwser, id, problem; did you mean 'anwser'? "
        "Map it with --set problems.fields.answer=anwser"
    )


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD)
    with pytest.raises(ProblemsError, match=f"no such file; did you mean {path}"):
        load_problems(tmp_path / "sett.jsonl")
    with pytest.raises(ProblemsError, match="there is no folder"):
        load_problems(tmp_path / "nowhere" / "set.jsonl")
    with pytest.raises(ProblemsError, match=r"this is a folder; .* holds set.jsonl"):
        load_problems(tmp_path)


def test_an_unknown_part_of_the_mapping_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ProblemsError, match=r"problems.fields.anser: .* did you mean 'answer'"):
        load_problems(write(tmp_path, GOOD), fields={"anser": "x"})


def test_tables_are_files_of_problems(tmp_path: Path) -> None:
    text = '\ufeffid,Problem,Answer\n1,"a, ""b""\nand c?",4\n\n2,d?,5\n'
    problems = load_problems(write(tmp_path, text, "own.csv"))
    assert [(p.id, p.statement, p.answer) for p in problems] == [
        ("1", 'a, "b"\nand c?', "4"),
        ("2", "d?", "5"),
    ]
    tsv = "\tPrompt\tAnswer\n0\tWho?\tEliot\n"
    problems = load_problems(write(tmp_path, tsv, "frames.tsv"))
    assert [(p.id, p.statement, p.answer) for p in problems] == [("frames-2", "Who?", "Eliot")]
    packed = gzip.compress(text.encode())
    assert len(load_problems(write(tmp_path, packed, "own.csv.gz"))) == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("problem,answer\na?,4,5\n", r"own.csv:2: more columns than the first line names \(2\)"),
        ("problem,answer\na?\n", r"own.csv:2: answer must be text or a number, got null"),
        ('problem,answer\n"a?,4\n', r"own.csv:\d: not a row of a table: unexpected end of data"),
        ("question,gold answer\na?,4\n", r"own.csv:2: no answer .*'gold answer'"),
    ],
)
def test_a_broken_table_is_named_by_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ProblemsError, match=says):
        load_problems(write(tmp_path, text, "own.csv"))
