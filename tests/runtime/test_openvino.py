"""OpenVINO's plug-in: in float32 when it is chosen by name, in bfloat16 when asked for, and clear where it is not."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from support import zoo
from support.references import relative_error

import onnxvis
from onnxvis.errors import DependencyError, OnnxvisError, UsageError
from onnxvis.runtime import openvino, providers


@functools.cache
def missing(bfloat16: bool) -> str:
    """Why the plug-in cannot be used here, or nothing."""
    try:
        device = openvino.device(onnxruntime)
    except OnnxvisError as error:
        return str(error)
    return "this processor has no bfloat16" if bfloat16 and not openvino.has_bfloat16(device) else ""


needs_plugin = pytest.mark.skipif(bool(missing(False)), reason=missing(False) or "-")
needs_bfloat16 = pytest.mark.skipif(bool(missing(True)), reason=missing(True) or "-")


@pytest.fixture(scope="module")
def path() -> Any:
    return zoo.export("squeezenet1_1", "legacy", 17, 96, dynamic_batch=True)


@needs_plugin
def test_chosen_by_name_it_computes_in_float32(path: Any) -> None:
    x = zoo.image(96, 3)
    own, other = (onnxvis.load(path, provider=name) for name in ("cpu", "openvino"))
    assert other.provider == providers.Provider("OpenVINOExecutionProvider", "asked for", "float32")
    name = own.logits.tensor
    expected = own.engine.forward(x, (name,))[name]
    assert relative_error(other.engine.forward(x, (name,))[name], expected) < 2e-5  # bfloat16 is at 1e-3 and above
    options = {"window": 24, "stride": 24, "engine": "plain"}
    maps = [onnxvis.explain(model, x[:1], "occlusion", 0, **options).attribution for model in (own, other)]
    assert relative_error(maps[1], maps[0]) < 1e-3


@needs_bfloat16
def test_the_probe_notices_the_lower_precision_that_the_plugin_takes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert providers._probe.__wrapped__(openvino.NAME) is None
    monkeypatch.setattr(providers, "_options", lambda name, precision: {})
    assert "does not compute in float32" in providers._probe.__wrapped__(openvino.NAME)


@needs_bfloat16
@pytest.mark.parametrize("engine", ["plain", "incremental"])
def test_bfloat16_is_used_only_when_asked_for(path: Any, engine: str) -> None:
    model, x = onnxvis.load(path, provider="cpu"), zoo.image(96)
    options = {"window": 24, "stride": 12, "engine": engine}
    exact = onnxvis.explain(model, x, "occlusion", 0, **options)
    found = onnxvis.explain(model, x, "occlusion", 0, precision="bf16", **options)
    again = onnxvis.explain(model, x, "occlusion", 0, **options)
    assert np.array_equal(exact.attribution, again.attribution)
    assert 1e-5 < relative_error(found.attribution, exact.attribution) < 0.1
    assert found.parameters["engine"] == engine
    check = found.parameters["precision_check"]
    assert check["positions"] == 8
    assert 0 < check["relative_error"] < 0.1
    assert check["rank_correlation"] > 0.9


def plugin(devices: list[Any], fails: str = "") -> Any:
    """An onnxruntime whose plug-in offers these devices."""

    def register(name: str, path: str) -> None:
        if fails:
            raise RuntimeError(fails)

    return SimpleNamespace(
        __version__="1.31.1", register_execution_provider_library=register, get_ep_devices=lambda: devices
    )


def device(provider: str, vendor: str, **metadata: str) -> Any:
    return SimpleNamespace(ep_name=provider, device=SimpleNamespace(vendor=vendor), ep_metadata=metadata)


def ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "_register", openvino._register.__wrapped__)
    package = SimpleNamespace(get_library_path=lambda: "plugin.so")
    monkeypatch.setattr(openvino.importlib, "import_module", lambda name: package)


def test_where_it_offers_no_device_the_processor_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ready(monkeypatch)
    with pytest.raises(UsageError, match=r"no device for this machine's processor \(AMD\)"):
        openvino.device(plugin([device("CPUExecutionProvider", "AMD")]))
    with pytest.raises(DependencyError, match="cannot be loaded: libtbb"):
        openvino.device(plugin([], fails="libtbb.so.12 is missing\nmore"))
    with pytest.raises(DependencyError, match="knows no plug-in providers"):
        openvino.device(SimpleNamespace(__version__="1.20.0"))


def test_the_cpu_is_taken_and_not_a_gpu_or_an_npu(monkeypatch: pytest.MonkeyPatch) -> None:
    ready(monkeypatch)
    offered = [
        device(openvino.NAME, "Intel", ov_device="NPU"),
        device(openvino.NAME, "Intel", ov_device="CPU", OPTIMIZATION_CAPABILITIES="BF16 FP32 INT8"),
    ]
    found = openvino.device(plugin(offered))
    assert found is offered[1]
    assert openvino.has_bfloat16(found)
    assert not openvino.has_bfloat16(device(openvino.NAME, "Intel", OPTIMIZATION_CAPABILITIES="FP32 INT8 WINOGRAD"))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "_register", openvino._register.__wrapped__)

    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(openvino.importlib, "import_module", absent)
    with pytest.raises(DependencyError, match=r"onnxruntime-ep-openvino.* is not installed. .*onnxvis\[bf16\]"):
        openvino.device(plugin([]))


def test_a_processor_without_bfloat16_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = device(openvino.NAME, "Intel", OPTIMIZATION_CAPABILITIES="FP32")
    monkeypatch.setattr(providers.openvino, "device", lambda ort: found)
    with pytest.raises(UsageError, match="no bfloat16 instructions"):
        providers.bfloat16_provider()


def test_float32_is_said_in_so_many_words() -> None:
    """Left out, the plug-in computes in bfloat16; other spellings of the option are accepted and ignored."""
    for precision, hint in (("float32", "f32"), ("bfloat16", "bf16")):
        options = providers._options(openvino.NAME, precision)
        assert options == {"load_config": f'{{"CPU": {{"INFERENCE_PRECISION_HINT": "{hint}"}}}}'}
    assert providers.provider_arguments(openvino.NAME)[0][1]["load_config"].endswith('"f32"}}')
