"""The cosine of image and caption; with random weights, so these tests are of the arithmetic: what it tells needs real ones."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from _golden import pictures, plain

from rdd import storage
from rdd.clip import ClipEncoder
from rdd.clip_models import preprocessing_of
from rdd.config import ClipConfig, Config
from rdd.data.degrade import Degrader
from rdd.embedding.caption_cosine import caption_cosines, cosine_quantiles, with_cosines
from rdd.embedding.conflicts import conflicting_hashes, reject_conflicting
from rdd.embedding.decoder import RecordDecoder
from rdd.embedding.encoder import RecordEncoder
from rdd.embedding.output import parquet_options, read_described
from rdd.preprocessing import Preprocessor
from rdd.schema import RAW
from rdd.tokens import PromptTokenizer

CAPTIONS = ["a red boat on a lake", "two dogs", "the moon over a city at night"]


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    pictures(number + 1)[number].save(buffer, format="PNG")
    return buffer.getvalue()


def embed(config: ClipConfig, records: list[list[int]], *, text: bool = True) -> pa.Table:
    """Features of records by the numbers of their pictures, the first of which is real; -1 is no picture."""
    rows = [
        {
            "key": f"f#{row}",
            "source": "f",
            "row": row,
            "record_id": f"r{row}",
            "generators": ["real", *["sd"] * (len(images) - 1)],
            "images": [png(image) if image >= 0 else b"" for image in images],
            "text_original": CAPTIONS[row],
            "text_positive": f"{CAPTIONS[row]}, best quality",
        }
        for row, images in enumerate(records)
    ]
    table = pa.Table.from_pylist([{name: row.get(name) for name in RAW.names} for row in rows], schema=RAW)
    quiet = {"progress": lambda step, count: None}
    tokenizer = PromptTokenizer(config.model) if text else None
    decoder = RecordDecoder(
        Preprocessor(preprocessing_of(config.model, config.pretrained)),
        tokenizer,
        degrader=Degrader([], seed=0),
        max_pixels=100_000,
        **quiet,
    )
    return RecordEncoder(ClipEncoder.from_config(config), config, text=text, **quiet)(decoder(table))


def cosines_of_plain_open_clip(model: str) -> list[list[float]]:
    """Of each of six pictures with each caption."""
    network, preprocess = plain(model)
    with torch.inference_mode():
        seen = network.encode_image(torch.stack([preprocess(picture) for picture in pictures(6)]))
        read = network.encode_text(open_clip.get_tokenizer(model)(CAPTIONS))
    return torch.nn.functional.cosine_similarity(seen[:, None], read[None], dim=-1).tolist()


@pytest.mark.parametrize("normalize", [False, True])
def test_each_image_has_its_cosine_with_the_original_prompt(tiny_clip: ClipConfig, normalize: bool) -> None:
    records, swapped = [[0, 1, 2], [3], [4, 5]], [[0, 1, 2], [4], [3, 5]]
    expected = cosines_of_plain_open_clip(tiny_clip.model)
    for images_of in (records, swapped):
        found = embed(replace(tiny_clip, normalize=normalize, batch_size=2), images_of)["caption_cosines"].to_pylist()
        for row, (images, cosines) in enumerate(zip(images_of, found, strict=True)):
            np.testing.assert_allclose(cosines, [expected[image][row] for image in images], atol=1e-6)


def test_what_has_no_cosine_is_null(tiny_clip: ClipConfig) -> None:
    assert embed(tiny_clip, [[0, 1], [2, -1], [3]])["caption_cosines"].is_null().to_pylist() == [False, True, False]
    assert embed(tiny_clip, [[0, 1]], text=False)["caption_cosines"].null_count == 1
    assert embed(replace(tiny_clip, projected=False, blocks=[1]), [[0, 1]])["caption_cosines"].null_count == 1
    assert embed(tiny_clip, [[-1], [-1]])["caption_cosines"].null_count == 2


def test_a_vector_without_direction_has_no_cosine() -> None:
    found = caption_cosines(np.float32([[0, 0], [1, 2]]), np.float32([[1, 2]]), np.array([2]))
    assert np.isnan(found[0])
    assert found[1] == pytest.approx(1)
    table = pa.table({"generators": [["real", "sd"]], "caption_cosines": [found]})
    assert [*cosine_quantiles(table)] == ["generated"]


def test_quantiles_are_those_of_real_and_of_generated_images() -> None:
    real, generated = np.linspace(0, 1, 101), np.linspace(-1, 0, 101)
    pairs = [[float(a), float(b)] for a, b in zip(real, generated, strict=True)]
    table = pa.table({"generators": [["real", "sd"]] * 101 + [["sd"]], "caption_cosines": [*pairs, None]})
    found = cosine_quantiles(table)
    assert found["real"] == {"images": 101} | {f"q{q:02d}": q / 100 for q in (1, 5, 25, 50, 75, 95, 99)}
    assert found["generated"]["q25"] == -0.75
    nothing = pa.table({"generators": [["real"]], "caption_cosines": pa.array([None], pa.list_(pa.float32()))})
    assert cosine_quantiles(nothing) == {}


def test_files_of_an_earlier_version_have_none(tiny_clip: ClipConfig, tmp_path: Path) -> None:
    options = {name: value for name, value in parquet_options(replace(Config(), clip=tiny_clip)).items() if name != "schema"}
    table, paths = embed(tiny_clip, [[0, 1], [1], [2]]), [str(tmp_path / name) for name in ("old.parquet", "new.parquet")]
    storage.write_table(paths[0], table.slice(0, 1).drop_columns("caption_cosines"))
    storage.write_table(paths[1], table.slice(1), **options)
    rewritten = pa.concat_tables(with_cosines(pq.read_table(path)) for path in paths)  # as compaction does
    assert rewritten["caption_cosines"].is_null().to_pylist() == [True, False, False]
    described = read_described(paths)
    whole = pa.concat_tables(described.values())
    assert whole["caption_cosines"].is_null().to_pylist() == [True, False, False]
    assert cosine_quantiles(whole)["real"]["images"] == 2
    reject_conflicting(described, conflicting_hashes(whole), options)  # the second picture is real and generated
    assert [pq.read_table(path)["reason"].null_count for path in paths] == [0, 1]
    assert "caption_cosines" not in pq.read_schema(paths[0]).names
