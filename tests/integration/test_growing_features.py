"""A feature set that grows: each further directory holds what those before lack, and together they are what one would be."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rdd.config import Config
from rdd.config.parse import override
from rdd.features import FeatureTable
from rdd.on_ray.embed import run_embedding
from rdd.schema import REAL

pytestmark = pytest.mark.timeout(300)


def _config(tiny_model: str, output: Path, **records: str) -> Config:
    settings = {
        "clip.model": tiny_model,
        "clip.pretrained": "random",
        "clip.batch_size": 16,
        "embed.output": str(output),
        "embed.threads_per_worker": 1,
        "cluster.address": "local",
        "cluster.num_cpus": 2,
    }
    return override(Config(), settings | {f"records.{name}": value for name, value in records.items()})


def _vectors(paths: list[str], inputs: list[str]) -> dict[tuple[str, str], tuple[float, ...]]:
    """By record and generator, what a head sees."""
    table = FeatureTable.load(paths, inputs=inputs)
    features = table.gather(torch.arange(len(table)), "shared").features.tolist()
    generators = [table.generators[code] for code in table.generator_of.tolist()]
    ids = [table.record_ids[record].as_py() for record in table.record_of.tolist()]
    return {place: tuple(row) for place, row in zip(zip(ids, generators, strict=True), features, strict=True)}


@pytest.mark.slow
def test_records_then_a_generator_then_a_block_give_what_one_embedding_gives(
    ray_session, sample_set: Path, tiny_model: str, tmp_path: Path, caplog
) -> None:
    caplog.set_level("INFO", logger="rdd")
    d3 = {"path": str(sample_set / "records"), "real_images": str(sample_set / "real_images")}
    whole = _config(tiny_model, tmp_path / "whole", **d3)
    run_embedding(override(whole, {"clip.blocks": [1]}))

    begun = tmp_path / "first"
    begun.mkdir()
    files = sorted((sample_set / "records").rglob("*.parquet"))
    (begun / files[0].name).write_bytes(files[0].read_bytes())
    first = run_embedding(_config(tiny_model, tmp_path / "a", **(d3 | {"path": str(begun)})))
    (begun / files[1].name).write_bytes(files[1].read_bytes())
    more = _config(tiny_model, tmp_path / "b", **(d3 | {"path": str(begun)}))
    more = override(more, {"embed.beside": [first["output"]]})
    second = run_embedding(more)
    assert (first["records_written"], second["records_in"], second["records_written"]) == (8, 4, 4)
    block = override(whole, {"embed.output": str(tmp_path / "c"), "clip.blocks": [1]})
    block = override(block, {"embed.beside": [first["output"], second["output"]]})
    third = run_embedding(block)
    assert "12 of 12 records are embedded beside what there is: block_1" in caplog.text
    assert list(json.loads((tmp_path / "c" / "manifest.json").read_text())["features"]) == ["block_1"]

    paths = [one["output"] for one in (first, second, third)]
    assert _vectors(paths, ["projected", "block_1"]) == _vectors([str(tmp_path / "whole")], ["projected", "block_1"])
    assert run_embedding(more) == second  # the same command says what there is

    rows = pq.read_table(files[0]).to_pylist()
    manifest = [
        {"bytes": row["image_gen0"]["bytes"], "label": 1, "generator": "new", "record_id": row["id"], "caption": "c"}
        for row in rows
    ]
    manifest += [{**manifest[0], "generator": REAL, "label": 0}, {**manifest[1], "record_id": "other"}]
    pq.write_table(pa.Table.from_pylist(manifest), tmp_path / "new.parquet")
    new = _config(tiny_model, tmp_path / "d", kind="manifest", path=str(tmp_path / "new.parquet"))
    grown = run_embedding(override(new, {"embed.beside": paths[:2]}))
    assert grown["images"] == 9  # the real image of the first record is there
    joined = _vectors([*paths[:2], grown["output"]], ["projected"])
    assert len(joined) == 60 + 9
    assert sum(generator == "new" for _, generator in joined) == 9
    same = (rows[0]["id"], "new"), (rows[0]["id"], rows[0]["model_gen0"])
    assert joined[same[0]] == joined[same[1]]


@pytest.mark.long
def test_an_image_that_is_real_there_and_generated_here_is_rejected(
    ray_session, sample_set: Path, tiny_model: str, tmp_path: Path
) -> None:
    rows = pq.read_table(sorted((sample_set / "records").rglob("*.parquet"))[0]).to_pylist()
    images = [
        {"bytes": row[f"image_gen{i}"]["bytes"], "label": label, "generator": name, "record_id": f"{place}-{i}"}
        for row in rows[:2]
        for i, (label, name, place) in enumerate([(0, REAL, "x"), (1, "g", "x"), (1, "g", "x"), (1, "g", "x")])
    ]
    pq.write_table(
        pa.Table.from_pylist([dict(image, record_id=f"r{i}") for i, image in enumerate(images)]), tmp_path / "a.parquet"
    )
    false = dict(images[0], label=1, generator="g", record_id="false")
    further = dict(images[0], bytes=rows[3]["image_gen0"]["bytes"], record_id="further")
    pq.write_table(pa.Table.from_pylist([false, further]), tmp_path / "b.parquet")
    settings = {"embed.text": False, "embed.max_quarantined_share": 0.5}
    there = run_embedding(
        override(_config(tiny_model, tmp_path / "a", kind="manifest", path=str(tmp_path / "a.parquet")), settings)
    )
    here = override(_config(tiny_model, tmp_path / "b", kind="manifest", path=str(tmp_path / "b.parquet")), settings)
    summary = run_embedding(override(here, {"embed.beside": [there["output"]]}))
    assert summary["quarantined"] == {"conflicting_label": 1}
    assert summary["records_written"] == 1
