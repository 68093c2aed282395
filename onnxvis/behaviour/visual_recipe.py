"""How class visualization climbs: everything that can be set, and the two recipes that come with names."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxvis.errors import UsageError, did_you_mean

__all__ = ["PARAMETRIZATIONS", "RECIPES", "Recipe", "recipe"]

PARAMETRIZATIONS = ("fourier", "pixel")


def _setting(default: Any, text: str, least: float = 0.0, most: float = math.inf) -> Any:
    return field(default=default, metadata={"help": text, "least": least, "most": most})


def _check(name: str, value: Any, default: Any, limits: Mapping[str, Any]) -> None:
    least, most = limits["least"], limits["most"]
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise UsageError(f"{name} is true or false, not {value!r}.")
        return
    whole = isinstance(default, int)
    kinds = int if whole else int | float
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value) or value < least:
        raise UsageError(f"{name} is a {'whole ' if whole else ''}number of at least {least:g}, not {value!r}.")
    if value > most:
        raise UsageError(f"{name} is at most {most:g}, not {value!r}: {limits['help']}.")


@dataclass(frozen=True)
class Recipe:
    """One way of gradient ascent.

    Penalties are in units of the score's own gradient, which is divided by its root mean square in every step: the
    same number does the same to a network whose logits reach 10 and to one whose logits reach 500.

    Raises:
        UsageError: a value that is not allowed (named).
    """

    name: str = "legible"
    source: str = "Olah et al., Feature Visualization, Distill 2017; Mordvintsev et al., Inceptionism, 2015"
    parametrization: str = "fourier"
    steps: int = _setting(256, "gradient steps", 1)
    rate: float = _setting(0.07, "length of a step: Adam's rate, or for pixel the step in picture values", 1e-9)
    decay: float = _setting(1.3, "fourier: amplitudes fall with frequency to this power")
    decorrelate: bool = _setting(True, "fourier: climb along the color directions of photographs")
    start_noise: float = _setting(0.1, "standard deviation of the coefficients (pixel: of the picture) at the start")
    jitter: float = _setting(0.07, "views are shifted by up to this part of the shorter side of the input", most=1.0)
    rotate: float = _setting(8.0, "views are turned by up to this many degrees")
    zoom_out: float = _setting(0.9, "smallest zoom of a view", 0.05, 10.0)
    zoom_in: float = _setting(1.15, "largest zoom of a view", 0.05, 10.0)
    color_jitter: float = _setting(0.1, "spread of each view's factor and shift of the colors")
    noise: float = _setting(0.1, "standard deviation of the noise on each view, falling to 0 at the end")
    views: int = _setting(1, "views of each picture in a step", 1)
    tv: float = _setting(0.0, "weight of the total variation")
    l2: float = _setting(0.0, "weight of the squared distance from the preprocessing's zero color")
    blur_every: int = _setting(0, "steps between two Gaussian blurs; 0 never blurs")
    blur: float = _setting(0.0, "standard deviation of that blur in pixels")

    def __post_init__(self) -> None:
        if self.parametrization not in PARAMETRIZATIONS:
            raise UsageError(f"a parametrization is {' or '.join(PARAMETRIZATIONS)}, not {self.parametrization!r}.")
        for spec in dataclasses.fields(self):
            if "least" in spec.metadata:
                _check(spec.name, getattr(self, spec.name), spec.default, spec.metadata)
        if self.zoom_out > self.zoom_in:
            raise UsageError(f"zoom_out ({self.zoom_out:g}) is above zoom_in ({self.zoom_in:g}).")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        return dataclasses.asdict(self)

    def summary(self) -> str:
        """One line for a person: what differs from plain gradient ascent."""
        said = [f"{self.parametrization} parametrization", f"{self.steps} steps"]
        if self.jitter or self.rotate or (self.zoom_out, self.zoom_in) != (1.0, 1.0):
            zoom = f"zoom {self.zoom_out:g}..{self.zoom_in:g}"
            said.append(f"views: jitter {100 * self.jitter:g} %, rotation {self.rotate:g} degrees, {zoom}")
        for name in ("color_jitter", "noise", "tv", "l2"):
            if getattr(self, name):
                said.append(f"{name.replace('_', ' ')} {getattr(self, name):g}")
        if self.blur_every and self.blur:
            said.append(f"blur of {self.blur:g} px every {self.blur_every} steps")
        return "; ".join(said)


RECIPES: Mapping[str, Recipe] = {
    "legible": Recipe(),
    "simonyan": Recipe(
        name="simonyan",
        source="Simonyan et al., Deep Inside Convolutional Networks, 2013; blur: Yosinski et al. 2015",
        parametrization="pixel",
        steps=200,
        rate=0.05,
        start_noise=0.0,
        jitter=0.0,
        rotate=0.0,
        zoom_out=1.0,
        zoom_in=1.0,
        color_jitter=0.0,
        noise=0.0,
        l2=0.02,
        blur_every=4,
        blur=1.0,
    ),
}
"""``legible``: what shows a person the class. ``simonyan``: the first paper's, on pixels, to compare with."""


def recipe(name: str = "legible", **changes: Any) -> Recipe:
    """A named recipe, with some settings changed; a change that is ``None`` changes nothing.

    Raises:
        UsageError: no such recipe or setting, or a value that is not allowed.
    """
    if name not in RECIPES:
        raise UsageError(f"there is no recipe {name!r}.{did_you_mean(name, RECIPES)} There are {', '.join(RECIPES)}.")
    given = {key: value for key, value in changes.items() if value is not None}
    known = [f.name for f in dataclasses.fields(Recipe) if f.name not in ("name", "source")]
    for key in given:
        if key not in known:
            hint = did_you_mean(key, known)
            raise UsageError(f"a recipe has no setting {key!r}.{hint} It has {', '.join(known)}.")
    return dataclasses.replace(RECIPES[name], **given)
