"""A trained generator: a DCGAN that draws faces, from both exporters of torch."""

import numpy as np
import pytest
import torch
from support.gan import export_faces, faces_module

from onnxvis.behaviour.gan import Interventions, averaged, built_in, dissect, measure, open_generator, random_effects
from onnxvis.behaviour.gan.effects import trunks

CONCEPTS = ("dark", "bright", "green", "blue")


@pytest.fixture(scope="module")
def generator():
    return open_generator(export_faces())


@pytest.fixture(scope="module")
def interventions(generator):
    return Interventions(generator, generator.layer())


@pytest.fixture(scope="module")
def found(generator):
    return dissect(generator, built_in(CONCEPTS), samples=160)


def test_the_middle_layer_is_chosen_and_its_pictures_are_those_of_torch(generator):
    layer = generator.layer()
    assert (layer.units, layer.size, layer.op_type) == (128, (16, 16), "Relu")
    sample = generator.sample(range(4))
    with torch.no_grad():
        raw = faces_module()(torch.from_numpy(sample.feeds["z"])).numpy()
    expected = (np.moveaxis(raw, 1, -1) + 1) * 127.5
    assert np.abs(sample.pictures - expected).max() < 0.51


@pytest.mark.parametrize(("exporter", "batch"), [("legacy", None), ("legacy", 2), ("dynamo", None)])
def test_a_neutral_mask_keeps_every_bit(exporter, batch):
    generator = open_generator(export_faces(exporter, batch))
    found = Interventions(generator, generator.layer())
    feeds = generator.feeds(range(5), 8)
    before = generator.run(generator.sessions, feeds, (generator.output,))[generator.output]
    after = found.raw(feeds, found.mask([]), found.values(np.inf))
    assert found.difference == 0
    assert np.array_equal(before.view(np.uint32), after.view(np.uint32))


def test_both_exporters_give_the_same_network(generator, interventions):
    other = open_generator(export_faces("dynamo"))
    theirs = Interventions(other, other.layer())
    feeds = generator.feeds(range(3), 0)
    units = [33, 45, 121]
    raw = [i.raw(feeds, i.mask(units), i.values(0.7)) for i in (interventions, theirs)]
    np.testing.assert_allclose(raw[0], raw[1], atol=2e-5)


def test_units_agree_with_colors_far_above_chance(found):
    for concept in ("dark", "bright", "blue"):
        best = found.ranked(concept)[0]
        assert best.above_chance
        assert best.iou > 2 * best.chance


def test_those_units_cause_the_colors(found, interventions):
    samples = trunks(interventions, built_in(CONCEPTS), range(1000, 1048), 0)
    for concept in ("dark", "bright"):
        values = found.conditional_mean[:, found.concept(concept)]
        units = found.top_units(concept, 8)
        own = measure(interventions, built_in(CONCEPTS), units, samples, values)
        random = averaged(random_effects(interventions, built_in(CONCEPTS), units, samples, values, sets=2))
        k = own.concepts.index(concept)
        assert own.drop(concept)[0] > 0.6 * own.base[:, k].mean()
        assert own.drop(concept)[0] > 5 * abs(random.drop(concept)[0])
        assert own.gain(concept)[0] > 5 * abs(random.gain(concept)[0])
        assert own.gain(concept)[0] > 5 * own.gain(concept)[1]
