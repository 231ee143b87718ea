"""Workers on a Ray cluster, or on a Ray that is started for the run on this machine alone."""

from __future__ import annotations

import math
import os
import pickle
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from tokenreduce.engines.events import Event, events, start
from tokenreduce.engines.listening import listening
from tokenreduce.engines.local import cores
from tokenreduce.engines.pool import Pool, Slot
from tokenreduce.errors import ConfigError, WorkerError
from tokenreduce.fingerprint import code_digest
from tokenreduce.units import MakeWorker, Unit, Worker

_PATIENCE = 300.0  # seconds without any worker before the run is given up
_LONGEST = 25  # bytes of the path of the temporary folder; Ray adds some seventy
_LINE = 200  # characters of what Ray says that are kept
_BESIDE = "beside"  # of an actor's methods that run while it does a unit
_OBJECTS = 100 * 2**20  # bytes of shared memory for records, which are small


class RayWorker:
    """What an actor is: a worker, and a method for each message of the local engine."""

    def __init__(self) -> None:
        self._worker: Worker | None = None

    def start(self, make_worker: bytes, code: str) -> Event:
        """Make the worker, if the code here is that of the process that sends the units.

        Parameters
        ----------
        make_worker
            Pickle of what makes it.
        code
            From :func:`tokenreduce.fingerprint.code_digest`, there.
        """
        if code_digest() != code:
            return Event(
                "refused",
                reason=f"the code of tokenreduce on the node '{socket.gethostname()}' is not that "
                "of the process that started the run: install the same version on both.",
            )
        self._worker, event = start(lambda: cast(MakeWorker, pickle.loads(make_worker)))
        return event

    def run(self, unit: bytes) -> Iterator[Event]:
        """Do a unit."""
        assert self._worker is not None
        yield from events(self._worker, pickle.loads(unit))

    def ahead(self, unit: bytes) -> None:
        """Announce a unit, or take back the last announcement."""
        assert self._worker is not None
        self._worker.ahead(pickle.loads(unit))


class RaySlot(Slot):
    """A place for one actor.

    Parameters
    ----------
    actor_class
        Remote class with its resources.
    """

    def __init__(self, actor_class: Any) -> None:
        super().__init__()
        self._class = actor_class
        self._actor: Any = None
        self.pending: Any = None  # what the next event comes from: a reference, or a stream of them

    def start(self, make_worker: MakeWorker) -> None:
        """Ask Ray for an actor, which waits until a node has room for it."""
        self._actor = self._class.remote()
        self.pending = self._actor.start.remote(pickle.dumps(make_worker), code_digest())

    def give(self, unit: Unit) -> None:
        """Send the unit; its events come as a stream."""
        self.pending = self._actor.run.options(num_returns="streaming").remote(pickle.dumps(unit))

    def ahead(self, unit: Unit | None) -> None:
        """Send the announcement, which does not wait until the unit before is done."""
        self._actor.ahead.options(concurrency_group=_BESIDE).remote(pickle.dumps(unit))

    def receive(self) -> Event:
        """Return the next event; that the actor is gone if Ray says so."""
        import ray

        try:
            reference = next(self.pending) if self.state == "busy" else self.pending
            return cast(Event, ray.get(reference))
        except (ray.exceptions.RayError, StopIteration) as error:
            return Event("lost", reason=f"the Ray worker is lost: {_cause(error)}")

    def kill(self) -> None:
        """End the actor without waiting for it."""
        import ray

        if self._actor is not None and ray.is_initialized():
            ray.kill(self._actor)

    def leave(self) -> None:
        """Forget the actor, which Ray ends."""
        self._actor = self.pending = None


