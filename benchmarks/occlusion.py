"""Occlusion: exactness, seconds and memory, against plain batched onnxruntime and against Captum.

    python benchmarks/occlusion.py exact                   # largest error over networks, windows, strides
    python benchmarks/occlusion.py speed                   # ratios, and which goals are reached (about half an hour)
    python benchmarks/occlusion.py speed resnet18 vgg16@224    # some networks
    python benchmarks/occlusion.py memory                  # seconds and memory as positions grow

``--write`` puts the table into docs/methods/occlusion.md. Everything of one row runs in one process, interleaved, one
thread each, and is compared by CPU time (medians), so that other work on the machine moves a ratio little. Captum
explains the original torch module at its better ``perturbations_per_eval`` of 1 and 16 (the one that is slower in
the first round gets no other). onnxvis is timed as it is used: with its check of a few positions, and with the plan
kept from a first call; the time of that first call, planning included, is a column of its own.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "benchmarks"))
PAGE = ROOT / "docs" / "methods" / "occlusion.md"


def one_thread() -> None:
    """One thread for torch, numpy and every session of onnxruntime."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import onnxruntime as ort

    usual = ort.SessionOptions

    def options() -> Any:
        made = usual()
        made.intra_op_num_threads = 1
        return made

    ort.SessionOptions = options


def write(section: str, lines: list[str]) -> None:
    """Replace a table of the page, which stands between two comments."""
    text = PAGE.read_text(encoding="utf-8")
    head, tail = f"<!-- {section}: benchmarks/occlusion.py -->\n", f"<!-- end of {section} -->\n"
    before, rest = text.split(head)
    _, after = rest.split(tail)
    PAGE.write_text(before + head + "\n".join(lines) + "\n" + tail + after, encoding="utf-8")


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("speed", "exact", "memory"))
    parser.add_argument("names", nargs="*", help="networks, or NETWORK@SIZE; all by default")
    parser.add_argument("--write", action="store_true", help="put the table into the documentation")
    given = parser.parse_args()
    one_thread()
    from occlusion_study import exactness, memory, speed

    rooms = {"speed": speed, "exact": exactness, "memory": memory}
    rows: Callable[[list[str]], Iterator[str]] = rooms[given.what].rows
    lines = []
    for line in rows(given.names):
        print(line, flush=True)
        lines.append(line)
        gc.collect()
    if given.write:
        write(given.what, lines)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
