"""The benchmark of the command line: what it times, what it divides by, and what it says."""

from __future__ import annotations

import json
import time

import numpy as np
import onnx
import pytest
from PIL import Image
from support.nets import SmallNet

import onnxvis
from onnxvis import bench as module
from onnxvis.bench import FORWARD, bench
from onnxvis.cli import main
from onnxvis.errors import UsageError
from onnxvis.machine import Ceiling, describe_machine, measure_ceiling, peak_memory_mb
from onnxvis.noise import smooth_noise
from onnxvis.render.chart import Bar, bar_chart
from onnxvis.runtime.providers import choose_provider


@pytest.fixture(autouse=True)
def quick_ceiling(monkeypatch):
    """The real one is measured once, below."""
    monkeypatch.setattr(module, "measure_ceiling", lambda provider: Ceiling(provider.name, 40.0, 50.0, "made up"))


@pytest.fixture(scope="module")
def model():
    return onnxvis.load(SmallNet().model())


def test_rows_hold_medians_spread_and_the_ratio_to_a_forward_pass(model, monkeypatch):
    """With a clock in which a forward pass takes 2, 4, 3 s and a saliency map 10, 8, 12 s."""
    seconds = {FORWARD: iter([9.0, 2.0, 4.0, 3.0]), "saliency": iter([9.0, 10.0, 8.0, 12.0])}
    monkeypatch.setattr(module._Case, "clock", lambda case: next(seconds[case.method]))
    report = bench({"small": model}, ["saliency"], [2], rounds=3)
    forward, saliency = report.rows
    assert (forward.method, forward.batch_size, forward.ms) == (FORWARD, 2, 1500.0)
    assert (forward.forwards, forward.rounds, forward.first_ms) == (1.0, 3, 9000.0)
    assert (saliency.ms, saliency.ms_min, saliency.ms_max) == (5000.0, 4000.0, 6000.0)
    assert (saliency.forwards, saliency.forwards_min, saliency.forwards_max) == (4.0, 2.0, 5.0)
    assert saliency.per_second == pytest.approx(0.2)
    # conv: 32*32 places x 8 units x 27; linear: 6 x 8. Two operations each, in 1.5 s, of 50 GFLOP/s.
    work = 32 * 32 * 8 * 27 + 6 * 8
    assert report.subjects[0].multiply_adds == work
    assert forward.ceiling_part == pytest.approx(2 * work / 1.5 / 50e9)
    assert saliency.ceiling_part is None


def test_real_times_are_times(model):
    began = time.perf_counter()
    report = bench({"small": model}, ["grad-cam", "occlusion"], [1, 2], rounds=2, options={"window": 16, "stride": 16})
    elapsed = (time.perf_counter() - began) * 1e3
    assert [(r.method, r.batch_size) for r in report.rows] == [
        (m, b) for b in (1, 2) for m in (FORWARD, "grad-cam", "occlusion")
    ]
    for row in report.rows:
        assert not row.error
        assert 0 < row.ms_min <= row.ms <= row.ms_max < elapsed
        assert row.per_second == pytest.approx(1e3 / row.ms)
        assert row.forwards_min <= row.forwards <= row.forwards_max
    assert next(r for r in report.rows if r.method == "grad-cam").remark.startswith("layer features")
    assert json.loads(json.dumps(report.to_dict()))["options"] == {"window": 16, "stride": 16}
    assert report.versions["onnxvis"] == onnxvis.__version__


def test_a_method_that_does_not_fit_says_why_and_costs_the_others_nothing():
    flat = SmallNet().model(
        middle=[
            onnx.helper.make_node("GlobalAveragePool", ["features"], ["gap"]),
            onnx.helper.make_node("Flatten", ["gap"], ["raw"]),
            onnx.helper.make_node("Tanh", ["raw"], ["pooled"]),
        ]
    )
    report = bench({"m": onnxvis.load(flat)}, ["cam", "saliency"], [1], rounds=1)
    forward, cam, saliency = report.rows
    assert "linear" in cam.error or "Grad-CAM" in cam.error
    assert cam.ms == 0
    assert saliency.ms > 0
    assert forward.ms > 0


