"""docs/benchmarks.md from the times."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from onnxvis.machine import Ceiling, describe_machine, measure_ceiling
from onnxvis.provenance import versions
from onnxvis.runtime.providers import choose_provider
from peer_study.tasks import ONNXVIS, PACKAGES, installed
from peer_study.timing import Timed

__all__ = ["Run", "page", "this_run"]

_MULTIPLY_ADDS = {"resnet18": 1.814e9, "squeezenet1_1": 0.349e9, "mobilenet_v2": 0.301e9, "efficientnet-lite0": 0.386e9}


@dataclass(frozen=True)
class Goal:
    """How many times as fast as a peer a task should be."""

    kind: str
    network: str
    batch: int
    peer: str
    least: float


_ALL = tuple(_MULTIPLY_ADDS)
GOALS = (
    Goal("occlusion", "resnet18", 1, "Captum", 3.0),
    Goal("occlusion", "squeezenet1_1", 1, "Captum", 8.0),
    Goal("occlusion", "mobilenet_v2", 1, "Captum", 5.0),
    *(Goal("grad-cam", name, 8, peer, 4.0) for name in _ALL for peer in ("pytorch-grad-cam", "Captum")),
    *(Goal(kind, name, batch, "Captum", 1.0)
      for kind in ("saliency", "guided-backprop") for name in _ALL for batch in (1, 8)),
)  # fmt: skip
FORWARDS = 1.3
"""Goal for Grad-CAM at batch 8, in plain forward passes."""

_WALL = f"Seconds on the clock; {torch.get_num_threads()} torch threads, onnxruntime with its default."
_PROCESSOR = (
    "Every contender has one thread, and times are processor time: other programs ran on the machine, and seconds on "
    "the clock would measure them. How well anybody uses several cores is not measured here."
)

INTRODUCTION = """# Benchmarks

The same work by onnxvis on the exported file and by Captum, pytorch-grad-cam, torchcam and DIANNA. This page is
written by one command, which measures everything anew:

```sh
pip install captum grad-cam torchcam dianna         # each is optional; what is missing is left out
python benchmarks/peers.py
```

`onnxvis bench MODEL` does the same for the methods of onnxvis alone, on your own file.

## What is compared

- **onnxvis** is timed for the whole explanation of prepared inputs: the answer of the deployed file in onnxruntime,
  the method, the parity record, the finished value. Conversion, sessions and the finite-difference check of the
  gradient happen once per model, in a warm-up call, as in any process that explains more than one picture.
- **The peers** are timed for their one call, which checks nothing and does not report the answer; of Captum's
  settings for occlusion (`perturbations_per_eval` 1 and 16) the faster one counts. Parameters are frozen and the input
  requires a gradient: the cheapest setting in which all of them work.
- Everything runs in turn, in one process: in each round every contender makes one call. Times are medians of the
  rounds, ratios are medians of the ratios *within* a round with the smallest and the largest in parentheses. A ratio
  above 1 means that onnxvis is faster.
- Pictures are 224 x 224 noise. Weights are random, but for EfficientNet-Lite0, which is trained; time does not depend
  on them.
- *Difference* is the largest difference of the peer's raw map from ours, relative to the largest value of ours, on the
  same float32 input. Deep untrained ReLU networks amplify rounding, so 1e-2 is possible between two right answers. """

REMARKS = """## Why some goals are missed

- **The forward pass.** onnxruntime against eager torch is a part of every ratio, and no work of ours: it is the first
  table. The denser the network, the smaller it is.
- **Saliency and guided backprop** need one forward and one backward pass through the whole network. Both sides run them
  in torch, on the same operators. On top of that onnxvis asks the deployed file for its answer, one forward pass in
  onnxruntime, and compares the two: that check is most of the difference where the ratio is below 1.
- **Grad-CAM.** onnxvis runs the deployed file once and differentiates from the layer on; Captum too goes back no
  further than the layer. Against it the ratio cannot pass that of the two forward passes. pytorch-grad-cam goes
  back through the whole network. What onnxvis adds to its one
  forward pass is the derivative of the head, float64 sums over the units, the enlarged map and the record of the
  result: a fixed part of a millisecond for a picture, which weighs more the smaller the network.
