"""docs/benchmarks.md from the times."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from onnxvis.machine import Ceiling, describe_machine, measure_ceiling
from onnxvis.provenance import versions
from onnxvis.runtime.providers import choose_provider
from peer_study.tasks import ONNXVIS, PACKAGES, installed
from peer_study.timing import Timed

__all__ = ["page"]

_MULTIPLY_ADDS = {"resnet18": 1.814e9, "squeezenet1_1": 0.349e9, "mobilenet_v2": 0.301e9, "efficientnet-lite0": 0.386e9}


@dataclass(frozen=True)
class Goal:
    """How many times as fast as a peer a task should be."""

    kind: str
    network: str
    batch: int
    peers: tuple[str, ...]
    least: float


_CAM_PEERS = ("pytorch-grad-cam", "Captum")
_ALL = tuple(_MULTIPLY_ADDS)
GOALS = (
    Goal("occlusion", "resnet18", 1, ("Captum",), 3.0),
    Goal("occlusion", "squeezenet1_1", 1, ("Captum",), 8.0),
    Goal("occlusion", "mobilenet_v2", 1, ("Captum",), 5.0),
    *(Goal("grad-cam", name, 8, _CAM_PEERS, 4.0) for name in _ALL),
    *(Goal(kind, name, batch, ("Captum",), 1.0)
      for kind in ("saliency", "guided-backprop") for name in _ALL for batch in (1, 8)),
)  # fmt: skip
FORWARDS = 1.3
"""Goal for Grad-CAM at batch 8, in plain forward passes."""

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
- **The peers** are timed for their one call. Captum and pytorch-grad-cam do not check anything and do not report
  the answer; of Captum's settings for occlusion the faster one counts. Parameters are frozen and the input requires a
  gradient: the cheapest setting in which all of them work.
- Everything runs in turn, in one process: in each round every contender makes one call. Times are medians of the
  rounds, ratios are medians of the ratios *within* a round with the smallest and the largest in parentheses. A ratio
  above 1 means that onnxvis is faster.
- Pictures are 224 x 224 noise. Weights are random, but for EfficientNet-Lite0, which is trained; time does not depend
  on them.
- *Difference* is the largest difference of the peer's raw map from ours, relative to the largest value of ours, on the
  same float32 input. Deep untrained ReLU networks amplify rounding, so 1e-2 is possible between two right answers. """

REMARKS = """## What stands behind the figures

- **The forward pass** is onnxruntime against eager torch: the graph is optimized once, operators are fused and weights
  laid out for the processor. That part of every advantage is not our doing.
- **Saliency and guided backprop** need a full backward pass, which both sides run in torch, plus our forward pass in
  onnxruntime that says what the deployed file answers. So a forward pass of lead is spent on the check.
- **Grad-CAM** runs the trunk in onnxruntime and differentiates only the tail; the ratio to the peers grows with the
  share of the network that lies before the layer. What remains above one forward pass is the tail, enlarging the map,
  and building the result with its provenance, a cost per picture that weighs most on the smallest networks.
- **Occlusion** computes again only what a window changes, where the planner finds that this pays. The ratio to Captum
  is the product of two: the engine, and the saved work. The saved work is bounded by how much of the network sees a
  window: late layers see all of it.
- **RISE** costs what its forward passes cost. DIANNA runs the same file in onnxruntime, so the engine is no advantage
  there; what differs is making the masks and holding all masked pictures in memory. Its search for the share of
  visible places (900 more passes by default) was switched off, our stopping rule too.
"""


def page(found: Sequence[Timed], rounds: int, slow_rounds: int) -> str:
    """The whole page."""
    ceiling = measure_ceiling(choose_provider("cpu"))
    sections = [
        INTRODUCTION.rstrip(),
        _conditions(ceiling, rounds, slow_rounds),
        _forward(found, ceiling),
        _gradients(found),
        _grad_cam(found),
        _slow(found, "occlusion", "Occlusion"),
        _slow(found, "rise", "RISE"),
        _goals(found),
        _missing(found),
        REMARKS,
    ]
    return "\n\n".join(section.rstrip() for section in sections if section) + "\n"


