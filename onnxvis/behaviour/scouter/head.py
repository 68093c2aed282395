"""The xSlot head in torch (Li et al., "SCOUTER", ICCV 2021, section 3.1).

With F the feature map of the backbone, l its places, n slots (classes times slots per class) and d channels:

    F'   = relu(conv1x1(F)),  F~ = F' + position encoding          d x l
    D    = Q(W) K(F~) / sqrt(d)                                    n x l products of slots and places
    D'_i = D_i / sum_j D_ij * sum_ij D_ij                          where normalized: every row gets the same sum
    A    = sigmoid(D')                                             n x l attention, in (0, 1)
    U    = A F'^T / d                                              n x d attended features, never negative
    W    = GRU(U, W)                                               T times, from learned first slots
    xSlot_e = e * sum over a class's slots and the d channels of U(T)

The row normalization (a setting), the two scalings by d and Q being the identity are those of the authors' published
code.
Since U is linear in A, a class's logit is exactly the sum over places of e * A * mean_d F': nothing else enters.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from onnxvis.behaviour.scouter.settings import SMALLEST_SUM, HeadForm

__all__ = ["XSlotHead", "position_encoding"]

_TEMPERATURE = 10000.0


def position_encoding(dim: int, height: int, width: int) -> np.ndarray:
    """Sines and cosines of rows, then of columns: ``(dim, height, width)`` float64.

    Positions run from 1/n to 1 times two pi; frequencies fall geometrically by 10000 (the sinusoidal encoding of
    "Attention is all you need", brought to two axes by DETR, which the authors' code uses).
    """
    half = dim // 2
    rates = _TEMPERATURE ** (2 * (np.arange(half) // 2) / half)
    parts = []
    for count, axis in ((height, 0), (width, 1)):
        angle = 2 * math.pi * np.arange(1, count + 1)[None, :] / count / rates[:, None]
        waves = np.where(np.arange(half)[:, None] % 2 == 0, np.sin(angle), np.cos(angle))
        grid = waves[:, :, None] if axis == 0 else waves[:, None, :]
        parts.append(np.broadcast_to(grid, (half, height, width)))
    return np.concatenate(parts)


def _layers(dim: int, count: int) -> nn.Sequential:
    modules: list[nn.Module] = []
    for i in range(count):
        modules += [nn.ReLU()] * (i > 0) + [nn.Linear(dim, dim)]
    return nn.Sequential(*modules)


class XSlotHead(nn.Module):
    """Features ``(N, C, H, W)`` to logits ``(N, K)``, attention ``(N, K, H, W)`` and the area, a number.

    A class's attention is the sum of its slots', so it lies between 0 and the number of slots; the area is the mean
    attention of a slot at a place.
    """

    def __init__(self, form: HeadForm) -> None:
        super().__init__()
        chosen = form.settings
        self.form = form
        self.reduce = nn.Conv2d(form.channels, chosen.dim, 1)
        encoding = position_encoding(chosen.dim, form.height, form.width)
        self.encoding: Tensor
        self.register_buffer("encoding", torch.from_numpy(encoding.reshape(1, chosen.dim, -1)).float())
        mu, sigma = torch.randn(1, 1, chosen.dim), torch.randn(1, 1, chosen.dim).abs()
        self.slots = nn.Parameter(mu + sigma * torch.randn(1, form.classes * chosen.slots, chosen.dim))
        self.keys = _layers(chosen.dim, chosen.key_layers)
        self.queries = _layers(chosen.dim, chosen.query_layers)
        self.update = nn.GRUCell(chosen.dim, chosen.dim)

    def calibrate(self, features: Tensor) -> None:
        """Divide the convolution's first weights by the root mean square of some features ``(N, C, H, W)``.

        Backbones differ in scale by orders of magnitude; the head should not start saturated because of it.
        """
        scale = float(features.double().pow(2).mean().sqrt())
        if scale > 0:
            with torch.no_grad():
                self.reduce.weight /= scale

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, attention and area."""
        chosen, form = self.form.settings, self.form
        values = torch.relu(self.reduce(features)).flatten(2)
        keys = self.keys((values + self.encoding).transpose(1, 2))
        values = values.transpose(1, 2)
        slots = self.slots.expand(len(features), -1, -1)
        for step in range(chosen.iterations):
            products = self.queries(slots) @ keys.transpose(1, 2) / math.sqrt(chosen.dim)
            attention = torch.sigmoid(_same_sums(products) if chosen.normalize else products)
            attended = attention @ values / chosen.dim
            if step + 1 < chosen.iterations:  # the last update of the slots would be read by nobody
                flat = self.update(attended.flatten(0, 1), slots.reshape(-1, chosen.dim))
                slots = flat.view(attended.shape)
        shape = (len(features), form.classes, chosen.slots)
        logits = chosen.sign * attended.sum(2).view(shape).sum(2)
        maps = attention.view(*shape, form.height, form.width).sum(2)
        return logits, maps, attention.mean()


def _same_sums(products: Tensor) -> Tensor:
    """Rows scaled so that each has the sum of all: ``(N, n, l)``."""
    sums = products.sum(2, keepdim=True)
    near = torch.where(sums < 0, -SMALLEST_SUM, SMALLEST_SUM)
    return products / torch.where(sums.abs() < SMALLEST_SUM, near, sums) * sums.sum(1, keepdim=True)
