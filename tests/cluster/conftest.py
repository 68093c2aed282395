"""One small Ray cluster for all tests of a process that ask for it: starting it takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray", reason="the engine needs the extra 'ray'")
    ray.init(
        runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).parents[1])}},
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=100 * 2**20,
    )
    yield
    ray.shutdown()
