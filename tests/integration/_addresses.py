"""Records of D3 as far as fetching reads them: an id and an address a row."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_records(folder: Path, urls: Sequence[str | None], *, rows_per_file: int = 50) -> Path:
    """Files of records ``r0``, ``r1`` and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, len(urls), rows_per_file)):
        here = urls[start : start + rows_per_file]
        ids = [f"r{start + row}" for row in range(len(here))]
        table = pa.table({"id": ids, "url": pa.array(here, pa.string())})
        pq.write_table(table, folder / f"train-{number:05d}.parquet", row_group_size=20, write_page_checksum=True)
    return folder


def fetched(output: Path) -> list[dict]:
    """The rows of a fetched table, in its order."""
    files = sorted((output / "data").glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]
