"""The Ray node on this machine, drained through the cluster's GCS. Ray is imported when it is needed, at the machine's end.

Ray 2.60 has a command for it, ``ray drain-node``, which can not be told a node by its address; what is used here is what that
command uses.
"""

import contextlib
from collections.abc import Iterator

_GCS_TIMEOUT_S = 20.0


class RayUnavailable(Exception):
    """There is no node to drain now; one sentence says why."""


def drain(address: str, *, drained: frozenset[str], deadline: float, message: str) -> frozenset[str]:
    """Drain every living node of the cluster that has this machine's address, but for those that are drained already.

    The cluster is that of ``RAY_ADDRESS``, else the one that ``ray start`` has joined on this machine. Its token is that of
    ``RAY_AUTH_TOKEN_PATH``.

    Args:
        address: IP address by which this machine's node is known in the cluster.
        drained: ids of nodes that need no second request.
        deadline: UNIX seconds, until which the nodes are there.
        message: the reason, for the cluster's log.

    Returns:
        Ids of the nodes that are drained now, those of ``drained`` aside.

    Raises:
        RayUnavailable: Ray is not up here, the cluster does not answer, or it refuses.
    """
    from ray._private.services import canonicalize_bootstrap_address
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION
    from ray.core.generated.gcs_pb2 import GcsNodeInfo

    cluster = canonicalize_bootstrap_address(None)
    if cluster is None:
        raise RayUnavailable("Ray is not up: neither RAY_ADDRESS nor ray start's note names a cluster")
    with _in_one_sentence(f"the cluster at {cluster} does not answer"):
        gcs = GcsClient(address=cluster)
        nodes = gcs.get_all_node_info(timeout=_GCS_TIMEOUT_S).items()
    alive = [node_id.hex() for node_id, node in nodes if _is_at(node, address, GcsNodeInfo.GcsNodeState.ALIVE)]
    if not alive:
        raise RayUnavailable(f"Ray is not up: no living node of {cluster} has this machine's address, {address}")
    request = (DRAIN_NODE_REASON_PREEMPTION, message, int(1000 * deadline))
    done, failures = set(), list[RayUnavailable]()
    for node_id in sorted(set(alive) - drained):
        try:
            with _in_one_sentence(f"node {node_id} could not be drained"):
                accepted, why = gcs.drain_node(node_id, *request, timeout=_GCS_TIMEOUT_S)
                if not accepted:
                    raise RayUnavailable(f"the cluster at {cluster} refuses to drain node {node_id}: {why}")
                done.add(node_id)
        except RayUnavailable as error:  # such as a node that has just gone, beside the one that has taken its place
            failures.append(error)
    if failures and not done:
        raise failures[0]
    return frozenset(done)


def _is_at(node: object, address: str, alive: int) -> bool:
    return node.node_manager_address == address and node.state == alive  # type: ignore[attr-defined]


@contextlib.contextmanager
def _in_one_sentence(what: str) -> Iterator[None]:
    """Whatever the network, Ray or its token brings, to be tried again until the end."""
    try:
        yield
    except RayUnavailable:
        raise
    except Exception as error:
        text = next(iter(str(error).splitlines()), "")
        raise RayUnavailable(f"{what} ({type(error).__name__}: {text})") from error
