"""A pool of Ray actors, each with one model (or with the two that are compared), that work on a list of items.

Ray schedules, moves objects, restarts what died and tries its items again. What comes out is handed to the caller as
it is finished, in any order; an item is started only when there is room for it, so memory stays bounded.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeVar

from onnxvis.cluster.recipe import Recipe, Recipes
from onnxvis.errors import OnnxvisError, UsageError, require

if TYPE_CHECKING:
    from onnxvis.model import Model

__all__ = ["ClusterOptions", "Pace", "RayPool"]

T = TypeVar("T")
R = TypeVar("R")

_RETRIES: Final = 5
_OBJECT_STORE: Final = 512 * 1024**2
_POLL: Final = 0.5


@dataclass(frozen=True)
class ClusterOptions:
    """Where and with what the work runs.

    Attributes:
        address: of a running cluster; ``None`` starts Ray on this machine, for this run.
        actors: how many; ``None`` for as many as the cluster has processors for.
        cpus: processors of each, which is also the number of its threads.
        gpus: of each; a fraction shares one.
        in_flight: items that wait at each actor, the one it works on included.
        fan_in: shards of an index that an actor brings together before it hands them over; ``None`` for one, and more
            while the process that commits is behind.
    """

    address: str | None = None
    actors: int | None = None
    cpus: int = 1
    gpus: float = 0.0
    in_flight: int = 2
    fan_in: int | None = None

    def __post_init__(self) -> None:
        if self.actors is not None and self.actors < 1:
            raise UsageError(f"the number of actors is at least 1, not {self.actors}.")
        if self.fan_in is not None and self.fan_in < 1:
            raise UsageError(f"an actor brings at least 1 shard together, not {self.fan_in}.")
        if self.cpus < 1 or self.gpus < 0 or self.in_flight < 1:
            raise UsageError("an actor has at least one processor, no less than 0 GPUs, and one item in flight.")


@dataclass
class Pace:
    """What the actors did.

    Attributes:
        actors: how many there were.
        items: finished.
        busy: seconds that actors worked, by actor.
        stages: seconds by stage, as the work reported them, over all actors.
        seconds: from the first item to the last, of every list.
        starting: seconds before that, until Ray ran and every actor had opened the model.
    """

    actors: int = 0
    items: int = 0
    busy: dict[int, float] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    starting: float = 0.0

    def slowest(self) -> tuple[str, float] | None:
        """The stage that took most of the time, and its part."""
        whole = sum(self.stages.values())
        if not whole:
            return None
        name = max(self.stages, key=lambda stage: self.stages[stage])
        return name, self.stages[name] / whole


Work = Callable[[Any, T], tuple[R, dict[str, float]]]


class _Actor:
    """One model, or several, in one process; what Ray runs.

    The recipe comes with every call, as a reference in a list, which Ray does not follow: so an actor that was started
    again opens the model as the first one did, and nothing is sent twice.
    """

    def __init__(self) -> None:
        self.model: Any = None

    def ready(self, recipe: list[Any]) -> bool:
        """Answers when the model is open."""
        if self.model is None:
            import ray

            self.model = ray.get(recipe[0]).open()
        return True

    def run(self, recipe: list[Any], work: Work[Any, R], item: Any, common: Any) -> tuple[R, dict[str, float], float]:
        """The result, the seconds of its stages, and all of them."""
        began = time.perf_counter()
        self.ready(recipe)
        result, stages = work(self.model, item if common is None else (common, item))
        return result, stages, time.perf_counter() - began


class RayPool:
    """Actors with one model each, or with the same few.

    Use it in a ``with`` statement: what it started, it ends.

    Args:
        model: opened here; every actor opens it again. Several are handed to the work as a tuple.
        options: where and with what.

    Attributes:
        pace: what was done so far.
        backlog: finished items that wait to be taken, for each actor, when the last one was taken.

    Raises:
        DependencyError: Ray is not installed.
        OnnxvisError: the cluster cannot be reached, or has no room for a single actor.
    """

    def __init__(self, model: Model | tuple[Model, ...], options: ClusterOptions | None = None) -> None:
        self.options = options or ClusterOptions()
        began = time.perf_counter()
        self._ray = require("ray", "ray", "--engine ray")
        self._started = False
        self._connect()
        self.pace = Pace(actors=self._room())
        self.backlog = 0.0
        recipe = Recipes.of(model) if isinstance(model, tuple) else Recipe.of(model)
        self._recipe = [self._ray.put(recipe)]
        threads = {name: str(self.options.cpus) for name in ("ONNXVIS_THREADS", "OMP_NUM_THREADS")}
        made = self._ray.remote(_Actor).options(
            num_cpus=self.options.cpus,
            num_gpus=self.options.gpus,
            max_restarts=-1,
            max_task_retries=_RETRIES,
            runtime_env={"env_vars": threads},
        )
        self._actors = [made.remote() for _ in range(self.pace.actors)]
        try:
            self._ray.get([actor.ready.remote(self._recipe) for actor in self._actors])
        except Exception as error:
            self.close()
            raise _ours(error, "the model cannot be opened by an actor") from error
        self.pace.starting = time.perf_counter() - began

    def __enter__(self) -> RayPool:
        """The pool itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the actors, and Ray where it was started here."""
        self.close()

    def _connect(self) -> None:
        if self._ray.is_initialized():
            return
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        shared = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": True}
        here = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE, "_metrics_export_port": None}
        try:
            if self.options.address is not None:
                self._ray.init(address=self.options.address, **shared)
            else:
                wanted = self.options.cpus * (self.options.actors or 0)
                self._ray.init(num_cpus=max(wanted, _processors()), **shared, **here)
        except Exception as error:  # Ray raises ConnectionError, ValueError, RuntimeError and its own
            where = self.options.address or "this machine"
            reason = " ".join(str(error).split())[:300]
            raise OnnxvisError(f"Ray cannot be used at {where}: {reason}.") from error
        self._started = True

    def _room(self) -> int:
        """How many actors: as many as asked for, or as there is room for."""
        have = self._ray.cluster_resources()
        fit = int(have.get("CPU", 0) // self.options.cpus)
        if self.options.gpus:
            fit = min(fit, int(have.get("GPU", 0) / self.options.gpus))
        if fit < 1 or (self.options.actors or 0) > fit:
            self.close()
            raise OnnxvisError(
                f"the cluster has room for {fit} actors of {self.options.cpus} processors and {self.options.gpus:g} "
                f"GPUs (it has {have.get('CPU', 0):g} and {have.get('GPU', 0):g}): ask for fewer or smaller ones."
            )
        return self.options.actors or fit

    def run(self, work: Work[Any, R], items: Iterable[Any], common: Any = None) -> Iterator[R]:
        """Results as they are finished, each exactly once; the order is not that of the items.

        Args:
            work: a function of a module, called in an actor with its model and an item: gives the result, and seconds
                by stage. It may be called again for an item whose actor died.
            items: plain data; the next one is drawn when there is room for it.
            common: plain data, sent once; the work is then given ``(common, item)``.

        Raises:
            OnnxvisError: what the work raised; or actors died on one item time after time.
        """
        began, before, source = time.perf_counter(), self.pace.seconds, iter(items)
        shared = None if common is None else self._ray.put(common)
        pending: dict[Any, int] = {}
        try:
            for _ in range(self.options.in_flight):
                for number in range(len(self._actors)):
                    self._submit(number, work, source, shared, pending)
            while pending:
                done, _ = self._ray.wait(list(pending), num_returns=1, timeout=_POLL)
                for reference in done:
                    number = pending.pop(reference)
                    result = self._taken(reference, number)
                    self.backlog = self._waiting(pending) / self.pace.actors
                    self._submit(number, work, source, shared, pending)
                    self.pace.seconds = before + time.perf_counter() - began
                    yield result
        finally:
            for reference in pending:
                with contextlib.suppress(Exception):
                    self._ray.cancel(reference)

    def _submit(
        self, number: int, work: Work[Any, R], source: Iterator[Any], shared: Any, pending: dict[Any, int]
    ) -> None:
        for item in source:
            pending[self._actors[number].run.remote(self._recipe, work, item, shared)] = number
            return

    def _waiting(self, pending: dict[Any, int]) -> int:
        """How many items are finished."""
        return len(self._ray.wait(list(pending), num_returns=len(pending), timeout=0)[0]) if pending else 0

    def _taken(self, reference: Any, number: int) -> Any:
        try:
            result, stages, seconds = self._ray.get(reference)
        except Exception as error:
            raise _ours(error, f"an actor died {_RETRIES + 1} times on one piece of work") from error
        self.pace.items += 1
        self.pace.busy[number] = self.pace.busy.get(number, 0.0) + seconds
        for name, spent in stages.items():
            self.pace.stages[name] = self.pace.stages.get(name, 0.0) + spent
        return result

    def close(self) -> None:
        """End the actors, and Ray where it was started here. May be called twice."""
        for actor in getattr(self, "_actors", []):
            with contextlib.suppress(Exception):
                self._ray.kill(actor)
        self._actors = []
        self._recipe = []
        if self._started:
            self._started = False
            self._ray.shutdown()


def _processors() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _ours(error: Exception, what: str) -> OnnxvisError:
    """The error of ours that the work raised, or one that says what happened to the actor."""
    cause = getattr(error, "cause", None)
    for found in (error, cause, error.__cause__):
        if isinstance(found, OnnxvisError):
            return found
    reason = " ".join(str(cause or error).split())[:300]
    return OnnxvisError(f"{what}: {reason}")
