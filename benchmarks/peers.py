"""The same work by onnxvis, Captum, pytorch-grad-cam, torchcam and DIANNA, interleaved in one run.

Run ``python benchmarks/peers.py``; it writes docs/benchmarks.md. A peer that is not installed is left out, with
a message: ``pip install captum grad-cam torchcam dianna``.

By default everybody gets one thread, and what counts is the processor time used: on a machine that other programs
use too, that is repeatable where seconds are not. ``--wall`` counts seconds, with all threads, for a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

DEFAULT = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def one_thread() -> None:
    """One for torch, numpy and onnxruntime, which counts the processors it may use; before any is imported."""
    os.environ["OMP_NUM_THREADS"] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", help="resnet18, squeezenet1_1, mobilenet_v2, efficientnet-lite0")
    parser.add_argument("--kinds", nargs="*", help="only these: forward, saliency, grad-cam, occlusion, rise, ...")
    parser.add_argument("--rounds", type=int, default=9, help="of tasks of milliseconds")
    parser.add_argument("--slow-rounds", type=int, default=3, help="of tasks of seconds")
    parser.add_argument("--wall", action="store_true", help="seconds with all threads, not processor time with one")
    parser.add_argument("--json", type=Path, help="keep all times here")
    parser.add_argument("--redraw", type=Path, metavar="FILE.json", help="write the page from kept times")
    parser.add_argument("--out", type=Path, default=DEFAULT)
    given = parser.parse_args()
    if not given.wall:
        one_thread()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)

    from peer_study.networks import NAMES, network
    from peer_study.page import Run, page, this_run
    from peer_study.tasks import PACKAGES, installed, tasks
    from peer_study.timing import Timed, time_task

    if given.redraw is not None:
        kept = json.loads(given.redraw.read_text(encoding="utf-8"))
        text = page([Timed(**one) for one in kept["found"]], Run(**kept["run"]))
        given.out.write_text(text, encoding="utf-8")
        return 0
    run = this_run((given.rounds, given.slow_rounds), given.wall)
    for peer in PACKAGES:
        if not installed(peer):
            print(f"{peer} is not installed and left out: pip install {PACKAGES[peer]}", flush=True)
    found = []
    for name in given.networks or NAMES:
        for task in tasks(network(name)):
            if given.kinds is None or task.kind in given.kinds or task.kind == "forward":
                found.append(time_task(task, given.slow_rounds if task.slow else given.rounds, given.wall))
                print(found[-1].sentence(), flush=True)
                given.out.write_text(page(found, run), encoding="utf-8")
                if given.json is not None:
                    kept = {"run": asdict(run), "found": [asdict(one) for one in found]}
                    given.json.write_text(json.dumps(kept, indent=1), encoding="utf-8")
    print(f"written: {given.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
