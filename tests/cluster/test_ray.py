"""The index on Ray gives what it gives here, bit for bit, whoever dies on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import pytest
from PIL import Image
from support.nets import SmallNet
from support.ray_work import always_die, die_once, refuse

import onnxvis
from onnxvis.cli import main
from onnxvis.errors import OnnxvisError, UsageError
from onnxvis.reading import list_pictures

pytest.importorskip("ray", reason="the engine needs the extra 'ray'")
pytest.importorskip("lance", reason="the store of `onnxvis index` needs the extra 'index'")

from onnxvis.behaviour.index import Store
from onnxvis.behaviour.index.layers import embedding_tap, unit_taps
from onnxvis.behaviour.index.run import IndexOptions, index, shards_of
from onnxvis.behaviour.index.shard import IndexSpec
from onnxvis.cluster import ClusterOptions, Pace, RayPool, Recipe
from onnxvis.cluster.indexing import RayIndexing, most_together

pytestmark = pytest.mark.usefixtures("ray_cluster")
COUNT = 24
OPTIONS = IndexOptions(layers=("auto", "logits"), top_k=4, batch_size=2, shard_size=2)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ray")
    onnx.save(SmallNet(width=4).model(), root / "model.onnx")
    rng = np.random.default_rng(0)
    (root / "pictures").mkdir()
    for number in range(COUNT):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(root / "pictures" / f"{number}.png")
    (root / "pictures" / "7.png").write_bytes(b"no picture")
    return root


@pytest.fixture(scope="module")
def model(place: Path) -> onnxvis.Model:
    return onnxvis.load(place / "model.onnx", preprocessing="unit")


@pytest.fixture(scope="module")
def whole(place: Path, model: onnxvis.Model) -> Store:
    return index(model, [str(place / "pictures")], place / "whole", OPTIONS).store


@pytest.mark.parametrize(("actors", "fan_in"), [(1, 5), (2, 1)])
def test_the_store_is_that_of_the_local_engine(
    place: Path, model: onnxvis.Model, whole: Store, tmp_path: Path, actors: int, fan_in: int
) -> None:
    engine = RayIndexing(ClusterOptions(actors=actors, fan_in=fan_in))
    done = index(model, [str(place / "pictures")], tmp_path / "s", OPTIONS, engine=engine)
    assert done.store.complete
    assert done.failed == 1
    assert done.store.fingerprint() == whole.fingerprint()
    assert engine.pace.items == -(-COUNT // 2 // fan_in)
    assert set(engine.pace.busy) == set(range(actors))
    assert set(engine.pace.stages) == {"reading", "running and counting"}
    again = RayIndexing(ClusterOptions(actors=actors))
    assert index(model, [str(place / "pictures")], tmp_path / "s", OPTIONS, engine=again).run == 0


def test_the_work_of_a_killed_actor_is_done_again_once(model: onnxvis.Model, tmp_path: Path) -> None:
    with RayPool(model, ClusterOptions(actors=2)) as pool:
        found = sorted(pool.run(die_once, ((n, str(tmp_path)) for n in range(8))))
        with pytest.raises(UsageError, match="not 5"):  # errors of the work are ours
            list(pool.run(refuse, [5]))
    assert found == [(n, 1) for n in range(8)]
    assert len(list(tmp_path.iterdir())) == 3


def test_work_that_kills_every_actor_ends_the_run(model: onnxvis.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxvis.cluster.pool._RETRIES", 1)
    with (
        RayPool(model, ClusterOptions(actors=1)) as pool,
        pytest.raises(OnnxvisError, match="an actor died 2 times on one piece of work"),
    ):
        list(pool.run(always_die, [1]))


class Pool:
    """Says how far the process that commits is behind."""

    def __init__(self, backlogs: Sequence[float], actors: int = 1) -> None:
        self._backlogs = iter([*backlogs, *[0.0] * 99])
        self.pace = Pace(actors=actors)

    @property
    def backlog(self) -> float:
        return next(self._backlogs)


def test_actors_bring_more_shards_together_while_the_driver_is_behind(model: onnxvis.Model, place: Path) -> None:
    def sizes(backlogs: Sequence[float], count: int, **options: Any) -> list[int]:
        shards = shards_of(pictures * 9, 2)[:count]
        engine = RayIndexing(ClusterOptions(**options))
        groups = list(engine._groups(cast("Any", Pool(backlogs)), spec, shards))
        assert [shard.number for group in groups for shard in group] == list(range(count))
        return [len(group) for group in groups]

    pictures = list_pictures([str(place / "pictures")])
    spec = IndexSpec(unit_taps(model, ("auto",)), embedding_tap(model, None))
    assert sizes([0] * 9, 6) == [1] * 6
    assert sizes([2] * 5, 100)[:8] == [2, 4, 8, 16, 16, 8, 4, 2]
    assert max(sizes([2] * 99, 100)) == 16
    assert sizes([2] * 99, 100)[-2:] == [1, 1]  # so that all actors end at the same time
    assert sizes([], 7, fan_in=3) == [3, 3, 1]
    assert most_together(spec, 256) == 16
    assert most_together(spec, 1024) == 4
    assert most_together(spec, 9999) == 1
    with pytest.raises(UsageError, match="at least 1 shard"):
        ClusterOptions(fan_in=0)


def test_too_many_actors_are_refused(model: onnxvis.Model) -> None:
    with pytest.raises(OnnxvisError, match="room for 2 actors"):
        RayPool(model, ClusterOptions(actors=9))
    with pytest.raises(UsageError, match="at least 1"):
        ClusterOptions(actors=0)


def test_a_recipe_opens_the_same_model(model: onnxvis.Model, place: Path, tmp_path: Path) -> None:
    recipe = Recipe.of(model)
    moved = Recipe(str(tmp_path / "gone.onnx"), recipe.sha256, recipe.data, recipe.options)
    other = tmp_path / "other.onnx"
    onnx.save(SmallNet(width=4, seed=1).model(), other)
    for one in (recipe, moved, Recipe(str(other), recipe.sha256, recipe.data, recipe.options)):
        opened = one.open()
        assert opened.sha256 == model.sha256
        assert opened.preprocessing == model.preprocessing
    with pytest.raises(OnnxvisError, match="file system that all machines share"):
        Recipe(str(other), recipe.sha256, None, recipe.options).open()


def test_a_killed_driver_goes_on(place: Path, whole: Store, tmp_path: Path) -> None:
    options = ["--layers", "auto,logits", "--top-k", "4", "--batch-size", "2", "--shard-size", "2"]
    command = ["index", str(place / "model.onnx"), str(place / "pictures"), "--preprocessing", "unit", *options]
    command += ["--engine", "ray", "--actors", "1", "--out", str(tmp_path / "s"), "--quiet"]
    run = subprocess.Popen(
        [sys.executable, "-m", "onnxvis", *command], stdout=subprocess.DEVNULL, start_new_session=True
    )
    rows = tmp_path / "s" / "tallies"
    end = time.monotonic() + 90
    while len(list(rows.glob("*.tally"))) < 2 and run.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert main(command) == 0
    assert Store.open(tmp_path / "s").fingerprint() == whole.fingerprint()


def test_the_command_line_refuses_what_does_not_fit(place: Path, tmp_path: Path, capsys: Any) -> None:
    base = [
        "index",
        str(place / "model.onnx"),
        str(place / "pictures"),
        "--preprocessing",
        "unit",
        "-o",
        str(tmp_path / "s"),
    ]
    assert main([*base, "--engine", "spark"]) == 2
    assert "local or ray" in capsys.readouterr().err
    assert main([*base, "--actors", "2"]) == 2
    assert "go with --engine ray" in capsys.readouterr().err
