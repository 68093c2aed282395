"""The model-parameter randomization test: stages, numbers, verdicts, and what the literature says of a trained net."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from onnx import helper, numpy_helper
from support.formats import convnet, half, quantized
from support.hand_models import small_net

import onnxvis
from onnxvis.audit.metrics.similarity import rank_correlation, ssim
from onnxvis.audit.randomization import (
    BOUND,
    DEPENDS,
    UNCHANGED,
    UNKNOWN,
    randomization_test,
    rebuilt,
    stages_of,
)
from onnxvis.errors import ModelError, UsageError
from onnxvis.graph.randomize import WeightLayer, randomize
from onnxvis.modelfile import read_model


def pictures(model: onnxvis.Model, count: int = 2, seed: int = 0) -> list[Any]:
    shape = model.one_image_shape()
    arrays = [np.random.default_rng(seed + k).standard_normal(shape).astype(np.float32) for k in range(count)]
    return [model.prepare(array) for array in arrays]


def test_stages_start_with_the_last_layer_alone_and_end_with_everything() -> None:
    layers = [WeightLayer(str(k), "Conv", (f"w{k}",), 1) for k in range(10)]
    groups = stages_of(layers, 4)
    assert [[layer.name for layer in g] for g in groups] == [["0"], ["1", "2", "3"], ["4", "5", "6"], ["7", "8", "9"]]
    assert [len(g) for g in stages_of(layers, 99)] == [1] * 10
    assert stages_of(layers, 1) == [layers]
    assert stages_of(layers[:1], 5) == [layers[:1]]
    with pytest.raises(UsageError):
        stages_of(layers, 0)


def test_a_stage_is_the_comparison_of_the_maps_of_two_models() -> None:
    """The numbers, made again by hand: same class, other weights, mean over the pictures."""
    model = small_net()
    prepared = pictures(model)
    found = randomization_test(model, prepared, ["saliency"], seed=5, max_stages=3)
    assert [s.number for s in found.stages] == [1, 2, 3]
    assert [len(s.layers) for s in found.stages] == [1, 2, 3]
    assert found.stages[-1].parts == 1
    tensors = [t.name for t in model.file.proto.graph.initializer]
    other = onnxvis.load(randomize(model.file.proto, tensors, seed=5))
    ranks, alike = [], []
    for one in prepared:
        name = model.logits.tensor
        index = int(model.engine.forward(one.tensor, (name,))[name].argmax())
        maps = [onnxvis.explain(m, one.tensor, "saliency", index).heat() for m in (model, other)]  # type: ignore[union-attr]
        ranks.append(rank_correlation(*maps))
        alike.append(ssim(*maps))
    assert found.stages[-1].rank == pytest.approx(np.mean(ranks), abs=1e-5)
    assert found.stages[-1].ssim == pytest.approx(np.mean(alike), abs=1e-5)
    again = randomization_test(model, prepared, ["saliency"], seed=5, max_stages=3)
    assert again == found
    assert found.to_dict()["stages"][0]["method"] == "saliency"


def test_independent_stages_change_one_group_at_a_time() -> None:
    model = small_net()
    found = randomization_test(model, pictures(model, 1), ["saliency"], mode="independent", max_stages=3)
    assert [len(s.layers) for s in found.stages] == [1, 1, 1]
    cascading = randomization_test(model, pictures(model, 1), ["saliency"], max_stages=3)
    assert found.stages[0].rank == cascading.stages[0].rank
    assert found.stages[1].rank != cascading.stages[1].rank


def test_a_deeper_look_can_be_left_out() -> None:
    model = small_net()
    found = randomization_test(model, pictures(model, 1), ["saliency"], max_stages=3, deepest=0.5)
    assert [s.number for s in found.stages] == [1]


def test_a_method_that_only_shows_the_picture_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """An edge detector in the place of a method: the same map whatever the weights."""
    from onnxvis.methods import saliency
    from onnxvis.methods.base import Attribution

    def edges(task: Any) -> list[list[Attribution]]:
        return [[Attribution(np.abs(np.diff(x, axis=-1, prepend=0)).sum(axis=0), "u", signed=False)] for x in task.x]

    monkeypatch.setattr(saliency, "METHOD", dataclasses.replace(saliency.METHOD, attribute=edges))
    model = small_net()
    found = randomization_test(model, pictures(model), ["saliency", "grad-cam"], max_stages=4)
    edge, cam = found.verdicts
    assert edge.verdict == UNCHANGED
    assert edge.value == pytest.approx(1)
    assert "shows the picture" in edge.sentence
    assert cam.method == "grad-cam"
    assert cam.verdict == DEPENDS
    assert cam.value is not None
    assert cam.value < BOUND


@pytest.mark.parametrize("form", ["fp16", "qdq"])
def test_other_number_formats_are_randomized_too(form: str) -> None:
    proto = half(convnet(batch="n")) if form == "fp16" else quantized(convnet(batch="n"), "qdq")
    model = onnxvis.load(proto)
    found = randomization_test(model, pictures(model), ["grad-cam"], max_stages=3, deepest=0.7)
    assert [s.note for s in found.stages] == ["", ""]
    assert found.stages[-1].rank is not None
    assert found.stages[-1].rank < 0.95
    assert bool(found.notes) == (form == "qdq")


def test_maps_that_vanish_are_not_counted_as_alike() -> None:
    """With its last layer at 0 the network has no gradient: there is nothing to compare, and that is said."""
    build_zero = small_net()
    proto = build_zero.file.proto
    head = next(t for t in proto.graph.initializer if len(t.dims) == 2)
    head.CopyFrom(numpy_helper.from_array(np.zeros(list(head.dims), np.float32), head.name))
    model = onnxvis.load(proto)
    found = randomization_test(model, pictures(model), ["saliency"], max_stages=2)
    assert found.stages[0].rank is None
    assert found.verdicts[0].verdict == UNKNOWN
    assert found.verdicts[0].value is None


def test_a_rebuilt_model_is_the_same_in_everything_else() -> None:
    model = onnxvis.load(convnet(batch="n"), labels=[f"c{k}" for k in range(10)], preprocessing="unit", size=16)
    other = rebuilt(model, read_model(model.file.proto))
    assert other.labels == model.labels
    assert other.preprocessing == model.preprocessing
    assert other.provider.name == model.provider.name
    assert other.example_shape() == model.example_shape()
    assert other.logits.tensor == model.logits.tensor


def test_refusals() -> None:
    model = small_net()
    with pytest.raises(UsageError, match="cascading"):
        randomization_test(model, pictures(model), ["saliency"], mode="sideways")
    with pytest.raises(UsageError, match="at least one picture"):
        randomization_test(model, [], ["saliency"])
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["g"]),
        helper.make_node("Flatten", ["g"], ["y"]),
    ]
    from support.formats import FLOAT, model_of

    bare = onnxvis.load(model_of(nodes, {"x": (FLOAT, ["n", 3, 8, 8])}, ["y"]))
    with pytest.raises(ModelError, match="no weights"):
        randomization_test(bare, pictures(bare), ["saliency"])


@pytest.mark.slow
def test_the_literature_on_a_trained_network() -> None:
    """Adebayo et al. 2018, figure 2: guided backprop survives random upper layers, gradients and Grad-CAM do not."""
    from support import squeezenet

    from onnxvis.demo import photo

    model = onnxvis.load(squeezenet.export(), preprocessing=squeezenet.PREPROCESSING)
    methods = ["grad-cam", "saliency", "guided-backprop", "deconvnet"]
    prepared = [model.prepare(photo(name)) for name in ("chelsea.png", "coffee.png")]
    found = randomization_test(model, prepared, methods, max_stages=4, deepest=0.5)
    verdicts = {v.method: v.verdict for v in found.verdicts}
    assert verdicts == {
        "grad-cam": DEPENDS,
        "saliency": DEPENDS,
        "guided-backprop": UNCHANGED,
        "deconvnet": UNCHANGED,
    }
