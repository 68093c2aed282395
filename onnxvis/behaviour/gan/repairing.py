"""Units that spoil pictures, and a generator without them.

Bau et al., ICLR 2019, section 4.3: units whose strongest pictures are spoiled are switched off for good, and the
pictures get better. Which pictures are spoiled is for a person to say.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxvis._version import __version__
from onnxvis.behaviour.gan.generator import Generator
from onnxvis.behaviour.gan.interventions import WHOLE, Interventions, Region
from onnxvis.errors import ModelError, UsageError
from onnxvis.files import write_file
from onnxvis.graph.intervene import bake
from onnxvis.modelfile import with_weights

__all__ = ["METADATA_KEY", "ArtifactUnit", "Repaired", "artifact_units", "repair"]

METADATA_KEY = "onnxvis.repaired"
_LARGEST = 2**31 - 1
_CHECKED = 8


@dataclass(frozen=True)
class ArtifactUnit:
    """A unit and how much more it fires in spoiled pictures.

    Attributes:
        unit: its number.
        bad: mean activation over places and spoiled pictures.
        good: mean over places and other pictures.
        z: their difference in standard errors over pictures (Welch).
    """

    unit: int
    bad: float
    good: float
    z: float


@dataclass(frozen=True, eq=False)
class Repaired:
    """A generator with some units off for good.

    Attributes:
        proto: the model.
        record: what was done, as it stands in its metadata under ``onnxvis.repaired``.
        difference: largest difference of its raw output from the intervention's; 0.0 means the same bits.
    """

    proto: onnx.ModelProto
    record: Mapping[str, Any]
    difference: float

    def save(self, path: str | Path) -> Path:
        """Write the file, whole or not at all.

        Raises:
            OutputError: it cannot be written.
        """
        target = Path(path)
        write_file(target, self.proto.SerializeToString())
        return target


def artifact_units(
    generator: Generator,
    layer: str | None,
    bad: Sequence[int],
    good: Sequence[int] | None = None,
    *,
    seed: int = 0,
) -> list[ArtifactUnit]:
    """Units by how much more they fire in spoiled pictures, the strongest first.

    Args:
        generator: that made them.
        layer: its layer; chosen by structure when left out.
        bad: numbers of the samples that a person picked, at least two.
        good: numbers of samples to compare with; 256 others if left out.
        seed: of the samples.

    Raises:
        UsageError: fewer than two samples on a side, or one on both.
    """
    chosen = generator.layer(layer)
    others = list(good) if good is not None else [i for i in range(256 + len(bad)) if i not in set(bad)][:256]
    both = sorted(set(bad) & set(others))
    if min(len(set(bad)), len(set(others))) < 2 or both:
        what = f"sample {both[0]} is on both sides" if both else "each side needs at least two samples"
        raise UsageError(f"spoiled pictures are compared with others: {what}.")
    means = []
    for ids in (sorted(set(bad)), sorted(set(others))):
        found = [
            chosen.units_first(batch.tensors[chosen.tensor]).mean(axis=(2, 3), dtype=np.float64)
            for batch in generator.stream(ids, seed, (chosen.tensor,))
        ]
        means.append(np.concatenate(found))
    gap = means[0].mean(axis=0) - means[1].mean(axis=0)
    error = np.sqrt(sum(m.var(axis=0, ddof=1) / len(m) for m in means))
    z = np.divide(gap, error, out=np.zeros_like(gap), where=error > 0)
    order = np.argsort(-z, kind="stable")
    return [
        ArtifactUnit(int(u), float(means[0][:, u].mean()), float(means[1][:, u].mean()), float(z[u])) for u in order
    ]


def repair(
    generator: Generator,
    layer: str | None,
    units: Sequence[int],
    *,
    region: Region = WHOLE,
    value: float = 0.0,
    seed: int = 0,
) -> Repaired:
    """The generator with units off for good, compared with the intervention on samples before it is returned.

    Args:
        generator: to repair; it is not changed.
        layer: whose units; chosen by structure when left out.
        units: which.
        region: where; everywhere if left out.
        value: what they are set to.
        seed: of the samples of the comparison.

    Raises:
        UsageError: no unit, or one that the layer does not have.
        ModelError: the result differs from the intervention by more than rounding, or is larger than 2 GB.
    """
    if not units:
        raise UsageError("no unit was given to switch off.")
    interventions = Interventions(generator, generator.layer(layer))
    chosen = interventions.layer
    mask, forced = interventions.mask(units, region), interventions.values(value)
    record = {
        "onnxvis": __version__,
        "layer": chosen.tensor,
        "units": [int(u) for u in units],
        "value": float(value),
        "region": str(region),
        "source_sha256": generator.file.sha256,
    }
    edited_file = not any("canonical form" in note for note in interventions.notes)
    base = with_weights(generator.file) if edited_file else generator.canonical.model
    proto = bake(base, chosen.tensor, chosen.in_layout(mask) > 0, chosen.in_layout(forced))
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, json.dumps(record)
    if proto.ByteSize() > _LARGEST:
        raise ModelError("the repaired file would be larger than 2 GB, which one .onnx file cannot hold.")
    return Repaired(proto, record, _compared(generator, interventions, proto, mask, forced, seed))


def _compared(
    generator: Generator, interventions: Interventions, proto: onnx.ModelProto, mask: np.ndarray, value: np.ndarray,
    seed: int,
) -> float:  # fmt: skip
    from onnxvis.runtime.session import Sessions

    feeds = generator.feeds(range(_CHECKED), seed)
    wanted = interventions.raw(feeds, mask, value)
    found = generator.run(Sessions(proto, generator.provider), feeds, (generator.output,))[generator.output]
    if np.array_equal(wanted, found, equal_nan=wanted.dtype.kind == "f"):
        return 0.0
    gap = float(np.abs(wanted.astype(np.float64) - found).max()) / max(float(np.abs(wanted).max()), 1e-12)
    if not gap <= 1e-3:
        raise ModelError(f"the repaired file differs from the intervention by {gap:.1e}; nothing is returned.")
    return gap
