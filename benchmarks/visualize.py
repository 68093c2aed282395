"""How well class visualization works: ``python benchmarks/visualize.py [--classes 10] [--steps 128]``.

For evenly spread ImageNet classes of EfficientNet-Lite0 and SqueezeNet 1.1: does the deployed file name the class first
on the picture, how far is the score above the largest of any photo of scikit-image, and how long does it take.
Prints one row for each network and writes them as JSON where asked.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import onnxvis
from onnxvis.behaviour.visualization import visualize
from onnxvis.demo import imagenet_labels, lite0, photo

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from support import squeezenet

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "hubble_deep_field.jpg", "ihc.png")


def measure(name: str, model: onnxvis.Model, classes: list[int], recipe: str, steps: int) -> dict[str, Any]:
    """One row."""
    photos = [path for path in map(photo, PHOTOS) if path.is_file()]
    x = np.concatenate([model.prepare(path).tensor for path in photos])
    natural = model.engine.forward(x, (model.logits.tensor,))[model.logits.tensor].max()
    ranks, ratios, seconds, cpu = [], [], [], []
    for index in classes:
        began = time.process_time()
        found = visualize(model, index, recipe=recipe, steps=steps)[0]
        cpu.append(time.process_time() - began)
        order = [c.index for c in found.best.prediction.top]
        ranks.append(order.index(index) + 1 if index in order else len(order) + 1)
        ratios.append(found.score / float(natural))
        seconds.append(found.seconds)
        print(f"{name} {found.target}: {found.score:+.1f}, rank {ranks[-1]}", file=sys.stderr, flush=True)
    return {
        "network": name,
        "recipe": recipe,
        "steps": steps,
        "classes": len(classes),
        "named first": sum(rank == 1 for rank in ranks),
        "named among five": sum(rank <= 5 for rank in ranks),
        "score / largest logit of any class on any photo: least": round(min(ratios), 2),
        "median": round(float(np.median(ratios)), 2),
        "seconds, median": round(float(np.median(seconds)), 1),
        "CPU seconds, median": round(float(np.median(cpu)), 1),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--recipe", default="legible")
    parser.add_argument("--gradients", default="onnx")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    classes = [int(i) for i in np.linspace(0, 999, given.classes).round()]
    networks = {
        "EfficientNet-Lite0": onnxvis.load(lite0(), gradients=given.gradients),
        "SqueezeNet 1.1": onnxvis.load(
            squeezenet.export(),
            preprocessing=squeezenet.PREPROCESSING,
            labels=imagenet_labels(),
            gradients=given.gradients,
        ),
    }
    rows = [measure(name, model, classes, given.recipe, given.steps) for name, model in networks.items()]
    for row in rows:
        print("\n".join(f"{key:<55} {value}" for key, value in row.items()), end="\n\n")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
