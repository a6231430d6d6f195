"""Many clients at the same time: who sends images to a server, and what comes back for each."""

import asyncio
import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np
from PIL import Image


def photographs(number: int, *, side: int = 320, seed: int = 0) -> list[bytes]:
    """JPEG files, each another one."""
    rng = np.random.default_rng(seed)
    files = []
    for _ in range(number):
        coarse = Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        buffer = io.BytesIO()
        coarse.save(buffer, format="JPEG", quality=90)
        files.append(buffer.getvalue())
    return files


@dataclass
class Load:
    """What came of it."""

    seconds: float = 0.0
    """From the first request to the last answer."""
    latencies: list[float] = field(default_factory=list)
    """Seconds of each request that got 200."""
    codes: Counter[int] = field(default_factory=Counter)
    """Answers by HTTP code; 0 for none."""
    mixed_up: int = 0
    """Answers with another image's hash."""
    without_wait: int = 0
    """Answers with 429 and no Retry-After."""
    versions: Counter[str] = field(default_factory=Counter)
    """Answers by version of the detector."""
    failures: list[str] = field(default_factory=list)
    """What was said by those that are neither 200 nor 429."""

    @property
    def images_per_s(self) -> float:
        """Images answered in a second."""
        return self.codes[200] / self.seconds

    def percentile(self, share: float) -> float:
        """Seconds within which such a percentage of the images was answered."""
        return float(np.percentile(self.latencies, share))


def send_all(url: str, images: Sequence[bytes], *, clients: int, headers: dict[str, str] | None = None) -> Load:
    """Send each image once, so many at the same time."""
    return asyncio.run(sent(url, images, clients=clients, headers=headers))


async def sent(url: str, images: Sequence[bytes], *, clients: int, headers: dict[str, str] | None = None) -> Load:
    """As :func:`send_all`, beside something else."""
    load, numbers = Load(), iter(range(len(images)))
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:

        async def client() -> None:
            for number in numbers:
                await _send(session, url, images[number], load, headers or {})

        started = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
        load.seconds = time.perf_counter() - started
    return load


async def _send(session: aiohttp.ClientSession, url: str, data: bytes, load: Load, headers: dict[str, str]) -> None:
    started = time.perf_counter()
    try:
        async with session.post(f"{url}/predict", data=data, headers=headers) as response:
            text = await response.text()
            load.codes[response.status] += 1
            if response.status == 200:
                said: Any = json.loads(text)
                load.latencies.append(time.perf_counter() - started)
                load.mixed_up += said["sha256"] != hashlib.sha256(data).hexdigest()
                load.versions[said["model_version"]] += 1
            elif response.status == 429:
                load.without_wait += "Retry-After" not in response.headers
            else:
                load.failures.append(text[:300])
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        load.codes[0] += 1
        load.failures.append(f"{type(error).__name__}: {error}"[:300])
