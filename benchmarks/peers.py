"""The same work by onnxvis, Captum, pytorch-grad-cam, torchcam and DIANNA, interleaved in one run.

Run ``python benchmarks/peers.py``; it writes docs/benchmarks.md. A peer that is not installed is left out, with
a message: ``pip install captum grad-cam torchcam dianna``.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from peer_study.networks import NAMES, network
from peer_study.page import page
from peer_study.tasks import PACKAGES, installed, tasks
from peer_study.timing import Timed, time_task

DEFAULT = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def show(timed: Timed) -> None:
    parts = [f"{who} {timed.median(who):.1f}" for who in timed.times]
    parts += [f"{who} FAILED {why}" for who, why in timed.failures.items()]
    print(f"{timed.network:20} {timed.kind:16} {timed.batch:2}  {', '.join(parts)}  ms per image", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="*", default=list(NAMES), choices=NAMES)
    parser.add_argument("--kinds", nargs="*", help="only these: forward, saliency, grad-cam, occlusion, rise, ...")
    parser.add_argument("--rounds", type=int, default=9, help="of tasks of milliseconds")
    parser.add_argument("--slow-rounds", type=int, default=3, help="of tasks of seconds")
    parser.add_argument("--out", type=Path, default=DEFAULT)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for peer in PACKAGES:
        if not installed(peer):
            print(f"{peer} is not installed and left out: pip install {PACKAGES[peer]}", flush=True)
    found = []
    for name in given.networks:
        for task in tasks(network(name)):
            if given.kinds is None or task.kind in given.kinds or task.kind == "forward":
                found.append(time_task(task, given.slow_rounds if task.slow else given.rounds))
                show(found[-1])
    given.out.write_text(page(found, given.rounds, given.slow_rounds), encoding="utf-8")
    print(f"written: {given.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
