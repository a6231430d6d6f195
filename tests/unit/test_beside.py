"""What a growing feature set lacks beside what there is."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from _features import feature_rows, write_features

from rdd import storage
from rdd.config import Config
from rdd.config.parse import override
from rdd.data.index import make_index
from rdd.embedding.beside import check_same_encoder, missing_beside
from rdd.encoder_identity import EncoderIdentity


def _rows(*numbers: int) -> list[dict]:
    rows = [row for row in feature_rows(10, rejected=0) if int(row["record_id"][1:]) in numbers]
    return [row | {"key": f"file#{int(row['record_id'][1:])}"} for row in sorted(rows, key=lambda row: row["record_id"])]


def _rejected(number: int) -> dict:
    return {"key": f"file#{number}", "record_id": f"r{number:04d}", "stage": "decode", "reason": "truncated"}


def _index(*numbers: int, **more: list[Any]) -> pa.Table:
    places = {"row": list(numbers), "rows": [[n] for n in numbers], "record_id": [f"r{n:04d}" for n in numbers]}
    return make_index({"key": [f"file#{n}" for n in numbers], "source": ["file"] * len(numbers)} | places | more)


def _config(*beside: str, text: bool = True, **clip: Any) -> Config:
    settings = {f"clip.{name}": value for name, value in clip.items()}
    return override(Config(), {"embed.beside": list(beside), "embed.text": text} | settings)


def test_further_records_are_embedded_with_all_features(tmp_path: Path) -> None:
    there = write_features(tmp_path / "there", _rows(0, 1, 2), names=["projected", "block_2"])
    config, left = missing_beside(_config(there, blocks=[2]), _index(0, 1, 2, 3, 4))
    assert left["key"].to_pylist() == ["file#3", "file#4"]
    assert (config.clip.features, config.embed.text) == (["projected", "block_2"], True)


def test_further_features_are_embedded_alone_and_of_all_records(tmp_path: Path) -> None:
    there = [write_features(tmp_path / str(n), _rows(n), names=["projected", "block_2"]) for n in (0, 1)]
    asked = _config(*there, blocks=[2, 5], float32=["block_2", "block_5"])
    config, left = missing_beside(asked, _index(0, 1))
    assert left["key"].to_pylist() == ["file#0", "file#1"]
    assert (config.clip.features, config.clip.float32, config.embed.text) == (["block_5"], ["block_5"], False)


def test_further_features_and_further_records_at_once_are_refused(tmp_path: Path) -> None:
    there = write_features(tmp_path / "there", _rows(0, 1), names=["projected"])
    with pytest.raises(ValueError, match="lack 1 projected, 3 block_2; embed further records first"):
        missing_beside(_config(there, blocks=[2]), _index(0, 1, 2))


def test_rejected_records_are_tried_again_where_they_need_what_the_others_need(tmp_path: Path, caplog) -> None:
    caplog.set_level("INFO", logger="rdd")
    there = write_features(tmp_path / "there", [*_rows(0, 1), _rejected(2)])
    _, left = missing_beside(_config(there), _index(0, 1, 2, 3))
    assert left["key"].to_pylist() == ["file#2", "file#3"]
    assert "not tried again" not in caplog.text
    config, left = missing_beside(_config(there, blocks=[5]), _index(0, 1, 2))
    assert left["key"].to_pylist() == ["file#0", "file#1"]
    assert config.clip.features == ["block_5"]
    assert "1 records that were rejected there are not tried again" in caplog.text


def test_records_that_the_index_rejects_come_in_once(tmp_path: Path) -> None:
    there = write_features(tmp_path / "there", [*_rows(0), {**_rejected(1), "record_id": None}])
    flaws = {"stage": [None, "index", "index", None], "reason": [None, "null_id", "null_id", None]}
    index = _index(0, 1, 2, 3, **flaws)
    _, left = missing_beside(_config(there), index)
    assert left["key"].to_pylist() == ["file#2", "file#3"]
    assert left["reason"].to_pylist() == ["null_id", None]


def test_further_images_of_a_record_are_embedded_alone(tmp_path: Path) -> None:
    there = write_features(tmp_path / "there", _rows(0, 1))  # of record 0 real and gen-0, of record 1 gen-1 too
    index = _index(
        *(0, 1, 2),
        rows=[[0, 1, 2], [3, 4], [5, 6]],
        paths=[["a", "b", "c"], ["d", "e"], ["f", "g"]],
        generators=[["real", "new", "gen-0"], ["real", "gen-1"], ["real", "new"]],
    )
    config, left = missing_beside(_config(there), index)
    assert left.select(["key", "rows", "paths", "generators"]).to_pylist() == [
        {"key": "file#0", "rows": [1], "paths": ["b"], "generators": ["new"]},
        {"key": "file#2", "rows": [5, 6], "paths": ["f", "g"], "generators": ["real", "new"]},
    ]
    assert left.schema == index.schema
    assert config.embed.text


def test_nothing_to_embed_is_said(tmp_path: Path) -> None:
    there = write_features(tmp_path / "there", _rows(0, 1))
    with pytest.raises(ValueError, match=f"embed.beside names {there}, which holds all that is asked for; nothing is left"):
        missing_beside(_config(there), _index(0, 1))


def test_prompts_of_records_whose_images_are_all_there_can_not_be_added(tmp_path: Path) -> None:
    there = write_features(tmp_path / "there", _rows(0, 1), text=False)
    with pytest.raises(ValueError, match="embed.text must be false, since 2 records have all their images beside"):
        missing_beside(_config(there), _index(0, 1, 2))
    config, left = missing_beside(_config(there, text=False), _index(0, 1, 2))
    assert (left.num_rows, config.embed.text) == (1, False)
    config, _ = missing_beside(_config(there, blocks=[2]), _index(0, 1))
    assert (config.clip.features, config.embed.text) == (["block_2"], True)  # with the blocks come the prompts


def test_another_encoder_or_precision_is_refused(tmp_path: Path) -> None:
    there = write_features(tmp_path / "there", _rows(0))
    identity = {"model": "m", "weights_sha256": "w", "embed_dim": 8, "quick_gelu": True, "normalized": False}
    encoder = EncoderIdentity(**identity, pretrained="here.pt", has_text=True, preprocessing={"size": (32, 32)})
    manifest = storage.read_json(f"{there}/manifest.json", dict, way_out="")
    same = identity | {"pretrained": "there.pt", "preprocessing": {"size": [32, 32]}}
    settings = {"config": {"clip": {"precision": "fp32"}}}
    storage.write_json(f"{there}/manifest.json", manifest | settings | {"encoder": same})
    check_same_encoder(_config(there), encoder)
    with pytest.raises(ValueError, match=f"same encoder, got {there} with precision 'bf16' here and 'fp32' there"):
        check_same_encoder(_config(there, precision="bf16"), encoder)
    storage.write_json(f"{there}/manifest.json", manifest | {"encoder": same | {"weights_sha256": "x"}})
    with pytest.raises(ValueError, match="weights_sha256 'w' here and 'x' there"):
        check_same_encoder(_config(there), encoder)
