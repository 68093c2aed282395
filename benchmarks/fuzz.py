"""Damaged models by the thousand: python benchmarks/fuzz.py --cases 2000.

Prints how many were refused with one of our errors, how many still worked, and every defect (another
exception, a crash of the process, more than 30 seconds) with the number that repeats it.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from support.fuzz import run_cases


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    arguments = parser.parse_args()

    def progress(case: int) -> None:
        if case % 50 == 0:
            print(f"  {case - arguments.first} of {arguments.cases}", file=sys.stderr, flush=True)

    outcomes = run_cases(arguments.first, arguments.cases, progress)
    counts = Counter(outcome.kind for outcome in outcomes)
    print(f"{len(outcomes)} cases: " + ", ".join(f"{n} {kind}" for kind, n in counts.most_common()))
    defects = [outcome for outcome in outcomes if outcome.kind not in ("ok", "refused")]
    for defect in defects:
        print(f"\ncase {defect.case}: {defect.detail}")
    return 1 if defects else 0


if __name__ == "__main__":
    raise SystemExit(main())
