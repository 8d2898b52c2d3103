"""The report: what it states, that it stays in its file, and that no text gets out of its place."""

import io
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from r1kit.distill.charts import curve, histograms, nice_step, score_chart
from r1kit.distill.facts import FunnelStep, ReportFacts, Scored
from r1kit.distill.report import html, read_metrics, terminal_table, write_report
from r1kit.distill.showcase import Shown, showcase
from r1kit.distill.trace import Tag, Trace
from r1kit.eval.math.extract import Rule
from r1kit.eval.math.verify import Judgement
from r1kit.eval.problems import Problem
from r1kit.eval.score import Score
from r1kit.eval.verdict import Verdict
from r1kit.teacher.engine import Completion, Finish
from rich.console import Console

SOURCES = ("running_sum", "product", "base_conversion", "sorting", "gcd")
ATTACKS = (
    "<script>alert(1)</script>",
    "</style><script>alert(2)</script>",
    "<svg onload=alert(3)>",
    '" onmouseover="alert(4)',
    "'><img src=x onerror=alert(5)>",
    "{{ 7 * 7 }}{% raw %}",
    "</pre></details><iframe src=//evil.example>",
    "<!-- <base href=//evil.example>",
)


def scored(value: float, n: int = 200, suite: str = "tiny", *, by_source: bool = True) -> Scored:
    """A score, the same for every source."""

    def score(n: int) -> Score:
        return Score(value, n, (max(0.0, value - 0.06), min(1.0, value + 0.05)))

    sources = {f"tiny/{name}": score(n // 5) for name in SOURCES} if by_source else {}
    return Scored(score(n), sources, suite)


def facts(**changes: object) -> ReportFacts:
    """A quick start that went well."""
    base = ReportFacts(
        name="quickstart",
        scores={
            "student_before": scored(0.0),
            "teacher_on_problems": scored(0.951, 2000, "sampled problems"),
            "student_after": scored(0.724),
            "teacher": scored(0.965),
        },
        funnel=(
            FunnelStep("sample", 2000),
            FunnelStep("verify", 1893, {"wrong": 84, "truncated": 23}),
            FunnelStep("filter", 1880, {"format": 9, "repetition": 4}),
            FunnelStep("dedup", 1861, {"duplicate": 19}),
            FunnelStep("decontaminate", 1861),
        ),
        lengths={
            "correct": [40 + (k * 37) % 90 for k in range(1893)],
            "wrong": [60 + (k * 29) % 110 for k in range(84)],
            "truncated": [192] * 23,
        },
        stages={"sample": 131.4, "verify": 2.1, "filter": 0.9, "train": 118.2, "evaluate": 44.0},
        tokens={"prompt": 31_000, "completion": 171_000, "trained": 2_400_000},
        cost="0 (local)",
        kept=1861,
        sampled=2000,
        counts={"wrong": 84, "truncated": 23, "duplicate": 19, "format": 9, "repetition": 4},
        settings={"name": "quickstart", "sample": {"temperature": 0.6, "max_tokens": 192}},
        environment={
            "r1kit": "0.1.0",
            "commit": "816062e",
            "versions": {"torch": "2.13.0"},
            "hardware": {"cpu": "some CPU", "cores": 2, "gpus": []},
        },
        sources={f"tiny/{name}": 400 for name in SOURCES},
        removed_by_source={
            "wrong": {"tiny/gcd": 50, "tiny/product": 34},
            "format": {"tiny/gcd": 9},
        },
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def trace(number: int, text: str = "<think>\n1+1=2\n</think>\n\\boxed{2}", **problem: str) -> Trace:
    """One trace whose judge was content."""
    values = {"id": f"p{number}", "statement": "What is 1 plus 1?", "source": "tiny/sum"} | problem
    return Trace(
        Problem(answer="2", **values),
        f"{number:064x}",
        0,
        Completion(text, "1+1=2", "\\boxed{2}", Finish.STOP, 12, 20),
        Judgement(Verdict.CORRECT, "2", Rule.BOXED, "the same number"),
    )


class Seen(HTMLParser):
    """Collects tags, attributes and text the way a browser would tokenise them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, Mapping[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_text_of_a_model_or_a_file_becomes_markup(tmp_path: Path, attack: str) -> None:
    shown = [
        Shown("kept", "", trace(1, attack, statement=attack, source=attack, id=attack)),
        Shown(attack, attack, trace(2, attack, level=attack)),
    ]
    half = Scored(Score(0.5, 2, (0.1, 0.9)), {attack: Score(0.5, 2, (0, 1))}, attack)
    poisoned = facts(
        name=attack,
        notes=(attack,),
        cost=attack,
        scores=dict.fromkeys(("teacher", "student_after", attack), half),
        funnel=(FunnelStep(attack, 2000), FunnelStep("filter", 1, {attack: 1999})),
        lengths={attack: [1, 2, 3]},
        stages={attack: 1.0},
        tokens={attack: 3},
        settings={attack: [attack]},
        environment={attack: {attack: attack}, "commit": attack},
        sources={attack: 2000},
        removed_by_source={attack: {attack: 1999}},
        removed_by_level={attack: {attack: 1999}},
    )
    text = html(tmp_path / "runs" / "x", poisoned, shown)
    clean = html(tmp_path / "runs" / "x", facts(), [])

    seen = Seen(text)
    assert attack.split()[0] in " ".join(seen.text.split())  # it is shown, as text
    assert {tag for tag, _ in seen.tags} <= {tag for tag, _ in Seen(clean).tags} | {
        "details", "summary", "pre", "br", "small", "div"
    }  # fmt: skip
    names = {name for _, attributes in seen.tags for name in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("href", "src")]
    assert attack not in text.replace("{{ 7", "") or attack.startswith("{{")
    assert "49" not in re.findall(r"<title>(.*?)</title>", text)[0]


def test_the_file_loads_nothing_and_forbids_scripts(tmp_path: Path) -> None:
    seen = Seen(html(tmp_path, facts(), showcase([trace(1)], {})))
    policy = next(a for t, a in seen.tags if t == "meta" and a.get("http-equiv"))
    assert policy["http-equiv"] == "Content-Security-Policy"
    content = str(policy["content"])
    assert content.startswith("default-src 'none';")
    assert "script-src" not in content
    assert not {"script", "link", "iframe", "img", "object"} & {tag for tag, _ in seen.tags}


def test_the_report_states_the_figures(tmp_path: Path) -> None:
    text = Seen(html(tmp_path / "runs" / "quickstart", facts(), [])).text.replace("\u00a0", " ")
    for figure in (
        "The student went from 0.0 % to pass@1 72.4 % (95 % interval 66.4 % to 77.4 %, n = 200)",
        "its teacher is at 96.5 %",
        "1,861 of 2,000 sampled traces were kept (93.0 %)",
        "84 wrong",
        "19 duplicate",
        "4 min 57 s in all",
        "git checkout 816062e",
        "r1kit run runs/quickstart/settings.yaml --set name=quickstart-again",
        "temperature: 0.6",
    ):
        assert figure in text, figure


def test_a_rise_inside_the_intervals_is_not_sold_as_one(tmp_path: Path) -> None:
    near = {"student_before": scored(0.70), "student_after": scored(0.724)}
    says = "The intervals of before and after overlap: no sure difference."
    assert says in html(tmp_path, facts(scores=near), [])
    assert says not in html(tmp_path, facts(), [])


def test_outcomes_stand_in_the_order_of_the_verdicts(tmp_path: Path) -> None:
    lengths = {"truncated": [3], "unverifiable": [2], "wrong": [2], "correct": [1]}
    names = re.findall(r'aria-label="(\w+): 1 traces', html(tmp_path, facts(lengths=lengths), []))
    assert names == ["correct", "wrong", "unverifiable", "truncated"]


def test_every_drawing_is_well_formed_and_has_a_table_or_a_name(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text("".join(f'{{"step": {k}, "loss": {3 / (k + 1)}}}\n' for k in range(300)))
    text = html(tmp_path, facts(train_metrics=metrics), [])
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(drawings) > 10
    for drawing in drawings:
        root = ElementTree.fromstring(drawing.replace("aria-hidden", "data-hidden"))
        assert root.get("aria-label") or root.get("data-hidden") or "figure" in text
        for rect in root.iter("rect"):
            assert float(rect.get("width", "0")) >= 0
            assert float(rect.get("height", "0")) >= 0
    assert text.count("The numbers") == 3  # scores, lengths, training


def test_the_same_facts_give_the_same_bytes_and_a_small_file(tmp_path: Path) -> None:
    shown = showcase([trace(k) for k in range(9)], {trace(4).key: Tag("wrong", "3, not 2")})
    first = write_report(tmp_path, facts(), shown).read_bytes()
    again = write_report(tmp_path, facts(), shown).read_bytes()
    assert first == again
    assert len(first) < 200_000
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize(
    "empty",
    [
        {"scores": {}},
        {"scores": {"teacher": scored(0.9, by_source=False)}},
        {"funnel": (), "kept": 0, "sampled": 0},
        {"lengths": {}},
        {"lengths": {"correct": [0]}},
        {"stages": {}},
        {"stages": {"sample": 0.0}},
        {"environment": {}},
        {"sources": {}, "removed_by_source": {}},
    ],
    ids=lambda empty: "-".join(empty),
)
def test_a_run_with_little_to_say_still_reports(tmp_path: Path, empty: dict[str, object]) -> None:
    assert "</html>" in html(tmp_path, facts(**empty), [])
    assert "quickstart" in printed(facts(**empty))


def test_text_that_is_no_text_is_drawn_and_does_not_stop_the_report(tmp_path: Path) -> None:
    odd = trace(1, "<think>a\x00b\x1b[31m\ud800\u202ec</think>\\boxed{2}")
    text = write_report(tmp_path, facts(), [Shown("kept", "", odd)]).read_text(encoding="utf-8")
    assert "a␀b␛[31m\ufffd\ufffdc" in text


def test_a_long_reply_loses_its_middle_and_says_so(tmp_path: Path) -> None:
    long = trace(1, "<think>" + "a" * 50_000 + "</think>the end")
    text = html(tmp_path, facts(), [Shown("kept", "", long)])
    assert "[… 44,022 characters left out …]" in text
    assert "the end" in text


def test_broken_metrics_are_counted_and_the_rest_is_drawn(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": NaN}\n[1]\n{"step": 3, "lo')
    points, note = read_metrics(metrics)
    assert points == [(1.0, 2.0)]
    assert note == "3 of 4 lines of the metrics hold no step and loss."
    assert read_metrics(tmp_path / "none.jsonl")[1].startswith("The training's metrics cannot be")
    assert note in html(tmp_path, facts(train_metrics=metrics), [])


def test_examples_are_three_per_reason_and_sources_take_turns() -> None:
    traces = [trace(k, source="a" if k < 8 else "b") for k in range(10)]
    shown = showcase(traces, {traces[0].key: Tag("wrong", "3"), traces[9].key: Tag("format", "x")})
    assert [(each.reason, each.trace.problem.id) for each in shown] == [
        ("kept", "p1"), ("kept", "p8"), ("kept", "p2"), ("wrong", "p0"), ("format", "p9"),
    ]  # fmt: skip
    assert shown[3].evidence == "3"


def printed(of: ReportFacts, width: int = 100) -> str:
    """What the terminal shows without colour."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, force_terminal=False).print(
        terminal_table(of)
    )
    return out.getvalue()


def test_the_terminal_table_fits_100_columns_and_needs_no_colour() -> None:
    text = printed(facts(notes=("resumed once",)))
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "\x1b" not in text
    rows = {line[:14].strip(): line for line in text.splitlines()}
    assert list(rows)[2:5] != []
    after = next(line for line in text.splitlines() if line.startswith("student after"))
    assert after.split("  ")[0] == "student after"
    assert re.findall(r"[\d.]+ %", after) == ["72.4 %", "66.4 %", "77.4 %"] + ["72.4 %"] * 5
    assert "sampled 2,000 > verify 1,893 (wrong 84, truncated 23)" in text
    assert "kept 1,861" in text
    assert "resumed once" in text


def test_many_sources_stand_below_each_other() -> None:
    by_source = {f"math500/{name}{k}": Score(0.5, 9, (0.2, 0.8)) for k in range(4) for name in "ab"}
    text = printed(facts(scores={"teacher": Scored(Score(0.5, 72, (0.4, 0.6)), by_source, "m")}))
    assert len(re.findall(r"\ba0\b", text)) == 1
    assert len([line for line in text.splitlines() if re.match(r"[ab]\d ", line)]) == 8
    assert max(len(line) for line in text.splitlines()) <= 100


def test_markup_in_a_name_is_printed_as_it_is() -> None:
    assert "[red]x[/red]" in printed(facts(name="[red]x[/red]", cost="[bold]1"))


def test_a_histogram_counts_every_trace_once() -> None:
    bars, ticks = histograms({"a": [0, 5, 99, 100, 1234], "none": [], "b": [7]}, height=50)
    assert [each.outcome for each in bars] == ["a", "b"]
    assert sum(number for _, _, number in bars[0].bins) == 5
    assert (bars[0].low, bars[0].median, bars[0].p90, bars[0].high) == (0, 99, 1234, 1234)
    assert all(low <= 1234 for low, _, _ in bars[0].bins)
    assert bars[0].bins[0][:2] == (0, 49)
    assert max(bar.height for bar in bars[0].bars) == 50
    assert [tick.label for tick in ticks] == ["0", "500", "1,000"]


def test_a_curve_keeps_its_ends_and_averages_what_is_too_fine() -> None:
    line = curve([(float(step), 2.0) for step in range(1, 1001)], height=100)
    assert line is not None
    assert line.num_points == 1000
    places = [tuple(map(float, point.split(","))) for point in line.points.split()]
    assert len(places) <= 160
    assert {y for _, y in places} == {0.0}  # the loss is the axis's upper end
    assert places[-1][0] == 392.0
    assert curve([(1.0, 2.0)], height=100) is None


def test_scores_stand_where_their_share_is() -> None:
    chart = score_chart({"all": {"teacher": Score(0.25, 4, (0.0, 1.0))}})
    mark = chart.rows[0].marks[0]
    assert (mark.low, mark.x, mark.high) == (8.0, 104.0, 392.0)


@pytest.mark.parametrize(
    ("span", "most", "step"), [(10, 5, 2), (1, 4, 0.5), (99, 32, 5), (0, 3, 1)]
)
def test_steps_are_round(span: float, most: int, step: float) -> None:
    assert nice_step(span, most) == pytest.approx(step)


def test_settings_with_paths_and_enums_become_text(tmp_path: Path) -> None:
    settings = {"path": Path("a/b"), "verdict": Verdict.WRONG, "none": None, "list": (1, 2.5)}
    text = Seen(html(tmp_path, facts(settings=settings), [])).text
    assert "path: a/b\nverdict: wrong\nnone: null\nlist:\n- 1\n- 2.5" in text
    json.dumps(str(settings))
