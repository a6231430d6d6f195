"""The Ray that a job runs on: the running cluster, or one of its own."""

import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence

import ray
from ray.autoscaler.sdk import request_resources

from rdd.config import ClusterConfig
from rdd.on_ray.auth_token import keep_token_private
from rdd.on_ray.loopback import on_loopback
from rdd.signals import is_ending, signals_held

logger = logging.getLogger(__name__)

Bundle = Mapping[str, float]

_ENVIRONMENT = {
    "TUNE_GLOBAL_CHECKPOINT_S": "2",  # Ray Tune saves the state of a sweep every 2 s, for a restart after a kill
    "RAY_AIR_NEW_OUTPUT": "0",  # Ray Tune would draw tables on standard output
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # leave CUDA_VISIBLE_DEVICES as it is for tasks without a GPU; no warning
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # failures come as exceptions; its error lines warn of Ray Data's own actors
    "RAY_USAGE_STATS_ENABLED": "0",
    # of a local Ray: idle workers are kept, since each new one imports torch for seconds (the default is one a CPU)
    "RAY_num_workers_soft_limit": "16",
}
"""Of Ray's processes, where the user has set nothing else."""


@contextlib.contextmanager
def ray_session(config: ClusterConfig, bundles: Sequence[Bundle], *, knobs: str) -> Iterator[None]:
    """Attach to the running cluster or start a local Ray, say which, and leave as it was found.

    A process that has initialized Ray already (a notebook, several stages in one session) keeps it.

    Args:
        config: which Ray.
        bundles: what each actor or task of the job takes, ``{"CPU": 1, "GPU": 0}``, all of them at the same time.
        knobs: settings that would lower it, for the message.

    Raises:
        ValueError: this Ray is smaller than the job, after ``cluster.wait_s`` on a cluster that may grow.
        RuntimeError: no cluster answers at the address.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if ray.is_initialized():
        _wait_for_resources(config, True, bundles, knobs)
        yield
        return
    attached = _connect(config)
    try:
        _wait_for_resources(config, attached, bundles, knobs)
        yield
    finally:
        with signals_held(handlers_replaced=True):
            if attached and config.wait_s > 0:
                request_resources(bundles=[])  # what was asked for would keep nodes from ending when they are idle
            if attached or not is_ending():  # a local Ray is killed with all else below this process, which is faster
                ray.shutdown()


def _job_id() -> str:
    """Under which the dashboard shows this job, submitted or not."""
    return ray.get_runtime_context().get_job_id()


def resources_held() -> str:
    """What is in use of what there is, for a person."""
    total, free = ray.cluster_resources(), ray.available_resources()
    held = [f"{name} {total[name] - free.get(name, 0):g} of {total[name]:g}" for name in ("CPU", "GPU") if name in total]
    return ", ".join(held)


def _connect(config: ClusterConfig) -> bool:
    """Initialize Ray; True if it is a cluster that was already running, False if it is a local Ray that ends with this job."""
    common = {"logging_level": logging.ERROR, "log_to_driver": False}
    address = _running_cluster() if config.address == "auto" else config.address
    if address and address != "local":
        if not _answers(address):  # Ray itself would try for over five minutes
            raise RuntimeError(f"no Ray cluster answers at {address}; start it, or set cluster.address to local")
        try:
            binding = on_loopback() if _is_on_loopback_alone(address) else contextlib.nullcontext()
            with signals_held(handlers_replaced=True), binding:
                context = ray.init(address=address, **common)
            logger.info("attached to the Ray cluster at %s", ray.get_runtime_context().gcs_address)
            if context.dashboard_url:  # where the tunnel of `ray dashboard` ends, too
                logger.info("this job in Ray's dashboard: http://%s/#/jobs/%s", context.dashboard_url, _job_id())
            return True
        except ConnectionError as error:
            raise RuntimeError(f"no Ray cluster answers at {address}; start it, or set cluster.address to local") from error
    keep_token_private()
    with signals_held(handlers_replaced=True), on_loopback():
        ray.init(address="local", num_cpus=config.num_cpus or None, include_dashboard=False, **common)
    logger.info("started a local Ray with %g CPUs and %g GPUs", _total("CPU"), _total("GPU"))
    return False


def _running_cluster() -> str | None:
    """Address of the cluster that ``ray start`` or ``ray job submit`` told this process of.

    Ray's own "auto" would also take the private Ray of any other job on this machine, which ends with that job.
    """
    if address := os.environ.get("RAY_ADDRESS"):
        return address
    note = os.path.join(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")
    if not os.path.exists(note):
        return None
    with open(note) as file:
        address = file.read().strip()
    if not _answers(address):  # what a cluster that was killed leaves behind
        logger.info("no Ray cluster answers at %s, which %s names", address, note)
        return None
    return address


def _answers(address: str) -> bool:
    """Whether something listens at ``host:port``, with or without ``ray://`` before it; other addresses are Ray's to judge."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return True
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError):
        return False
    return True


def _is_on_loopback_alone(address: str) -> bool:
    """Whether it is another job's local Ray; Ray 2.60 itself would look for it at this machine's outer address."""
    host, _, port = address.rpartition(":")
    return host in ("127.0.0.1", "localhost") and not _answers(f"{ray.util.get_node_ip_address()}:{port}")


def _wait_for_resources(config: ClusterConfig, attached: bool, bundles: Sequence[Bundle], knobs: str) -> None:
    needed = {name: sum(bundle.get(name, 0) for bundle in bundles) for name in ("CPU", "GPU")}

    def missing() -> list[str]:
        return [name for name, amount in needed.items() if amount > _total(name) + 1e-9]

    if attached and missing() and config.wait_s > 0:
        request_resources(bundles=[{name: amount for name, amount in b.items() if amount > 0} for b in bundles])
    deadline = time.monotonic() + (config.wait_s if attached else 0)
    while (lacking := missing()) and time.monotonic() < deadline:
        logger.info("waiting for the cluster to grow: %s", ", ".join(f"{n} {_total(n):g} of {needed[n]:g}" for n in lacking))
        time.sleep(min(10.0, max(0.1, deadline - time.monotonic())))
    if lacking:
        name = lacking[0]
        where = "the cluster" if attached else "this machine"
        more = " or raise cluster.wait_s if it grows by itself" if attached else ""
        raise ValueError(f"the job needs {needed[name]:g} {name}s and {where} has {_total(name):g}; lower {knobs}{more}")


def _total(name: str) -> float:
    return float(ray.cluster_resources().get(name, 0))
