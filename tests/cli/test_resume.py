"""Ctrl-C in the middle of an occlusion map: what is finished stays beside the results, and the next run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from support.formats import convnet

from onnxvis.cli import main
from onnxvis.methods.occlusion_plain import Plain


def test_an_interrupted_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, picture, out = tmp_path / "model.onnx", tmp_path / "picture.png", tmp_path / "out"
    onnx.save(convnet(size=16), model)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 24, 3), np.uint8)).save(picture)
    options = ["-m", "occlusion", "-O", "window=4", "-O", "stride=2", "-O", "engine=plain"]
    command = ["explain", str(model), str(picture), "--preprocessing", "unit", *options]
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    honest = Plain.__call__

    def interrupted(self: Plain, positions: np.ndarray) -> Any:
        for count, batch in enumerate(honest(self, positions)):
            if count == 3:
                raise KeyboardInterrupt
            yield batch

    monkeypatch.setattr(Plain, "__call__", interrupted)
    assert main([*command, "--out", str(out)]) == 130
    assert len(list((out / "partial").iterdir())) == 1
    monkeypatch.undo()
    assert main([*command, "--out", str(out)]) == 0
    assert not (out / "partial").exists()
    (whole,), (found,) = (list(folder.rglob("manifest.json")) for folder in (tmp_path / "whole", out))
    assert "24 of 49 positions were taken from an interrupted run" in json.loads(found.read_text())["notes"]
    arrays = [next(path.parent.glob("*.npy")) for path in (whole, found)]
    np.testing.assert_allclose(np.load(arrays[1]), np.load(arrays[0]), atol=1e-6)
