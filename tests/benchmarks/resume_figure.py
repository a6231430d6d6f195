"""What an embedding that goes on reads: its bytes over those of a whole one, on a local S3 server that counts them."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from measure import Figure
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from _tiny_clip import TINY
from s3_server import S3Server, s3_server

from rdd import storage
from rdd.schema import D3, NUM_GENERATED, REAL_IMAGES

RECORDS, FILES, ROWS_PER_GROUP = 300, 3, 10
SIDE = 340
"""Pixels; of noise, so that an image has some 100 KB."""


def resume_figure(folder: Path) -> Figure:
    """The job on 300 records, and again when a tenth of them is missing: its last commits were deleted.

    One image is broken, so that the job fails at its end and keeps what a resume needs; nothing is rewritten to larger files.
    """
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
    with pytest.MonkeyPatch.context() as environment, s3_server(environment) as server:
        write_records(server.bucket)
        server.counts()
        run_job(server, folder)
        whole = server.counts().bytes_read
        delete_commits(server)
        server.counts()
        run_job(server, folder)
        again = server.counts().bytes_read
    return Figure("embedding: bytes read by a resume at 90 % over the whole", again / whole, at_most=0.12)


def image(rng: np.random.Generator) -> bytes:
    """A JPEG of noise."""
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(buffer, format="JPEG", quality=83)
    return buffer.getvalue()


def write_records(bucket: str) -> None:
    """Records and their real images, as D3 has them; row groups are small as the files are."""
    rng, ids = np.random.default_rng(0), [f"{number:024d}" for number in range(RECORDS)]
    for number, names in enumerate(np.array_split(ids, FILES)):
        rows = []
        for name in names.tolist():
            row = {"id": name, "original_prompt": "a cat", "positive_prompt": "a cat, sharp"}
            for i in range(NUM_GENERATED):
                row |= {f"model_gen{i}": f"m{i}", f"image_gen{i}": {"bytes": image(rng), "path": None}}
            rows.append({field: row.get(field) for field in D3.names})
        table = pa.Table.from_pylist(rows, schema=D3)
        storage.write_table(f"{bucket}/records/{number}.parquet", table, row_group_size=ROWS_PER_GROUP)
    real = [{"id": name, "status": "ok", "bytes": image(rng)} for name in ids]
    real[0]["bytes"] = b"broken"
    table = pa.Table.from_pylist([{field: row.get(field) for field in REAL_IMAGES.names} for row in real], schema=REAL_IMAGES)
    storage.write_table(f"{bucket}/real/0.parquet", table, row_group_size=ROWS_PER_GROUP)


def run_job(server: S3Server, folder: Path) -> None:
    """jobs/embed.py to its end, where the broken image is one too many."""
    settings = {
        "records.path": f"{server.bucket}/records",
        "records.real_images": f"{server.bucket}/real",
        "clip.model": f"local-dir:{folder}",
        "clip.pretrained": "random",
        "clip.batch_size": 25,
        "embed.output": f"{server.bucket}/features",
        "embed.max_quarantined_share": 0,
        "embed.records_per_task": 30,
        "embed.records_per_commit": 5,
        "tracking.enabled": "false",
        "cluster.address": "local",
        "cluster.num_cpus": 2,
    }
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    done = subprocess.run([sys.executable, "jobs/embed.py", *words], capture_output=True, text=True)
    if f"1 of {RECORDS} records were quarantined" not in done.stderr:
        raise RuntimeError(f"jobs/embed.py did not come to its end: {done.stderr[-500:]}")


def delete_commits(server: S3Server) -> None:
    """Delete those of the last records, as if they had never been made; their files go when the job goes on."""
    folder = f"{server.bucket}/features/.work/checkpoint"
    last, missing = {}, 0
    for file in storage.list_files(folder, suffix=".parquet"):
        keys = storage.read_table(file.path, way_out="run it again")["key"].to_pylist()
        rows = [(key.rpartition("#")[0], int(key.rpartition("#")[2])) for key in keys]
        last[file.path] = max(rows), len(rows)
    for path, (_, rows) in sorted(last.items(), key=lambda item: item[1], reverse=True):
        if missing + rows > RECORDS // 10:
            break
        storage.delete_file(path)
        missing += rows
    if missing < 0.08 * RECORDS:
        raise RuntimeError(
            f"{missing} of {RECORDS} records could be taken away, which is too few to tell; the commits are too large"
        )