def test_an_interruption_keeps_what_was_timed(model):
    def stop(stage, done, total):
        if done == total - 1:
            raise KeyboardInterrupt

    report = bench({"small": model}, ["saliency"], [1], rounds=3, progress=stop)
    assert report.interrupted
    assert [row.rounds for row in report.rows] == [3, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": ["gradcam"]}, "grad-cam"),
        ({"options": {"windows": 3}}, "has an option 'windows'"),
        ({"options": {"samples": 0}, "methods": ["smoothgrad"]}, "samples"),
        ({"batch_sizes": [0]}, "batch sizes of at least 1"),
        ({"rounds": 0}, "at least one round"),
    ],
)
def test_refuses_before_anything_runs(model, arguments, message):
    with pytest.raises(UsageError, match=message):
        bench({"small": model}, **arguments)


def test_noise_fits_the_input_and_differs_by_seed(model):
    one, two = smooth_noise(model, 0).tensor, smooth_noise(model, 1).tensor
    assert one.shape == (1, 3, 32, 32)
    assert one.dtype == np.float32
    assert np.abs(one - two).max() > 0.1
    np.testing.assert_array_equal(one, smooth_noise(model, 0).tensor)
    np.testing.assert_array_equal(one[0, :, :8, :8], np.broadcast_to(one[0, :, :1, :1], (3, 8, 8)))
    whole = onnxvis.load(
        SmallNet().model(
            [1, 3, 32, 32],
            before=[onnx.helper.make_node("Cast", ["image"], ["x"], to=onnx.TensorProto.FLOAT)],
            kind=onnx.TensorProto.UINT8,
        )
    )
    pixels = smooth_noise(whole).tensor
    assert pixels.dtype == np.uint8
    assert 90 < pixels.mean() < 160


def test_the_ceiling_is_a_speed_and_memory_grows():
    found = measure_ceiling(choose_provider("cpu"))
    assert found.gflops == max(found.gemm, found.convolution)
    assert 0.1 < found.gflops < 1e5
    before = peak_memory_mb()
    if before is not None:
        block = np.ones(int(before * 1e6 / 8) + 2_000_000)
        after = peak_memory_mb()
        assert after is not None
        assert block.nbytes / 1e6 < after < before + block.nbytes / 1e6 + 200
    assert describe_machine()["usable_cpus"] >= 1


def test_bars_are_as_long_as_their_values():
    chart = np.asarray(bar_chart([Bar("a", 10, 10, 10), Bar("b", 5, 4, 5)], "title", "ms"))
    blue = (chart == (52, 101, 164)).all(axis=2)
    rows = np.flatnonzero(blue.any(axis=1))
    lengths = blue[rows].sum(axis=1)
    longest = lengths.max()
    assert abs(lengths[len(rows) - 2] / longest - 0.5) < 0.02
    for bad in ([], [Bar("a", 1, 2, 3)], [Bar("a", -1, -1, 0)]):
        with pytest.raises(UsageError, match="low <= value"):
            bar_chart(bad, "t", "ms")


def test_command_line(tmp_path, capsys):
    onnx.save(SmallNet().model(), tmp_path / "one.onnx")
    onnx.save(SmallNet(seed=1).model(), tmp_path / "two.onnx")
    files = tmp_path / "out" / "bench.json", tmp_path / "out" / "bench.png"
    code = main(
        ["bench", str(tmp_path / "one.onnx"), "--compare", str(tmp_path / "two.onnx"), "-m", "grad-cam",
         "--batch-sizes", "1,2", "--repeat", "1", "--json", str(files[0]), "--plot", str(files[1])]
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert code == 0
    assert "one.onnx" in printed
    assert "two.onnx" in printed
    assert "of the measured ceiling" in printed
    report = json.loads(files[0].read_text())
    assert [s["name"] for s in report["subjects"]] == ["one.onnx", "two.onnx"]
    assert len(report["rows"]) == 8
    assert Image.open(files[1]).width == 900


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-sizes", "1,x"], "--batch-sizes"),
        (["-m", "gradcam"], "grad-cam"),
        (["--providers", "cpu,gpuu"], "unknown execution provider"),
        (["-m", "cam", "--json", "/proc/no/bench.json", "--repeat", "1", "--batch-sizes", "1"], "cannot write"),
        (["-m", "cam", "--plot", "bench.txt"], "ends in .png"),
        (["-m", "cam", "--json", "."], "is a folder"),
    ],
)
def test_command_line_refuses(tmp_path, capsys, arguments, message):
    onnx.save(SmallNet().model(), tmp_path / "m.onnx")
    assert main(["bench", str(tmp_path / "m.onnx"), *arguments]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
