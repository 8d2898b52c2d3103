"""Hold scores.json of the quick start against what the README promises."""

import json
import sys
from pathlib import Path

scores = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
seconds = sum(stage["seconds"] for stage in scores["stages"].values())
promises = {
    "the teacher solves at least 90 %": scores["teacher"]["pass@1"] >= 0.90,
    "the student starts below 5 %": scores["student_before"]["pass@1"] < 0.05,
    "the student reaches at least 60 %": scores["student_after"]["pass@1"] >= 0.60,
    "the run takes at most 360 s": seconds <= 360,
}
for promise, kept in promises.items():
    sys.stdout.write(f"{'ok' if kept else 'BROKEN'}: {promise}\n")
sys.exit(not all(promises.values()))
