"""Seconds of a map by Captum, by whole pictures in onnxruntime, and by onnxvis, interleaved."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from support import zoo

import onnxvis
from occlusion_study.networks import export

__all__ = ["rows"]

WINDOW = 32
PER_EVAL = (1, 16)
_PLAIN = (2, 8)  # whole pictures at once, of which the faster number stands for the plain way
_SPREAD = 0.97


@dataclass(frozen=True)
class Case:
    """One row.

    Attributes:
        network: its name.
        size: pixels of a side.
        stride: of the window.
        repeats: rounds.
        captum: whether Captum runs too.
        goal: ratio to reach.
        against: "Captum" or "plain".
        why: what bounds the ratio.
    """

    network: str
    size: int
    stride: int
    repeats: int = 3
    captum: bool = True
    goal: float = 0.0
    against: str = "Captum"
    why: str = ""


_TAIL = "the last stages see every window whole"
_THIN = "depthwise convolutions are bound by memory"
CASES = (
    Case("resnet18", 224, 16, goal=3, why=_TAIL),
    Case("resnet50", 224, 32, goal=3, why=_TAIL),
    Case("squeezenet1_1", 224, 16, goal=8, why="the last convolution, 40 % of what is left, sees every window whole"),
    Case("mobilenet_v2", 224, 16, goal=5, why=_THIN),
    Case(
        "vgg16",
        224,
        32,
        2,
        goal=7,
        why="the passes over the whole picture and the check cost as much as twenty of the 49 positions",
    ),
    Case("googlenet", 224, 16),
    Case("densenet121", 224, 32, 2),
    Case("resnet18", 448, 32, 2, goal=3.3, against="plain", why=_TAIL),
    Case("googlenet", 448, 32, 2, goal=4.3, against="plain"),
    Case("squeezenet1_1", 448, 32, 2),
    Case("mobilenet_v2", 448, 32, 2),
    Case("efficientnet_b0", 224, 32, captum=False),
)


def rows(names: list[str]) -> Iterator[str]:
    """The lines of the table."""
    yield (
        "| network | pixels | positions | engine | operations left | Captum, s (at once) | plain, s | onnxvis, s | "
        "first call, s | against Captum | against plain | goal | reached |"
    )
    yield "|---|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|---|---|"
    for case in CASES:
        if not names or case.network in names or f"{case.network}@{case.size}" in names:
            yield _row(case)


def _row(case: Case) -> str:
    model = onnxvis.load(export(case.network, case.size), provider="cpu")
    x = zoo.image(case.size)

    def explain(engine: str, at_once: int = 8) -> Any:
        settings = {"window": WINDOW, "stride": case.stride, "engine": engine}
        return onnxvis.explain(model, x, "occlusion", 3, batch_size=at_once, **settings)

    _ = model.logits, model.engine.batch_plan(x)
    first = _clock(lambda: explain("auto"))
    fastest = min(_PLAIN, key=lambda n: min(_clock(lambda: explain("plain", n)) for _ in range(2)))
    calls: dict[str, Callable[[], object]] = {
        "onnxvis": lambda: explain("auto"),
        "plain": lambda: explain("plain", fastest),
    }
    _ = _clock(calls["onnxvis"])
    calls |= _captum(case.network, x, case.stride) if case.captum else {}
    times: dict[str, list[float]] = {name: [] for name in calls}
    best = ""
    for _ in range(case.repeats):
        for name, call in calls.items():
            times[name].append(_clock(call))
        tried = {name: times[name][0] for name in calls if name.isdigit()}
        best = min(tried, key=tried.__getitem__) if tried else ""
        calls = {name: call for name, call in calls.items() if name == best or not name.isdigit()}
    found = explain("auto").parameters
    plain, ours = statistics.median(times["plain"]), statistics.median(times["onnxvis"])
    ratios = {
        "plain": statistics.median(a / b for a, b in zip(times["plain"], times["onnxvis"], strict=True)),
        "Captum": statistics.median(a / b for a, b in zip(times[best], times["onnxvis"], strict=True)) if best else 0.0,
    }
    engine = found["engine"]
    theirs = f"{statistics.median(times[best]):.2f} ({best})" if best else "–"
    against = f"x{ratios['Captum']:.1f}" if best else "–"
    goal, reached = "", ""
    if case.goal:
        goal = f"x{case.goal:g} {case.against}"
        part = ratios[case.against] / case.goal
        reached = "yes" if part >= 1 else "within the spread" if part >= _SPREAD else f"no: {case.why}"
    return (
        f"| {case.network} | {case.size} | {found['positions']} | {engine} | {found['operations']:.0%} | {theirs} | "
        f"{plain:.2f} | {ours:.2f} | {first:.2f} | {against} | x{ratios['plain']:.2f} | {goal} | {reached} |"
    )


def _clock(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def _captum(name: str, x: np.ndarray, stride: int) -> dict[str, Callable[[], object]]:
    """Captum's occlusion of the torch module, by ``perturbations_per_eval``."""
    import torch
    from captum.attr import Occlusion

    torch.set_num_threads(1)
    explainer = Occlusion(zoo.torch_module(name))

    def run(per_eval: int) -> object:
        with torch.no_grad():
            return explainer.attribute(
                torch.from_numpy(x),
                target=3,
                sliding_window_shapes=(3, WINDOW, WINDOW),
                strides=(3, stride, stride),
                perturbations_per_eval=per_eval,
            )

    return {str(n): functools.partial(run, n) for n in PER_EVAL}
