"""What the routes ask for answers: an interface, and its form inside this process, without Ray."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from rdd.serving.answer import Answer
from rdd.serving.explain import explain
from rdd.serving.predictor import Predictor
from rdd.serving.prepare import Prepared
from rdd.serving.web.description import described


class Backend(Protocol):
    """Prepares and scores images."""

    async def prepare(self, data: bytes, name: str | None) -> Prepared:
        """One image decoded, resized and cropped; one that can not be used has its reason.

        Raises:
            BusyError: too many wait.
        """

    async def answer(self, image: Prepared, caption: str | None) -> Answer:
        """What is said of a prepared image.

        Raises:
            BusyError: too many wait.
        """

    async def explain(self, image: Prepared, caption: str | None) -> dict[str, Any]:
        """The explanation of a readable image, as :meth:`rdd.serving.explain.Explanation.to_dict` gives it.

        Raises:
            BusyError: too many wait.
        """

    async def describe(self) -> dict[str, Any]:
        """The detector, as :func:`rdd.serving.web.description.described` gives it."""

    async def is_ready(self) -> bool:
        """Whether the model is loaded."""


class LocalBackend:
    """Decodes in threads, and scores in one thread whatever has come meanwhile, at most a batch of it.

    Args:
        predictor: loaded.
        decoders: threads that decode.
        batch_size: images in one pass of the encoder, at most.
    """

    def __init__(self, predictor: Predictor, *, decoders: int, batch_size: int) -> None:
        self._predictor, self._batch_size = predictor, batch_size
        self._decoding = ThreadPoolExecutor(decoders, thread_name_prefix="decode")
        self._scoring = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._waiting: list[tuple[Prepared, str | None, asyncio.Future[Answer]]] = []
        self._batches: asyncio.Task[None] | None = None

    async def prepare(self, data: bytes, name: str | None) -> Prepared:
        return await asyncio.get_running_loop().run_in_executor(self._decoding, self._predictor.preparer, data, name)

    async def answer(self, image: Prepared, caption: str | None) -> Answer:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((image, caption, future))
        if self._batches is None or self._batches.done():
            self._batches = asyncio.create_task(self._score_waiting())
        return await future

    async def explain(self, image: Prepared, caption: str | None) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._scoring, explained, self._predictor, image, caption)

    async def describe(self) -> dict[str, Any]:
        return described(self._predictor)

    async def is_ready(self) -> bool:
        return True

    @property
    def version(self) -> str:
        """Of the detector."""
        return self._predictor.detector.version

    def reload(self, detector: str) -> None:
        """Answer with another detector of the same encoder from the next batch on.

        Args:
            detector: its directory.

        Raises:
            ValueError: there is none, or it is of another encoder; the one before stays.
            RuntimeError: its files are torn; the one before stays.
        """
        self._predictor = self._predictor.with_detector(detector)

    def close(self) -> None:
        """End the threads."""
        self._decoding.shutdown(wait=False, cancel_futures=True)
        self._scoring.shutdown(wait=False, cancel_futures=True)

    async def _score_waiting(self) -> None:
        """Batch after batch until nothing waits."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting[: self._batch_size], self._waiting[self._batch_size :]
            images, captions = [image for image, _, _ in batch], [caption for _, caption, _ in batch]
            try:
                answers = await loop.run_in_executor(self._scoring, self._predictor.answers, images, captions)
            except Exception as error:  # each who waits is told of it
                _set_all([future for _, _, future in batch], error)
            else:
                for (_, _, future), answer in zip(batch, answers, strict=True):
                    if not future.done():  # who asked may have gone
                        future.set_result(answer)


def explained(predictor: Predictor, image: Prepared, caption: str | None) -> dict[str, Any]:
    """The explanation of a readable image."""
    return explain(predictor, image, caption=caption).to_dict()


def _set_all(futures: list[asyncio.Future[Answer]], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
