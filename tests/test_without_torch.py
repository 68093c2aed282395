"""A lean installation: everything but what says so works where torch is not installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from PIL import Image
from support.nets import SmallNet

import onnxvis
from onnxvis.errors import DependencyError, require

_WITHOUT = """
import importlib.util, sys
GONE = ("torch", "onnx2torch", "torchvision")
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in GONE:
            raise ModuleNotFoundError("No module named " + name, name=name)
sys.meta_path.insert(0, Gone())
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.split(".")[0] in GONE else find(name, package)
from onnxvis.cli import main
sys.exit(main(sys.argv[1:]))
"""
NET = SmallNet()


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def picture(folder: Path, name: str = "p.png") -> Path:
    pixels = np.random.default_rng(len(name)).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(folder / name)
    return folder / name


def test_gradients_without_torch_are_those_of_torch(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(NET.model().SerializeToString())
    path = picture(tmp_path)
    methods = ("grad-cam", "saliency", "integrated-gradients")
    done = run(
        tmp_path, "explain", "net.onnx", str(path), "-m", ",".join(methods), "--preprocessing", "unit", "-o", "out"
    )
    assert done.returncode == 0, done.stderr
    assert "torch is not installed" in done.stdout
    model = onnxvis.load(tmp_path / "net.onnx", preprocessing="unit", gradients="torch")
    for method in methods:
        (folder,) = (tmp_path / "out").glob(f"*/{method}/*")
        expected = onnxvis.explain(model, path, method).attribution
        found = np.load(folder / "attribution.npy")
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
        record = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        assert record["parity"]["passed"] is True


def test_a_batch_that_only_torch_could_repair_runs_one_by_one(tmp_path: Path) -> None:
    flat = [
        helper.make_node("ReduceMean", ["features"], ["mean4"], "mean", axes=[2, 3], keepdims=1),
        helper.make_node("Reshape", ["mean4", "shape"], ["pooled"], "flat"),
    ]
    proto = NET.model([1, 3, 32, 32], middle=flat, constants={"shape": np.array([1, 8], np.int64)})
    (tmp_path / "net.onnx").write_bytes(proto.SerializeToString())
    paths = [str(picture(tmp_path, name)) for name in ("a.png", "other.png")]
    done = run(tmp_path, "explain", "net.onnx", *paths, "-m", "occlusion", "-O", "window=16", "--preprocessing", "unit")
    assert done.returncode == 0, done.stderr
    done = run(tmp_path, "check", "net.onnx", paths[0], "--preprocessing", "unit")
    assert "one by one" in done.stdout
    assert "needs torch" in " ".join(done.stdout.split())


def test_asking_for_torch_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(NET.model().SerializeToString())
    path = picture(tmp_path)
    done = run(tmp_path, "explain", "net.onnx", str(path), "--preprocessing", "unit", "--gradients", "torch")
    assert done.returncode == 2
    assert "onnxvis[torch]" in done.stderr


def test_require() -> None:
    assert require("json", "none", "this") is json
    with pytest.raises(DependencyError, match=r"a test needs no_such_package.*onnxvis\[extra\]"):
        require("no_such_package.inner", "extra", "a test")
