"""A small audit for tests: a network of a few layers, pictures in folders named like its classes, names that attack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from onnxvis.audit.report import AuditPlan
from onnxvis.model import Model, load
from support.formats import convnet

__all__ = ["HOSTILE_LABELS", "HOSTILE_NAMES", "PLAN", "labelled_pictures", "small_model"]

OWNED = "document.title='owned'"
HOSTILE_LABELS = (
    f"<script>{OWNED}</script>",
    f'"><img src=x onerror="{OWNED}">',
    f"</script><script>{OWNED}</script>",
    f"' onmouseover='{OWNED}",
    "{{ 7 * 7 }}",
    "\u202ertl \u05d0\u05d1 \u2066 and \x07 control",
    "A" * 10_000,
    f"javascript:{OWNED}",
    "--><style>body{display:none}</style>",
    "\\u003cb\\u003e",
)
HOSTILE_NAMES = (
    "<img src=x onerror=document.title='owned'>.png",
    "'\"></script><script>document.title='owned'</script>.png".replace("/", "\u2215"),
    "\u202egnp.txt.png",
    f"{'long' * 55}.png",
    "..png.png",
    "new\nline\x07.png",
)
PLAN = AuditPlan(methods=("grad-cam", "occlusion"), options={"window": 8}, batch_size=2)


def small_model(folder: Path, labels: tuple[str, ...] = (), size: int = 32, seed: int = 0) -> Model:
    """A network of ten classes, saved in a folder and opened from there; without torch, to be quick."""
    path = folder / "model.onnx"
    if not path.exists():
        onnx.save(convnet(size=size, batch="n", seed=seed), path)
    names = labels or tuple(f"class {k}" for k in range(10))
    return load(path, preprocessing="unit", labels=list(names), gradients="onnx")


def labelled_pictures(folder: Path, classes: tuple[str, ...] = ("class 0", "class 1"), each: int = 2) -> Path:
    """Pictures of soft noise in one sub-folder for each class; the folder is given back."""
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            small = rng.integers(0, 255, (6, 8, 3), np.uint8)
            Image.fromarray(small).resize((48, 36), Image.Resampling.BICUBIC).save(folder / name / f"p{number}.png")
    return folder
