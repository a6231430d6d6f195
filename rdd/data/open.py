"""Which source of records a config names."""

from rdd.config import RecordsConfig
from rdd.data.d3 import D3Source
from rdd.data.folder import FolderSource, ManifestSource
from rdd.data.records import Source


def open_source(config: RecordsConfig) -> Source:
    """The source that a config names.

    Raises:
        ValueError: ``records.path`` is not given or does not exist.
    """
    if not config.path:
        raise ValueError("records.path must name the records to embed, got nothing")
    if config.kind == "d3":
        return D3Source(config.path, config.real_images)
    return FolderSource(config.path) if config.kind == "folder" else ManifestSource(config.path)
