"""How the process that answers HTTP asks decoders and models: full queues become 429, and a dead process is made up for."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle, DeploymentResponse

from rdd.serving.answer import Answer
from rdd.serving.prepare import Prepared
from rdd.serving.web.refusal import BusyError

logger = logging.getLogger(__name__)

_TRIES = 3
"""Of one image, where the process that looks at it dies."""
_STATUS_S = 1.0
"""The state of the deployments is asked for so often at most."""


class RayBackend:
    """Asks decoders and models.

    Args:
        decode: decodes.
        model: scores.
        retry_after_s: seconds after which who got 429 may try again.
    """

    def __init__(self, decode: DeploymentHandle, model: DeploymentHandle, retry_after_s: float) -> None:
        self._decode, self._model, self._retry_after_s = decode, model, retry_after_s
        self._ready, self._looked_s = False, -_STATUS_S

    async def prepare(self, data: bytes, name: str | None) -> Prepared:
        image: Prepared = await self._asked(lambda: self._decode.remote(data, name))
        return image

    async def answer(self, image: Prepared, caption: str | None) -> Answer:
        answer: Answer = await self._asked(lambda: self._model.remote(image, caption))
        return answer

    async def explain(self, image: Prepared, caption: str | None) -> dict[str, Any]:
        found: dict[str, Any] = await self._asked(lambda: self._model.explain.remote(image, caption))
        return found

    async def describe(self) -> dict[str, Any]:
        found: dict[str, Any] = await self._asked(self._model.describe.remote)
        return found

    async def is_ready(self) -> bool:
        """Whether every deployment has a replica that runs, as of a second ago at most."""
        now = asyncio.get_running_loop().time()
        if now - self._looked_s >= _STATUS_S:
            self._looked_s = now
            self._ready = await asyncio.to_thread(_all_run, serve.get_replica_context().app_name)
        return self._ready

    async def _asked(self, ask: Callable[[], DeploymentResponse]) -> Any:
        """The answer of a replica, of another one where the first dies.

        Raises:
            BusyError: the queue is full.
            RayActorError: as many replicas died as an image may cost.
        """
        for tries_left in reversed(range(_TRIES)):
            try:
                return await ask()
            except BackPressureError as error:
                raise BusyError(self._retry_after_s) from error
            except RayActorError:
                if not tries_left:
                    raise
                logger.warning("a process has died, and its images are looked at by another one")
        raise AssertionError


def _all_run(name: str) -> bool:
    """Whether every deployment of an application has a replica that answers."""
    deployments = serve.status().applications[name].deployments.values()
    return all({"RUNNING", "UPDATING"} & set(one.replica_states) for one in deployments)
