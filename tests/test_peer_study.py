"""The page of the comparison with peers: ratios within a round, the better setting, goals that are missed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

from peer_study.page import Run, page
from peer_study.tasks import ONNXVIS, Task
from peer_study.timing import Timed, time_task


def timed(kind, network, batch, **times):
    return Timed(kind, network, batch, "", {who.replace("_", " "): values for who, values in times.items()})


def test_ratios_are_taken_within_a_round():
    found = timed("saliency", "resnet18", 1, onnxvis=[10.0, 20.0, 40.0], Captum=[5.0, 40.0, 20.0])
    assert found.ratio("Captum") == (0.5, 0.5, 2.0)
    assert found.median(ONNXVIS) == 20.0


def test_only_the_faster_setting_of_a_peer_goes_on(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.process_time", lambda: now[0])

    def call(seconds, value):
        def run():
            now[0] += seconds
            return np.full((1, 2), value)

        return run

    task = Task("occlusion", "resnet18", 2, "", {
        ONNXVIS: call(1.0, 2.0), "Captum, 1 at once": call(8.0, 2.0), "Captum, 16 at once": call(4.0, 2.5),
    })  # fmt: skip
    found = time_task(task, 3, wall=False)
    assert found.times == {ONNXVIS: [500.0] * 3, "Captum, 16 at once": [2000.0] * 3}
    assert found.slower == {"Captum, 1 at once": 4000.0}
    assert found.best("Captum") == "Captum, 16 at once"
    assert found.differences == {"Captum, 1 at once": 0.0, "Captum, 16 at once": 0.25}


def test_a_peer_that_fails_is_named_and_we_are_not_excused():
    def broken():
        raise ValueError("no hook\nmore")

    found = time_task(Task("rise", "resnet18", 1, "", {ONNXVIS: lambda: None, "DIANNA": broken}), 1, wall=True)
    assert found.failures == {"DIANNA": "ValueError: no hook"}
    with pytest.raises(ValueError, match="no hook"):
        time_task(Task("rise", "resnet18", 1, "", {ONNXVIS: broken}), 1, wall=True)


def test_the_page_says_which_goals_are_missed():
    found = [
        timed("forward", "resnet18", 8, onnxvis=[10.0], torch=[20.0]),
        timed("grad-cam", "resnet18", 8, onnxvis=[12.0], Captum=[60.0], torchcam=[24.0]),
        timed("saliency", "resnet18", 8, onnxvis=[50.0], Captum=[40.0]),
    ]
    text = page(found, Run("## This run", 400.0))
    assert "| resnet18 | 8 | 10 | 91% | 20 | 2.00 (2.00-2.00) |" in text  # 3.63 GFLOP in 10 ms of 400 GFLOP/s
    assert "| grad-cam | resnet18 | batch 8 | 4 x Captum | 5.00 (5.00-5.00) | yes |" in text
    assert "| grad-cam | resnet18 | batch 8 | 1.3 forward passes | 1.20 | yes |" in text
    assert "| saliency | resnet18 | batch 8 | 1 x Captum | 0.80 (0.80-0.80) | **no** |" in text
