"""What a rehearsal must have come to, compared with what the web server and the records are known to hold."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from _rehearsal_set import RehearsalSet
from _web_server import stats

from rdd import storage
from rdd.clip import ClipEncoder
from rdd.config import ClipConfig
from rdd.feature_names import TEXTS
from rdd.hashing import sha256_bytes

_ROWS_ENCODED_AGAIN = 100
_FLOAT16_STEP = 2.0**-10
"""Of a number in [1, 2)."""


def check_fetched(rehearsal: RehearsalSet, table: str) -> dict[str, list[str]]:
    """Compare the table of real images with what is served.

    Returns:
        By status, the ids of the records.

    Raises:
        AssertionError: a record is missing, twice, or not what it should be.
    """
    by_status: dict[str, list[str]] = {}
    number = 0
    for file in sorted(storage.list_files(storage.join(table, "data"), suffix=".parquet"), key=lambda file: file.path):
        for row in storage.read_table(file.path, ["id", "url", "status", "sha256", "bytes"], way_out="none").to_pylist():
            address = rehearsal.addresses[number]
            assert (row["id"], row["url"]) == (rehearsal.ids[number], address.url), (number, row["id"])
            assert row["status"] in address.kind.statuses, (number, row["status"], address)
            assert row["sha256"] == address.sha256 if row["status"] == "ok" else row["bytes"] is None, (number, address)
            assert row["bytes"] is None or sha256_bytes(row["bytes"]) == row["sha256"], number
            by_status.setdefault(row["status"], []).append(row["id"])
            number += 1
    assert number == len(rehearsal.ids), f"{number} rows for {len(rehearsal.ids)} records"
    return by_status


def asked_again(rehearsal: RehearsalSet, port: int) -> tuple[int, int]:
    """Requests that the web server has seen, and how many of them a run without kills would not have made."""
    asked = Counter(stats(port)["requests"])
    needed = {address.url: address.kind for address in rehearsal.addresses if address.kind.times and not address.kind.host}
    wanted = {"/" + url.split("/", 3)[3]: kind.times for url, kind in needed.items()}
    return sum(asked.values()), sum(max(0, asked[path] - times) for path, times in wanted.items() if times)


def check_embedded(
    rehearsal: RehearsalSet, output: str, fetched: dict[str, list[str]], config: ClipConfig, seed: int
) -> dict[str, Any]:
    """Compare the features with the records, and some of them with what the encoder makes of the same images here.

    Returns:
        ``written``, ``quarantined``, ``encoded_again``, and ``largest_difference`` in float16's steps.

    Raises:
        AssertionError: a record is missing, twice, or not what it should be.
    """
    files = [file.path for file in storage.list_files(storage.join(output, "data"), suffix=".parquet")]
    columns = ["record_id", "generators", "stage", "reason", "detail", *config.features, *TEXTS]
    table = pa.concat_tables(storage.read_table(path, columns, way_out="none") for path in files)
    ids = table["record_id"].to_pylist()
    assert sorted(ids) == sorted(rehearsal.ids), "a record is missing or twice"
    status_of = {name: status for status, names in fetched.items() for name in names}
    written = []
    for number, row in enumerate(table.select(["record_id", "generators", "stage", "reason", "detail"]).to_pylist()):
        if status_of[row["record_id"]] == "ok":
            assert row["reason"] is None, row
            assert len(row["generators"]) == 5, row
            written.append(number)
        else:
            place = (row["stage"], row["reason"], row["detail"])
            assert place == ("read", "real_image_failed", status_of[row["record_id"]]), row
    chosen = np.random.default_rng(seed).permutation(written)[:_ROWS_ENCODED_AGAIN]
    largest = _largest_difference(rehearsal, table.take(np.sort(chosen)), config)
    assert largest <= 1, f"features differ by {largest:.2f} steps of float16"
    return {
        "written": len(written),
        "quarantined": len(ids) - len(written),
        "encoded_again": len(chosen),
        "largest_difference": round(largest, 3),
    }


def _largest_difference(rehearsal: RehearsalSet, rows: pa.Table, config: ClipConfig) -> float:
    """Between the stored features and those of one image at a time, in float16's steps at the largest value of a vector."""
    torch.set_num_threads(1)
    encoder, largest = ClipEncoder.from_config(config), 0.0
    for row in rows.to_pylist():
        number = rehearsal.ids.index(row["record_id"])
        record = rehearsal.record(number)
        names = ["real", *[record[f"model_gen{i}"] for i in range(4)]]
        assert row["generators"] == names, row["generators"]
        features = encoder.image_features(rehearsal.images(number), config.features, batch_size=1)
        expected = {name: values.numpy() for name, values in features.items()}
        prompts = encoder.encode_texts([str(record["original_prompt"]), str(record["positive_prompt"])])[0].numpy()
        expected |= dict(zip(TEXTS, prompts, strict=True))
        for name, values in expected.items():
            stored = np.frombuffer(row[name], dtype="<f2").reshape(values.shape).astype(np.float32)
            step = _FLOAT16_STEP * np.abs(values).max()
            largest = max(largest, float(np.abs(stored - values).max() / step))
    return largest
