"""Embedding copies of records with changed images, each in a directory of its own like any other embedding.

So a stopped run goes on where it was: copies that are finished are read, one that was begun is gone on with.
"""

from dataclasses import replace

from rdd.config import Config
from rdd.on_ray.embed import run_embedding

KNOBS = "embed.cpus_per_task"
"""Settings that lower what a session for copies takes, for its message."""


def bundles_of(config: Config) -> list[dict[str, float]]:
    """What a session needs at least before the first copy is embedded, which asks for more itself."""
    return [{"CPU": config.embed.cpus_per_task}]


def embedded_copy(config: Config, output: str, degrade: list[str]) -> str:
    """Directory of the finished features of a copy, made now unless it is there.

    Args:
        config: of the records, the encoder and the embedding.
        output: the directory.
        degrade: what is done to each image, as ``embed.degrade`` has it.

    Raises:
        ValueError: the request is wrong.
        RuntimeError: the embedding failed; the same command goes on.
    """
    run_embedding(replace(config, embed=replace(config.embed, output=output, degrade=degrade, views=0)))
    return output