class RayEngine(Pool[RaySlot]):
    """Ray actors, one per worker.

    Parameters
    ----------
    workers
        How many; None: as many as the cluster has room for.
    device, small
        As in :func:`tokenreduce.engines.engine`.
    address
        Of a cluster, ``auto`` for one on this machine; None: ``RAY_ADDRESS``, or one of our own.
    gpus, cpus
        Per worker. By default one GPU and one core on a cluster that has GPUs; else one core for a
        small model, and the node's cores shared out for another one.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        device: str = "auto",
        small: bool = False,
        address: str | None = None,
        gpus: float | None = None,
        cpus: float | None = None,
    ) -> None:
        super().__init__()
        _check_share(gpus)
        self.workers, self.device, self.small = workers, device, small
        self.address = address or os.environ.get("RAY_ADDRESS")
        _require_ray(own=self.address is None)
        self.gpus, self.cpus = gpus, cpus
        self._folder: str | None = None
        self._connected = False

    def open(self) -> None:
        """Connect to the cluster, or start one."""
        import ray

        if self.slots:
            return
        if not ray.is_initialized():
            self._connect()
            self._connected = True
            _speak(False)
        try:
            gpus, cpus = self._shares(_nodes())
            room = _room(_nodes(), gpus, cpus)
            if not room:
                raise ConfigError(
                    f"no node of the Ray cluster has {gpus:g} GPUs and {cpus:g} cores for a worker "
                    f"(nodes: {_said(_nodes())}): ask for less of them."
                )
        except BaseException:
            self.close()
            raise
        remote = ray.remote(
            num_gpus=gpus,
            num_cpus=cpus,
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={_BESIDE: 1},
        )
        self.slots = [RaySlot(remote(RayWorker)) for _ in range(self.workers or room)]
        self._share = gpus, cpus

    def wait(self, slots: Sequence[RaySlot]) -> Sequence[RaySlot]:
        """Wait until an actor has something to say, not for ever if none of them is ready."""
        import ray

        by_pending = {slot.pending: slot for slot in slots}
        patience = None if any(slot.state == "busy" for slot in slots) else _PATIENCE
        ready, _ = ray.wait(list(by_pending), timeout=patience)
        if not ready:
            raise WorkerError(
                f"the Ray cluster had no room for a worker in {_PATIENCE:g} s (nodes: "
                f"{_said(_nodes())}): what is finished is kept, so run again when there is room."
            )
        return [by_pending[each] for each in ready]

    def close(self) -> None:
        """End the actors; leave the cluster, and end it if it is ours."""
        import ray

        super().close()
        self.slots = []
        if self._connected:
            ray.shutdown()
            _speak(True)
            _forget_token()
            self._connected = False
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def about(self) -> list[str]:
        """Say where Ray is, what the workers have, and what listens."""
        gpus, cpus = self._share
        where = f"at {self.address}" if self._folder is None else "started on this machine"
        return [
            f"Ray {where}, authentication: {_authentication()}; nodes: {_said(_nodes())}",
            f"{len(self.slots)} workers with {cpus:g} cores and {gpus:g} GPUs each",
            *(f"listening at {line}" for line in listening()),
        ]

    def _connect(self) -> None:
        import ray

        settings: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        environment = {"RAY_USAGE_STATS_ENABLED": "0"}
        if self.address is None:
            # Only its owner may enter the folder, so the sockets in it are shut to others.
            self._folder = tempfile.mkdtemp(prefix="ray-", dir=_temporary())
            settings |= {
                "address": "local",
                "num_cpus": max(cores(), round((self.workers or 1) * (self.cpus or 1))),
                "include_dashboard": False,
                "object_store_memory": _OBJECTS,
                "_node_ip_address": "127.0.0.1",
                "_temp_dir": self._folder,
            }
            environment |= _private()
        else:
            settings |= {"address": self.address}
        try:
            with _environment(environment):
                _forget_token()
                ray.init(**settings)
        except (ray.exceptions.RayError, OSError, RuntimeError, ValueError) as error:
            self.close()
            where = self.address or "this machine"
            raise WorkerError(
                f"Ray at {where} cannot be reached ({_cause(error)}): see that it runs, and that "
                "RAY_AUTH_MODE and the token are the same here and there."
            ) from error

    def _shares(self, nodes: Sequence[Mapping[str, float]]) -> tuple[float, float]:
        """Return GPUs and cores per worker."""
        wanted = self.device == "auto" or self.device.startswith("cuda")
        gpus = self.gpus
        if gpus is None:
            gpus = 1.0 if wanted and any(node.get("GPU", 0) for node in nodes) else 0.0
        if self.cpus is not None:
            return gpus, self.cpus
        if gpus or self.small:
            return gpus, 1.0
        per_node = math.ceil((self.workers or len(nodes)) / len(nodes))
        smallest = min((node["CPU"] for node in nodes if node.get("CPU")), default=1.0)
        return gpus, max(1.0, smallest // per_node)


_LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Makes a Ray that is imported with it take the loopback address as that of the machine, and listen
there only. The name tells what it was first for."""


