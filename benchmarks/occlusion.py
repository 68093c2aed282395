"""Occlusion: seconds and exactness, against plain batched onnxruntime and against Captum.

    python benchmarks/occlusion.py                         # the table of ratios (about a quarter of an hour)
    python benchmarks/occlusion.py speed resnet18 vgg16    # some networks
    python benchmarks/occlusion.py exact                   # largest error over networks, exporters, windows, strides

Everything of one row runs in one process, interleaved, one thread each, and is compared by CPU time (medians), so
that other work on the machine moves a ratio little. Captum explains the original torch module at its better
``perturbations_per_eval`` of 1 and 16. onnxvis is timed as it is used: with its check of a few positions, and
with the plan kept from a first call; the time of that first call, planning included, is a column of its own.
"""

from __future__ import annotations

import argparse
import functools
import gc
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
_options = ort.SessionOptions


def one_thread() -> Any:
    """Options of a session that runs on one thread."""
    options = _options()
    options.intra_op_num_threads = 1
    return options


ort.SessionOptions = one_thread

from support import zoo  # noqa: E402 - the tests' own networks
from support.incremental import all_logits, graphs_of, relative, whole_logits  # noqa: E402

import onnxvis  # noqa: E402
from onnxvis.demo import lite0, photo  # noqa: E402
from onnxvis.kernels.occlusion import windows  # noqa: E402
from onnxvis.runtime.incremental import Refusal, Weights, build  # noqa: E402

zoo._MORE.setdefault("vgg16", {})
WINDOW = 32
# name, size, stride, repeats, Captum too
SPEED = (
    ("resnet18", 224, 16, 3, True),
    ("resnet50", 224, 32, 3, True),
    ("squeezenet1_1", 224, 16, 3, True),
    ("mobilenet_v2", 224, 16, 3, True),
    ("googlenet", 224, 16, 3, True),
    ("vgg16", 224, 32, 2, True),
    ("densenet121", 224, 32, 2, True),
    ("inception_v3", 299, 32, 2, False),
    ("efficientnet_b0", 224, 32, 3, False),
    ("resnet18", 448, 32, 2, True),
    ("googlenet", 448, 32, 2, True),
    ("squeezenet1_1", 448, 32, 2, False),
    ("mobilenet_v2", 448, 32, 2, False),
)
EXACT = ("vgg11", "resnet18", "resnet50", "squeezenet1_1", "googlenet", "densenet121", "mobilenet_v2", "inception_v3")


def captum(name: str, x: np.ndarray, stride: int) -> dict[str, Callable[[], object]]:
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

    return {f"captum {n}": functools.partial(run, n) for n in (1, 16)}


def speed_row(name: str, size: int, stride: int, repeats: int, peer: bool) -> str:
    """One line of the table."""
    model = onnxvis.load(zoo.export(name, "legacy", 17, size))
    x = zoo.image(size)

    def explain(engine: str) -> Any:
        return onnxvis.explain(model, x, "occlusion", 3, window=WINDOW, stride=stride, engine=engine)

    _ = model.logits, model.engine.batch_plan(x)
    calls: dict[str, Callable[[], object]] = captum(name, x, stride) if peer else {}
    calls["plain"] = lambda: explain("plain")
    calls["auto"] = lambda: explain("auto")
    began = time.process_time()
    explain("auto")
    first = time.process_time() - began
    found = explain("auto")
    times: dict[str, list[float]] = {key: [] for key in calls}
    for _ in range(repeats):
        for key, call in calls.items():
            began = time.process_time()
            call()
            times[key].append(time.process_time() - began)
    cpu = {key: statistics.median(values) for key, values in times.items()}
    whole = explain("plain").attribution
    error = float(np.abs(whole - explain("incremental").attribution).max() / np.abs(whole).max())
    p = found.parameters
    best = min((cpu[k] for k in cpu if k.startswith("captum")), default=float("nan"))
    checked = (p["exact_check"] or {}).get("largest_relative_error", float("nan"))
    return (
        f"| {name} | {size} | {stride} | {p['positions']} | {p['engine']} | {p['operations']:.0%} | {best:.2f} | "
        f"{cpu['plain']:.2f} | {cpu['auto']:.2f} | {first:.2f} | {best / cpu['auto']:.2f} | "
        f"{cpu['plain'] / cpu['auto']:.2f} | {checked:.0e} | {error:.0e} |"
    )


def speed(names: list[str]) -> None:
    """Print the table of ratios."""
    head = "network | px | stride | positions | engine | operations | Captum s | plain s | onnxvis s | first call s | "
    print(f"| {head}vs Captum | vs plain | error of the check | error of the map relative to its largest value |")
    for name, size, stride, repeats, peer in SPEED:
        if not names or name in names or f"{name}@{size}" in names:
            print(speed_row(name, size, stride, repeats, peer), flush=True)
            gc.collect()


def exact(names: list[str]) -> None:
    """Print the largest relative error of any logit at any position."""
    print("| network | exporter | px | window | stride | positions | cuts | operations | largest error |")
    for name in (*EXACT, "lite0"):
        if names and name not in names:
            continue
        for exporter, opset in (("legacy", 17), ("dynamo", 18)):
            size = {"lite0": 224, "vgg11": 224}.get(name, 128)
            trained = name == "lite0"
            model = onnxvis.load(lite0(exporter) if trained else zoo.export(name, exporter, opset, size))  # type: ignore[arg-type]
            x = model.prepare(photo()).tensor if trained else zoo.image(size)
            for window, stride in ((8, 16), (16, 16), (32, 20), (64, 32)):
                places = windows((size, size), (window, window), (stride, stride))
                runner = build(graphs_of(model, x), places, x, Weights(50.0, 1e4))
                if isinstance(runner, Refusal):
                    print(
                        f"| {name} | {exporter} | {size} | {window} | {stride} | {len(places)} | plain |", runner.reason
                    )
                    continue
                fill = np.zeros(x.shape[1:], np.float32)
                error = relative(all_logits(runner, x, fill, places), whole_logits(model, x, fill, places))
                plan = runner.plan
                print(
                    f"| {name} | {exporter} | {size} | {window} | {stride} | {len(places)} | {len(plan.cuts) - 1} | "
                    f"{plan.operations:.0%} | {error:.0e} |",
                    flush=True,
                )


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("speed", "exact"), default="speed")
    parser.add_argument("names", nargs="*", help="networks, or NETWORK@SIZE; all by default")
    arguments = parser.parse_args()
    {"speed": speed, "exact": exact}[arguments.what](arguments.names)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