def _conditions(ceiling: Ceiling, rounds: int, slow_rounds: int) -> str:
    machine = describe_machine()
    packages = {"captum": "captum", **{v: v for v in PACKAGES.values()}, "torchvision": "torchvision"}
    have = {**versions(), **{p: importlib.metadata.version(p) for p in packages if _there(p)}}
    return "\n".join(
        [
            "## This run",
            "",
            f"- {machine['processor']}, {machine['usable_cpus']} CPUs usable, shared with other programs (load average "
            f"{machine.get('load_average', 'unknown')} at the end: trust the ratios, not the milliseconds); "
            f"{machine['system']}.",
            f"- {torch.get_num_threads()} torch threads; onnxruntime with its default number of threads.",
            f"- Measured ceiling in float32: {ceiling.gflops:.0f} GFLOP/s ({ceiling.what}).",
            f"- {rounds} rounds, {slow_rounds} for occlusion and RISE, after one call to warm up.",
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


def _forward(found: Sequence[Timed], ceiling: Ceiling) -> str:
    rows = []
    for timed in (t for t in found if t.kind == "forward"):
        ms = timed.median(ONNXVIS)
        part = 2 * _MULTIPLY_ADDS[timed.network] / (ms * 1e6) / ceiling.gflops
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
        "Captum's guided backprop changes the backward pass of `ReLU` and leaves `ReLU6` as it is; ours changes both, so "
        "the maps of networks with ReLU6 (MobileNet-v2, EfficientNet-Lite0) differ by definition."
    )
    return "## Gradients of the input\n\n" + _table(head, sorted(rows)) + f"\n\n{note}" if rows else ""


def _difference(timed: Timed, who: str) -> str:
    return f"{timed.differences[who]:.0e}" if who in timed.differences else "-"


def _grad_cam(found: Sequence[Timed]) -> str:
    peers = ("Captum", "pytorch-grad-cam", "torchcam")
    rows = []
    for timed in (t for t in found if t.kind == "grad-cam"):
        ratios = [f"{_ms(timed.median(p))}: {_times(timed.ratio(p))}" if p in timed.times else "-" for p in peers]
        rows.append([timed.network, str(timed.batch), _ms(timed.median(ONNXVIS)), f"{_forwards(found, timed):.2f}",
                     *ratios, _difference(timed, "Captum")])  # fmt: skip
    head = ["network", "batch", "onnxvis, ms", "forward passes", *(f"{p}, ms: ratio" for p in peers), "difference"]
    return "## Grad-CAM\n\n" + _table(head, rows) if rows else ""


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
            if (timed.kind, timed.network, timed.batch) != (goal.kind, goal.network, goal.batch):
                continue
            have = [timed.ratio(timed.best(p)) for p in goal.peers if p in {w.split(",")[0] for w in timed.times}]
            if have:
                worst = min(have)
                work = timed.detail or f"batch {timed.batch}"
                rows.append([goal.kind, goal.network, work, f"{goal.least:g}", _times(worst),
                             "yes" if worst[0] >= goal.least else "**no**"])  # fmt: skip
    for timed in (t for t in found if t.kind == "grad-cam" and t.batch > 1):
        count = _forwards(found, timed)
        rows.append(["grad-cam, forward passes", timed.network, f"batch {timed.batch}", f"at most {FORWARDS:g}",
                     f"{count:.2f}", "yes" if count <= FORWARDS else "**no**"])  # fmt: skip
    head = ["method", "network", "work", "goal: ratio of at least", "measured", "reached"]
    words = "Against the slowest-to-beat peer: Captum, and for Grad-CAM the better of Captum and pytorch-grad-cam."
    return f"## Goals\n\n{words}\n\n" + _table(head, rows) if rows else ""


def _missing(found: Sequence[Timed]) -> str:
    lines = [f"- {peer} was not installed." for peer in PACKAGES if not installed(peer)]
    lines += [f"- {who} could not do {t.kind} on {t.network}: {why}" for t in found for who, why in t.failures.items()]
    return "## Left out\n\n" + "\n".join(lines) if lines else ""
