"""The leak audit with the embeddings that it asks for: copies that make the classes equal."""

import contextlib
from typing import Any

from rdd import storage
from rdd.config import Config
from rdd.on_ray.copies import KNOBS, bundles_of, embedded_copy
from rdd.on_ray.session import ray_session
from rdd.runs import audit


def run_audit(config: Config) -> dict[str, Any]:
    """Audit ``features.path``, see :func:`rdd.runs.audit.run_audit`; Ray is started when a copy is asked for."""
    with contextlib.ExitStack() as until_done:

        def embed(name: str, degrade: list[str]) -> str:
            until_done.enter_context(ray_session(config.cluster, bundles_of(config), knobs=KNOBS))
            return embedded_copy(config, storage.join(config.audit.output, "features", name), degrade)

        return audit.run_audit(config, embed)
