"""Dissecting generators: which unit draws what, and what if it were off, or on.

    from onnxvis.behaviour.gan import Interventions, built_in, dissect, measure, open_generator, trunks

    generator = open_generator("faces.onnx")
    found = dissect(generator, built_in(), samples=1000)
    units = found.top_units("green", 8)
    interventions = Interventions(generator, generator.layer(found.layer))
    samples = trunks(interventions, built_in(), range(1000, 1256), seed=0)
    measure(interventions, built_in(), units, samples).drop("green")  # mean and standard error

Unit ablation of classifiers stands in :mod:`onnxvis.behaviour.gan.classifier`.
"""

from __future__ import annotations

from onnxvis.behaviour.gan.classifier import UnitAblation, unit_ablation
from onnxvis.behaviour.gan.concepts import ColorConcept, ColorSegmenter, Segmenter, built_in, color_clusters
from onnxvis.behaviour.gan.dissecting import dissect
from onnxvis.behaviour.gan.dissection import Dissection
from onnxvis.behaviour.gan.effects import Effects, averaged, measure, random_effects, trunks, unit_effects
from onnxvis.behaviour.gan.generator import Generator, open_generator
from onnxvis.behaviour.gan.interventions import Interventions, Region
from onnxvis.behaviour.gan.picking import pick_units
from onnxvis.behaviour.gan.repairing import Repaired, artifact_units, repair
from onnxvis.behaviour.gan.segmenters import CallableSegmenter, OnnxSegmenter, chosen_segmenter
from onnxvis.behaviour.gan.unit_sets import greedy_set, optimized_set

__all__ = [
    "CallableSegmenter",
    "ColorConcept",
    "ColorSegmenter",
    "Dissection",
    "Effects",
    "Generator",
    "Interventions",
    "OnnxSegmenter",
    "Region",
    "Repaired",
    "Segmenter",
    "UnitAblation",
    "artifact_units",
    "averaged",
    "built_in",
    "chosen_segmenter",
    "color_clusters",
    "dissect",
    "greedy_set",
    "measure",
    "open_generator",
    "optimized_set",
    "pick_units",
    "random_effects",
    "repair",
    "trunks",
    "unit_ablation",
    "unit_effects",
]
