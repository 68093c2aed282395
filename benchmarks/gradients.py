"""The time of a gradient map on an exported file, against Captum on the torch network it came from.

Run ``python benchmarks/gradients.py [--threads N] [--repeats N]``. Both sides get EfficientNet-Lite0 (and, with
``--zoo``, random-weight torchvision networks) and the same prepared pictures; they alternate call by call and
are compared by their medians, in wall time and in CPU time (all threads; it hardly depends on what else the
machine does). The time of onnxvis is that of the whole explanation: the answer of the deployed
graph in onnxruntime, the gradient, the parity record. Captum's is ``attribute`` alone. Before the clock starts
each side has run once, so the model is converted and the gradient checked, as in any run after the first.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from captum.attr import GuidedBackprop, Saliency

import onnxvis
from onnxvis.demo import lite0, lite0_module, photo

METHODS = {
    "saliency": lambda net: lambda x, target: Saliency(net).attribute(x, target, abs=False),
    "guided-backprop": lambda net: GuidedBackprop(net).attribute,
}
PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png")


def clock(call: Callable[[], object]) -> np.ndarray:
    """Wall and CPU milliseconds."""
    start = time.perf_counter(), time.process_time()
    call()
    return 1e3 * np.subtract((time.perf_counter(), time.process_time()), start)


def networks(names: list[str]) -> list[tuple[str, onnxvis.Model, torch.nn.Module]]:
    found = [(f"lite0, {e} export", onnxvis.load(lite0(e)), lite0_module()) for e in ("dynamo", "legacy")]
    if names:
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
        from support import zoo

        for name in names:
            path = zoo.export(name, "legacy", 17, 224, dynamic_batch=True)
            found.append((f"{name}, random weights", onnxvis.load(path), zoo.torch_module(name)))
    return found


def images(model: onnxvis.Model, batch: int) -> list[Any]:
    if model.preprocessing is None:
        return list(np.random.default_rng(0).standard_normal((batch, 1, 3, 224, 224)).astype(np.float32))
    return [model.prepare(photo(PHOTOS[i % len(PHOTOS)])).tensor for i in range(batch)]


def compare(model: onnxvis.Model, net: torch.nn.Module, method: str, batch: int, repeats: int) -> np.ndarray:
    """Medians ``(side, wall or CPU)`` of onnxvis and Captum, milliseconds per picture."""
    prepared = images(model, batch)
    x = torch.from_numpy(np.concatenate(prepared))
    theirs = METHODS[method](net)
    classes = net(x).argmax(dim=1)

    def ours() -> object:
        return onnxvis.explain(model, prepared, method, [int(c) for c in classes], allow_unverified=True)

    def captum() -> object:
        return theirs(x.clone().requires_grad_(), target=classes)

    times: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for call in (ours, captum):
        call()
    for _ in range(repeats):
        for call, kept in zip((ours, captum), times, strict=True):
            kept.append(clock(call))
    return np.median(np.array(times), axis=1) / batch


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--zoo", nargs="*", default=[], help="networks of tests/support/zoo.py")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    warnings.simplefilter("ignore")
    print(f"{given.threads} torch threads, torch {torch.__version__}, medians of {given.repeats} interleaved calls\n")
    head = f"{'network':32} {'method':16} {'batch':>5}"
    print(head + "".join(f" {what:>8} {'Captum':>8} {'ratio':>6}" for what in ("wall", "CPU")) + "   ms per picture")
    for name, model, net in networks(given.zoo):
        for method in METHODS:
            for batch in (1, 8):
                (wall, cpu), (their_wall, their_cpu) = compare(model, net, method, batch, given.repeats)
                row = f"{name:32} {method:16} {batch:5} {wall:8.1f} {their_wall:8.1f} {wall / their_wall:6.2f}"
                print(f"{row} {cpu:8.1f} {their_cpu:8.1f} {cpu / their_cpu:6.2f}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
