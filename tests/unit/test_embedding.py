import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from rdd import storage
from rdd.clip import ClipEncoder, Launched
from rdd.clip_models import preprocessing_of
from rdd.config import ClipConfig
from rdd.data.degrade import Degrader
from rdd.embedding.conflicts import conflicting_hashes, reject_conflicting, repeated_images
from rdd.embedding.decoder import RecordDecoder
from rdd.embedding.encoder import RecordEncoder
from rdd.preprocessing import Preprocessor
from rdd.schema import DECODED, RAW, features_schema
from rdd.tokens import PromptTokenizer


def png(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def raw(*rows: dict) -> pa.Table:
    base = {"source": "f", "text_original": "a cat", "text_positive": "a cat, sharp"}
    full = [base | {"key": f"f#{i}", "row": i, "record_id": f"r{i}"} | row for i, row in enumerate(rows)]
    return pa.Table.from_pylist([{name: row.get(name) for name in RAW.names} for row in full], schema=RAW)


def embed(config: ClipConfig, table: pa.Table, *, text: bool = True) -> tuple[list[dict], list]:
    told = []
    decoder = RecordDecoder(
        Preprocessor(preprocessing_of(config.model, config.pretrained)),
        PromptTokenizer(config.model) if text else None,
        degrader=Degrader([], seed=0),
        max_pixels=10_000,
        progress=lambda *words: told.append(words),
    )
    encoder = RecordEncoder(ClipEncoder.from_config(config), config, text=text, progress=lambda *words: told.append(words))
    decoded = decoder(table)
    assert decoded.schema == DECODED
    features = encoder(decoded)
    assert features.schema == features_schema(config.features)
    return features.to_pylist(), told


def test_records_of_any_number_of_images_become_features(tiny_clip: ClipConfig) -> None:
    table = raw(
        {"generators": ["real", "sd"], "images": [png(0), png(1)]},
        {"generators": ["sd"], "images": [png(2)]},
        {"generators": ["real"] + ["sd"] * 19, "images": [png(i) for i in range(20)]},
    )
    rows, told = embed(tiny_clip, table)
    pictures = [Image.open(io.BytesIO(png(i))) for i in [0, 1, 2, *range(20)]]
    reference = ClipEncoder(tiny_clip.model, "random").encode_images(pictures)
    found = np.concatenate([np.frombuffer(row["projected"], "<f2").reshape(-1, 32) for row in rows])
    np.testing.assert_allclose(found, reference.numpy(), atol=2e-3)
    assert [len(row["generators"]) for row in rows] == [2, 1, 20]
    assert rows[0]["formats"] == ["PNG", "PNG"]
    assert (rows[0]["widths"], rows[0]["heights"]) == ([50, 50], [40, 40])
    assert rows[0]["num_bytes"] == [len(png(0)), len(png(1))]
    text, _ = ClipEncoder(tiny_clip.model, "random").encode_texts(["a cat, sharp"])
    np.testing.assert_allclose(np.frombuffer(rows[1]["text_positive"], "<f2"), text[0].numpy(), atol=2e-3)
    assert sum(count for step, count in told if step == "encode") == 3


def test_a_rejected_record_keeps_its_place_and_its_reason_alone(tiny_clip: ClipConfig) -> None:
    table = raw(
        {"stage": "index", "reason": "duplicate_id"},
        {"generators": ["real", "sd"], "images": [png(0), b""]},
        {"generators": ["real"], "images": [png(0)]},
        {"generators": ["real"], "images": [png(0)], "text_positive": None},
    )
    rows, told = embed(tiny_clip, table)
    assert [(row["key"], row["stage"], row["reason"]) for row in rows] == [
        ("f#0", "index", "duplicate_id"),
        ("f#1", "decode", "empty"),
        ("f#2", None, None),
        ("f#3", "decode", "missing_prompt"),
    ]
    assert rows[1]["detail"] == "image of sd: the image has zero bytes"
    assert all(rows[i][name] is None for i in (0, 1, 3) for name in ("generators", "projected", "formats"))
    assert sum(count for step, count in told if step == "encode") == 4
    rows, _ = embed(tiny_clip, raw({"stage": "index", "reason": "null_id"}))
    assert rows[0]["reason"] == "null_id"


def test_without_text_prompts_are_neither_needed_nor_kept(tiny_clip: ClipConfig) -> None:
    rows, _ = embed(tiny_clip, raw({"generators": ["real"], "images": [png(0)], "text_original": None}), text=False)
    assert rows[0]["reason"] is None
    assert rows[0]["text_original"] is None


def test_cut_prompts_are_counted(tiny_clip: ClipConfig) -> None:
    long = " ".join(["cat"] * 100)
    rows, _ = embed(tiny_clip, raw({"generators": ["real"], "images": [png(0)], "text_positive": long}))
    assert rows[0]["prompts_cut"] == 1


def test_a_feature_that_float16_can_not_hold_rejects_the_record(tiny_clip: ClipConfig, monkeypatch) -> None:
    def too_large(self, pixels, names) -> Launched:
        return Launched({name: torch.full((len(pixels), 32), 1e6) for name in names})

    monkeypatch.setattr(ClipEncoder, "launch", too_large)
    rows, _ = embed(tiny_clip, raw({"generators": ["real"], "images": [png(0)]}))
    assert (rows[0]["stage"], rows[0]["reason"]) == ("encode", "not_finite")
    assert rows[0]["detail"] == "projected: a value is infinite or NaN in float16"
    assert rows[0]["projected"] is None
    wide = replace(tiny_clip, float32=["projected"])
    rows, _ = embed(wide, raw({"generators": ["real"], "images": [png(0)]}), text=False)
    assert np.frombuffer(rows[0]["projected"], "<f4").tolist() == [1e6] * 32


def test_each_feature_that_is_kept_has_its_column(tiny_clip: ClipConfig) -> None:
    config = replace(tiny_clip, blocks=[1], float32=["block_1"])
    table = raw({"generators": ["real", "sd"], "images": [png(0), png(1)]}, {"generators": ["sd"], "images": [png(2)]})
    rows, _ = embed(config, table)
    pictures = [Image.open(io.BytesIO(png(i))) for i in range(3)]
    expected = ClipEncoder(config.model, "random").image_features(pictures, config.features)
    for name, dtype in (("projected", "<f2"), ("block_1", "<f4")):
        found = np.concatenate([np.frombuffer(row[name], dtype).reshape(-1, 32) for row in rows])
        np.testing.assert_allclose(found, expected[name].numpy(), rtol=2e-3 if dtype == "<f2" else 1e-5, atol=1e-5)
    alone, _ = embed(replace(config, projected=False), table, text=False)
    assert "projected" not in alone[0]
    assert alone[0]["block_1"] == rows[0]["block_1"]


def test_equal_bytes_under_both_labels_reject_every_record_that_holds_them(
    tiny_clip: ClipConfig, tmp_path, monkeypatch
) -> None:
    table = raw(
        {"generators": ["real", "sd"], "images": [png(0), png(1)]},
        {"generators": ["sd"], "images": [png(0)]},  # the real image of the first
        {"generators": ["real", "sd"], "images": [png(2), png(2)]},
        {"generators": ["real", "sd"], "images": [png(3), png(4)]},
        {"generators": ["sd"], "images": [png(4)]},  # once more, under one label
        {"stage": "index", "reason": "duplicate_id"},
    )
    rows, _ = embed(tiny_clip, table)
    files = [str(tmp_path / f"{number}.parquet") for number in range(3)]
    for number, path in enumerate(files):
        two = pa.Table.from_pylist(
            rows[2 * number : 2 * number + 2], schema=features_schema(tiny_clip.features).with_metadata({"features": "{}"})
        )
        storage.write_table(path, two)

    def described() -> pa.Table:
        return pa.concat_tables(pq.read_table(path) for path in files)

    def reject_all() -> None:
        reject_conflicting({path: pq.read_table(path) for path in files}, conflicting_hashes(described()), {})

    written, write = [], storage.write_table

    def killed_after_one(path: str, *arguments, **options) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *arguments, **options)

    assert len(conflicting_hashes(described())) == 2
    monkeypatch.setattr(storage, "write_table", killed_after_one)
    with pytest.raises(KeyboardInterrupt):
        reject_all()
    monkeypatch.undo()
    reject_all()
    reasons = described()["reason"].to_pylist()
    assert reasons == [*["conflicting_label"] * 3, None, None, "duplicate_id"]
    assert [value is None for value in described()["projected"].to_pylist()] == [True, True, True, False, False, True]
    assert repeated_images(described()) == 2
    assert pq.read_schema(files[0]).metadata[b"features"] == b"{}"