- **Occlusion** recomputes only what a window changes, where its planner finds that this pays. The ratio to Captum is
  the ratio of the forward passes times the work that is saved; the late layers see every window whole, and save
  nothing, which bounds the second factor for ResNets at this size of picture. A larger stride has fewer positions to
  spread the pass over the whole picture and the check of a few positions on. A row that takes about as many forward
  passes as it has positions ran whole pictures: a map that would save less than a plan costs runs whole, until the maps
  of that size together would have paid for one. [Occlusion](methods/occlusion.md#figures) has more networks and
  sizes, with the plan kept.
- **RISE** costs what its forward passes cost. DIANNA runs the same file in onnxruntime, so the engine is no advantage
  there; it opens the file anew in each call, interpolates each mask by a general resize, and makes all masked pictures
  before the first runs. Its search for the share of visible places (900 more passes by default) was switched off, and
  so was our stopping.
"""


def page(found: Sequence[Timed], run: Run) -> str:
    """The whole page."""
    sections = [
        INTRODUCTION.rstrip(),
        run.conditions,
        _forward(found, run.gflops),
        _gradients(found),
        _grad_cam(found, "grad-cam", "Grad-CAM"),
        _grad_cam(found, "embedded", "Grad-CAM inside the file, run by onnxruntime alone"),
        _slow(found, "occlusion", "Occlusion"),
        _slow(found, "rise", "RISE"),
        _goals(found),
        _missing(found),
        REMARKS,
    ]
    return "\n\n".join(section.rstrip() for section in sections if section) + "\n"


@dataclass(frozen=True)
class Run:
    """Under which conditions the times were taken.

    Attributes:
        conditions: for people.
        gflops: the measured ceiling.
    """

    conditions: str
    gflops: float


def this_run(rounds: tuple[int, int], wall: bool) -> Run:
    """Measure the ceiling, and look at the machine and the packages."""
    ceiling = measure_ceiling(choose_provider("cpu"), time.perf_counter if wall else time.process_time)
    return Run(_conditions(ceiling, rounds, wall), ceiling.gflops)


def _conditions(ceiling: Ceiling, rounds: tuple[int, int], wall: bool) -> str:
    machine = describe_machine()
    packages = {"captum": "captum", **{v: v for v in PACKAGES.values()}, "torchvision": "torchvision"}
    have = {**versions(), **{p: importlib.metadata.version(p) for p in packages if _there(p)}}
    return "\n".join(
        [
            "## This run",
            "",
            f"- {machine['processor']}, {machine['cpus']} CPUs; {machine['system']}.",
            f"- {_WALL if wall else _PROCESSOR} Load average {machine.get('load_average', 'unknown')} at the start.",
            f"- Measured ceiling in float32: {ceiling.gflops:.0f} GFLOP/s ({ceiling.what}).",
            f"- {rounds[0]} rounds, {rounds[1]} for occlusion and RISE, after one call to warm up. Of Captum's "
            "settings for occlusion the one that was slower in the first call got no other.",
            f"- {', '.join(f'{name} {version}' for name, version in sorted(have.items()))}.",
        ]
    )


def _there(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [" | ".join(head), "|".join(["---"] + ["--:"] * (len(head) - 1)), *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line} |" if i != 1 else f"|{line}|" for i, line in enumerate(lines))


def _ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _times(ratio: tuple[float, float, float]) -> str:
    middle, low, high = ratio
    return f"{middle:.2f} ({low:.2f}-{high:.2f})"


def _one(found: Sequence[Timed], kind: str, network: str, batch: int) -> Timed | None:
    return next((t for t in found if (t.kind, t.network, t.batch) == (kind, network, batch)), None)


def _forwards(found: Sequence[Timed], timed: Timed) -> float:
    unit = _one(found, "forward", timed.network, timed.batch)
    return timed.median(ONNXVIS) / unit.median(ONNXVIS) if unit else float("nan")


def _forward(found: Sequence[Timed], gflops: float) -> str:
    rows = []
    for timed in (t for t in found if t.kind == "forward"):
        ms = timed.median(ONNXVIS)
        part = 2 * _MULTIPLY_ADDS[timed.network] / (ms * 1e6) / gflops
        rows.append([timed.network, str(timed.batch), _ms(ms), f"{part:.0%}", _ms(timed.median("torch")),
                     _times(timed.ratio("torch"))])  # fmt: skip
    head = ["network", "batch", "onnxruntime, ms", "of the ceiling", "torch, ms", "torch / onnxruntime"]
    return "## A plain forward pass\n\nThe unit of the tables below. Times are per image.\n\n" + _table(head, rows)


def _gradients(found: Sequence[Timed]) -> str:
    rows = [
        [t.kind, t.network, str(t.batch), _ms(t.median(ONNXVIS)), f"{_forwards(found, t):.2f}",
         _ms(t.median("Captum")), _times(t.ratio("Captum")), _difference(t, "Captum")]
        for t in found if t.kind in ("saliency", "guided-backprop") and "Captum" in t.times
    ]  # fmt: skip
    head = ["method", "network", "batch", "onnxvis, ms", "forward passes", "Captum, ms", "ratio", "difference"]
    note = (
        "Captum's guided backprop changes the backward pass of `ReLU` and leaves `ReLU6` as it is; ours changes both, "
        "so the maps of networks with ReLU6 (MobileNet-v2, EfficientNet-Lite0) differ by definition."
    )
    return "## Gradients of the input\n\n" + _table(head, sorted(rows)) + f"\n\n{note}" if rows else ""


def _difference(timed: Timed, who: str) -> str:
    if who not in timed.differences:
        return "-"
    return f"{timed.differences[who]:.0e}" if timed.differences[who] else "0"


def _grad_cam(found: Sequence[Timed], kind: str, title: str) -> str:
    peers = ("Captum", "pytorch-grad-cam", "torchcam")
    rows = []
    for timed in (t for t in found if t.kind == kind):
        ratios = [f"{_ms(timed.median(p))}: {_times(timed.ratio(p))}" if p in timed.times else "-" for p in peers]
        rows.append([timed.network, str(timed.batch), _ms(timed.median(ONNXVIS)), f"{_forwards(found, timed):.2f}",
                     *ratios, _difference(timed, "Captum")])  # fmt: skip
    head = ["network", "batch", "onnxvis, ms", "forward passes", *(f"{p}, ms: ratio" for p in peers), "difference"]
    return f"## {title}\n\n" + _table(head, rows) if rows else ""


def _slow(found: Sequence[Timed], kind: str, title: str) -> str:
    rows = []
    for timed in (t for t in found if t.kind == kind):
        others = sorted({who.split(",")[0] for who in timed.times} - {ONNXVIS})
        best = [timed.best(peer) for peer in others]
        text = [f"{who} {_ms(timed.median(who))}: {_times(timed.ratio(who))}" for who in best]
        differences = " ".join(_difference(timed, who) for who in best)
        rows.append([timed.network, timed.detail, _ms(timed.median(ONNXVIS)), f"{_forwards(found, timed):.1f}",
                     "; ".join(text) or "-", differences or "-"])  # fmt: skip
    head = ["network", "work", "onnxvis, ms", "forward passes", "best of the peer, ms: ratio", "difference"]
    return f"## {title}\n\n" + _table(head, rows) if rows else ""


def _goals(found: Sequence[Timed]) -> str:
    rows = []
    for goal in GOALS:
        for timed in found:
            names = {who.split(",")[0] for who in timed.times}
            if (timed.kind, timed.network, timed.batch) != (
                goal.kind,
                goal.network,
                goal.batch,
            ) or goal.peer not in names:
                continue
            ratio = timed.ratio(timed.best(goal.peer))
            work = timed.detail or f"batch {timed.batch}"
            reached = "yes" if ratio[0] >= goal.least else "**no**"
            rows.append([goal.kind, goal.network, work, f"{goal.least:g} x {goal.peer}", _times(ratio), reached])
    for timed in (t for t in found if t.kind == "grad-cam" and t.batch > 1):
        count = _forwards(found, timed)
        reached = "yes" if count <= FORWARDS else "**no**"
        rows.append([timed.kind, timed.network, f"batch {timed.batch}", f"{FORWARDS:g} forward passes", f"{count:.2f}",
                     reached])  # fmt: skip
    head = ["method", "network", "work", "goal", "measured", "reached"]
    return "## Goals\n\n" + _table(head, rows) if rows else ""


def _missing(found: Sequence[Timed]) -> str:
    lines = [f"- {peer} was not installed." for peer in PACKAGES if not installed(peer)]
    lines += [f"- {who} could not do {t.kind} on {t.network}: {why}" for t in found for who, why in t.failures.items()]
    return "## Left out\n\n" + "\n".join(lines) if lines else ""
