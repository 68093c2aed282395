"""One store of small pictures for the tests of what is answered from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.stores import LAYERS, small_model, write_photos

from onnxvis.model import Model


@dataclass
class Room:
    """A store with the model and pictures it was made of, and every activation by brute force."""

    folder: Path
    model: Model
    photos: list[Path]
    store: Any
    maps: dict[str, np.ndarray]


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> Room:
    pytest.importorskip("lance", reason="stores need the 'index' extra")
    from onnxvis.behaviour.index.run import IndexOptions, index

    folder = tmp_path_factory.mktemp("store")
    model = small_model(folder)
    photos = write_photos(folder / "photos")
    summary = index(model, [str(folder / "photos")], folder / "store", IndexOptions(layers=LAYERS, top_k=5))
    x = np.concatenate([model.prepare(path).tensor for path in photos])
    return Room(folder, model, photos, summary.store, model.engine.forward(x, LAYERS))
