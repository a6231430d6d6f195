"""What a config asks to embed: its source, and which of its records; read before any work, and without weights."""

import logging
from dataclasses import dataclass, replace

import pyarrow as pa

from rdd.clip_weights import located
from rdd.config import Config
from rdd.data.index import first_records
from rdd.data.open import Source, open_source

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """The work that a config asks for."""

    config: Config
    """With paths as every process understands them; beside other feature sets, with the features that these lack alone."""
    source: Source
    index: pa.Table
    """The records to embed (``schema.INDEX``); beside other feature sets, those with something that these lack."""


def read_request(config: Config) -> Request:
    """Open the source of a config and read the ids of its records.

    Raises:
        ValueError: the source is not there or not as it must be, prompts are asked for and it has none, or beside other feature
            sets nothing is left to embed.
    """
    config = replace(config, clip=replace(config.clip, pretrained=located(config.clip.pretrained)))
    source = open_source(config.records, require_all_generated=config.embed.require_all_generated)
    logger.info("reading the ids of the records")
    index = first_records(source.index(), config.embed.limit)
    if config.embed.beside:
        from rdd.embedding.beside import missing_beside  # and with it torch

        config, index = missing_beside(config, index)
    if config.embed.text and not source.has_text:
        raise ValueError(f"embed.text must be false, since {config.records.path} has no prompts")
    return Request(config, source, index)


def records_in_pass(batch_size: int, images_per_record: float) -> int:
    """Records whose images make one forward pass, at least 1.

    Args:
        batch_size: images in a forward pass.
        images_per_record: on average.
    """
    return max(1, int(batch_size / max(1.0, images_per_record)))
