"""What the audit tools find on real trained networks, and what they cost.

Run ``python benchmarks/metrics.py PART [PHOTO ...]`` with PART one of

* ``cost``: processor seconds of each metric for one Grad-CAM, and in plain forward passes, on EfficientNet-Lite0;
* ``methods``: methods by metrics over the photos, with 95 % intervals, and how well the methods agree;
* ``drift``: EfficientNet-Lite0 against itself in float16 and int8 (both by onnxruntime's own tools), from another
  exporter, with one damaged weight, and under another preprocessing;
* ``randomization``: which methods depend on the weights, on EfficientNet-Lite0 and SqueezeNet 1.1, stage by stage.

Without photos those of scikit-image are taken. ``drift`` calibrates int8 on the photos themselves.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

import onnxvis
from onnxvis.audit.drift import compare
from onnxvis.audit.drift_page import verdict
from onnxvis.audit.metrics import agreement, get_metric, measure, metric_names, summarize
from onnxvis.audit.randomization import randomization_test
from onnxvis.demo import lite0, photo
from onnxvis.picture_files import picture_files

PHOTOS = ("chelsea.png", "coffee.png", "rocket.jpg", "astronaut.png")
METHODS = ("grad-cam", "saliency", "integrated-gradients", "guided-backprop", "occlusion")
RANDOMIZED = (
    "grad-cam", "layer-cam", "saliency", "integrated-gradients", "guided-grad-cam", "guided-backprop", "deconvnet",
)  # fmt: skip
BOX = np.array([100.0, 40.0, 350.0, 290.0])  # the cat's head in chelsea.png
DAMAGE = 3.0


def cost(photos: Sequence[str]) -> None:
    model = onnxvis.load(lite0())
    made: Any = onnxvis.explain(model, photos[0], "grad-cam")
    x = np.repeat(made.prepared.tensor, 8, axis=0)
    passes = []
    for _ in range(6):
        began = time.process_time()
        model.engine.forward(x, (model.logits.tensor,))
        passes.append((time.process_time() - began) / 8)
    each = float(np.median(passes[1:]))
    print(f"one forward pass in a batch of 8: {each * 1e3:.1f} ms of the processor")
    measure(model, [made], ["deletion"])
    for name in metric_names():
        times = []
        for _ in range(3):
            began = time.process_time()
            found = measure(model, [made], [name], masks=[BOX])[0][name]
            times.append(time.process_time() - began)
        seconds = float(np.median(times))
        print(f"{name:22} {seconds:8.3f} s {seconds / each:8.1f} passes   {found.value!s:24.24} {found.note[:70]}")


def methods(photos: Sequence[str]) -> None:
    model = onnxvis.load(lite0())
    names = [
        n for n in metric_names() if not get_metric(n).needs_mask and n not in ("sensitivity-n", "max-sensitivity")
    ]
    values: dict[tuple[str, str], list[float | None]] = {}
    tables = []
    for one in photos:
        made: Any = [onnxvis.explain(model, one, method) for method in METHODS]
        tables.append(agreement(made))
        for method, found in zip(METHODS, measure(model, made, names), strict=True):
            for name in names:
                values.setdefault((method, name), []).append(found[name].value)
    print(f"{len(photos)} photos")
    for name in names:
        cells = [summarize(values[method, name], rate=get_metric(name).rate) for method in METHODS]
        texts = [f"{m} {c.mean:.3f} [{c.low:.3f}, {c.high:.3f}]" for m, c in zip(METHODS, cells, strict=True)]
        print(f"{name} ({get_metric(name).better} is better): {'; '.join(texts)}")
    print("agreement", np.array2string(np.nanmean(tables, axis=0), precision=2, suppress_small=True))


def variants(folder: Path, photos: Sequence[str]) -> dict[str, tuple[Path, str | None]]:
    """Files that are, or are not, the same network: name to path and preprocessing."""
    from onnxruntime import quantization as q
    from onnxruntime.transformers.float16 import convert_float_to_float16

    source = onnx.load(lite0())
    half, changed = onnx.ModelProto(), onnx.ModelProto()
    half.CopyFrom(source)
    changed.CopyFrom(source)
    onnx.save(convert_float_to_float16(half, keep_io_types=True), folder / "float16.onnx")
    tensor = next(t for t in changed.graph.initializer if len(t.dims) == 4)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[5] += DAMAGE
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(changed, folder / "damaged.onnx")
    model = onnxvis.load(lite0())

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = ({"image": model.prepare(one).tensor} for one in photos[:16])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    q.quantize_static(str(lite0()), str(folder / "int8.onnx"), Reader(), per_channel=True)
    return {
        "the same file": (lite0(), None),
        "another exporter": (lite0("legacy"), None),
        "float16": (folder / "float16.onnx", None),
        "int8 (QDQ)": (folder / "int8.onnx", None),
        f"one weight of {values.size} + {DAMAGE:g}": (folder / "damaged.onnx", None),
        "ImageNet preprocessing": (lite0(), "imagenet"),
    }


def drift(photos: Sequence[str]) -> None:
    a = onnxvis.load(lite0())
    with tempfile.TemporaryDirectory() as scratch:
        for name, (path, spec) in variants(Path(scratch), photos).items():
            b = onnxvis.load(path, preprocessing=spec or a.preprocessing, labels=a.labels)
            found = compare(a, b, photos, methods=("grad-cam", "saliency"))
            print(f"{name}: {verdict(found)}")


def randomization(photos: Sequence[str]) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from support import squeezenet

    networks = {
        "EfficientNet-Lite0": onnxvis.load(lite0()),
        "SqueezeNet 1.1": onnxvis.load(squeezenet.export(), preprocessing=squeezenet.PREPROCESSING),
    }
    for name, model in networks.items():
        prepared = [model.prepare(one) for one in photos]
        found = randomization_test(model, prepared, RANDOMIZED, max_stages=6)
        print(name)
        for answer in found.verdicts:
            rows = [s for s in found.stages if s.method == answer.method]
            texts = [f"{s.parts:.0%} {'-' if s.rank_abs is None else format(s.rank_abs, '.2f')}" for s in rows]
            print(f"  {answer.method:22} {', '.join(texts)}: {answer.verdict} ({answer.value})")


PARTS: dict[str, Callable[[Sequence[str]], None]] = {
    "cost": cost,
    "methods": methods,
    "drift": drift,
    "randomization": randomization,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("photos", nargs="*")
    given = parser.parse_args()
    PARTS[given.part](picture_files(given.photos) or [str(photo(name)) for name in PHOTOS])


if __name__ == "__main__":
    main()
