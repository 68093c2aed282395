"""What an explanation inside the file costs, and what a gradient costs without torch: ratios on one CPU thread.

Run ``python benchmarks/onnx_gradients.py [--rounds N] [--zoo NAME ...]``. For each network and batch:

* ``embedded``: the file with Grad-CAM (up-sampled) inside, against the file as it is, both in plain onnxruntime;
* ``idle``: the file with saliency inside on request, which is not asked for, against the file as it is;
* ``saliency``: the gradient of one logit by the picture made of ONNX operators in onnxruntime, against torch's
  forward and backward pass through the same graph (its parameters frozen, torch's best case).

The two sides of a ratio alternate call by call; it is that of their medians, with the smallest and largest ratio of
neighbors in parentheses.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch

import onnxvis
from onnxvis.converters import convert
from onnxvis.demo import lite0
from onnxvis.embedding import embed
from onnxvis.graph.gradient import build_vjp

SIZE = 224


def session(model: onnx.ModelProto) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def clock(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def ratio(first: Callable[[], object], second: Callable[[], object], rounds: int) -> str:
    """Time of the first in units of the second."""
    for call in (first, second):
        call()
        call()
    pairs = [(clock(first), clock(second)) for _ in range(rounds)]
    middle = statistics.median(a for a, _ in pairs) / statistics.median(b for _, b in pairs)
    each = sorted(a / b for a, b in pairs)
    return f"{middle:.2f} ({each[0]:.2f} to {each[-1]:.2f})"


def embedded(model: onnxvis.Model, x: np.ndarray, rounds: int) -> str:
    plain, explained = session(model.file.proto), session(embed(model, upsample=True).proto)
    feeds = {model.image_input.name: x}
    return ratio(lambda: explained.run(None, feeds), lambda: plain.run(None, feeds), rounds)


def idle(model: onnxvis.Model, x: np.ndarray, rounds: int) -> str:
    plain, explained = session(model.file.proto), session(embed(model, "saliency", on_request=True).proto)
    feeds = {model.image_input.name: x}
    return ratio(lambda: explained.run(None, feeds), lambda: plain.run(None, feeds), rounds)


def saliency(model: onnxvis.Model, x: np.ndarray, rounds: int) -> str:
    graph, name, logits = model.canonical.model, model.image_input.name, model.logits.tensor
    gradient = session(build_vjp(graph, logits, [name], "seed"))
    twin = convert(graph)
    shape = (len(x), *model.shapes[logits][1:])
    seed = np.zeros(shape, np.float32)
    seed.reshape(len(x), -1)[:, 5] = 1
    feeds, wanted = {name: x, "seed": seed}, [f"gradient/{name}"]

    def in_torch() -> None:
        tensor = torch.from_numpy(x).requires_grad_()
        torch.autograd.grad(twin({name: tensor}, [logits])[logits], tensor, torch.from_numpy(seed))

    return ratio(lambda: gradient.run(wanted, feeds), in_torch, rounds)


def networks(names: list[str]) -> list[tuple[str, onnxvis.Model]]:
    found = [("efficientnet-lite0 (trained)", onnxvis.load(lite0("dynamo"), provider="cpu"))]
    if names:
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
        from support import zoo

        for name in names:
            path = zoo.export(name, "dynamo", 18, SIZE, dynamic_batch=True)  # type: ignore[arg-type]
            found.append((name, onnxvis.load(path, provider="cpu")))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--zoo", nargs="*", default=[], help="random-weight torchvision networks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'network':<30} {'batch':>5}  {'embedded / file':<22}  {'idle / file':<22}  saliency, onnxruntime / torch")
    for name, model in networks(options.zoo):
        for batch in (1, 8):
            x = np.random.default_rng(0).standard_normal((batch, 3, SIZE, SIZE)).astype(np.float32)
            row = [measure(model, x, options.rounds) for measure in (embedded, idle, saliency)]
            print(f"{name:<30} {batch:>5}  {row[0]:<22}  {row[1]:<22}  {row[2]}", flush=True)


if __name__ == "__main__":
    main()
