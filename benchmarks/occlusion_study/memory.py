"""Seconds and memory as the positions of a map grow: a process for each row, so that peaks do not mix."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

from occlusion_study.networks import export

__all__ = ["rows"]

CASES = (("resnet18", 224, (32, 16, 8)), ("squeezenet1_1", 224, (32, 16, 8)), ("squeezenet1_1", 448, (32, 16)))
SCRIPT = """
    import json, resource, sys, time
    sys.path[:0] = {paths!r}
    import numpy as np, onnxvis
    from support import zoo
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    model = onnxvis.load({path!r}, provider="cpu")
    x = zoo.image({size})
    model.predict(x); _ = model.shapes, model.canonical
    before = peak()
    model.engine.forward(np.repeat(x, 8, axis=0), (model.logits.tensor,), 8)
    batch = peak()
    options = dict(window=32, stride={stride}, engine={engine!r}, exact_check="none")
    onnxvis.explain(model, x, "occlusion", 0, **options)
    began = time.process_time()
    found = onnxvis.explain(model, x, "occlusion", 0, **options).parameters
    print(json.dumps([found["positions"], found["engine"], time.process_time() - began, before, batch, peak()]))
"""


def rows(names: list[str]) -> Iterator[str]:
    """The lines of the table."""
    yield (
        "| network | pixels | stride | positions | engine | CPU s | ms each | peak MB: one picture | batch of 8 | "
        "the map | the map / a batch |"
    )
    yield "|---|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|"
    for name, size, strides in CASES:
        if names and name not in names:
            continue
        for engine in ("plain", "incremental"):
            for stride in strides:
                yield _row(name, size, stride, engine)


def _row(name: str, size: int, stride: int, engine: str) -> str:
    root = Path(__file__).resolve().parents[2]
    script = textwrap.dedent(SCRIPT).format(
        paths=[str(root / "tests")], path=str(export(name, size)), size=size, stride=stride, engine=engine
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    positions, ran, seconds, before, batch, peak = json.loads(done.stdout.splitlines()[-1])
    return (
        f"| {name} | {size} | {stride} | {positions} | {ran} | {seconds:.2f} | {seconds / positions * 1e3:.2f} | "
        f"{before:.0f} | {batch:.0f} | {peak:.0f} | {peak / batch:.2f} |"
    )