def _require_ray(*, own: bool) -> None:
    """Import Ray; if it is to be one of our own, so that it listens on the loopback address."""
    try:
        with _environment(_LOOPBACK if own else {}):
            import ray  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(
            "the engine 'ray' needs the package ray: install it with `pip install "
            "'tokenreduce[ray]'`, or use the engine 'local'."
        ) from error


def _check_share(gpus: float | None) -> None:
    """Raise if Ray does not share out GPUs so."""
    if gpus is not None and (gpus < 0 or (gpus > 1 and gpus != int(gpus))):
        raise ConfigError(
            f"{gpus:g} GPUs per worker cannot be shared out: give a whole number, or a fraction "
            "below 1 for several workers on one GPU."
        )


def _temporary() -> str:
    """Return where Ray may put its folder: paths of sockets in it are limited to 107 bytes."""
    usual = tempfile.gettempdir()
    return usual if len(usual.encode()) <= _LONGEST else "/tmp"


def _private() -> dict[str, str]:
    """Return the environment of a Ray that is for this process alone."""
    own = _LOOPBACK | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return own
    # Given by the environment, the token is in no file that could stay behind.
    return own | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _speak(aloud: bool) -> None:
    """Choose whether Ray prints about lost workers, which it does among what we print."""
    import ray._private.worker

    ray._private.worker._worker_logs_enabled = aloud


def _forget_token() -> None:
    """Let Ray read the token again, which it does only once in a process."""
    import ray._raylet as core

    loader: Any = core
    loader.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables for the processes that are started inside."""
    names = {*values, "RAY_AUTH_MODE"}  # which Ray sets where it starts itself
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _nodes() -> list[dict[str, float]]:
    """Return the resources of each node."""
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def _room(nodes: Sequence[Mapping[str, float]], gpus: float, cpus: float) -> int:
    """Return how many workers the nodes can hold; a worker's share of a GPU is of one GPU."""
    return sum(_room_of_node(node.get("GPU", 0), node.get("CPU", 0), gpus, cpus) for node in nodes)


def _room_of_node(node_gpus: float, node_cpus: float, gpus: float, cpus: float) -> int:
    limits = []
    if cpus:
        limits.append(int(node_cpus // cpus))
    if gpus:
        per_gpu = int(1 // gpus) if gpus < 1 else 1
        limits.append(int(node_gpus // max(gpus, 1)) * per_gpu)
    return min(limits, default=1)


def _said(nodes: Sequence[Mapping[str, float]]) -> str:
    each = [f"{node.get('CPU', 0):g} cores, {node.get('GPU', 0):g} GPUs" for node in nodes]
    return f"{len(each)} ({'; '.join(each)})"


def _authentication() -> str:
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    return "token" if is_token_auth_enabled() else "none"


def _cause(error: BaseException) -> str:
    """Return what Ray says in one line, without its lists of ids and advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "because" in line or "Failed" in line] or lines
    cause = telling[0] if telling else type(error).__name__
    return cause.split(" Some common causes")[0][:_LINE]
