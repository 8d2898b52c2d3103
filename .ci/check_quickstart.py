"""Hold the figures of the quick start, whose directory is given, against what is promised."""

import json
import sys
from pathlib import Path

run_dir = Path(sys.argv[1])
scores = json.loads((run_dir / "scores.json").read_text(encoding="utf-8"))
environment = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))["environment"]
peak_mib = environment["peak_mib"] + environment["peak_child_mib_at_most"]
seconds = sum(stage["seconds"] for stage in scores["stages"].values())
promises = {
    "the teacher solves at least 90 %": scores["teacher"]["pass@1"] >= 0.90,
    "the student starts below 5 %": scores["student_before"]["pass@1"] < 0.05,
    "the student reaches at least 60 %": scores["student_after"]["pass@1"] >= 0.60,
    "the run takes at most 360 s": seconds <= 360,
    "its processes take at most 3 GB": peak_mib * 2**20 <= 3e9,
}
for promise, kept in promises.items():
    sys.stdout.write(f"{'ok' if kept else 'BROKEN'}: {promise}\n")
sys.exit(not all(promises.values()))
