"""Views: features of degraded copies of each image, kept beside its own in the row of its record."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rdd.clip import ClipEncoder
from rdd.clip_models import preprocessing_of
from rdd.config import ClipConfig, Config
from rdd.config.parse import from_yaml, override, to_yaml
from rdd.data.degrade import Degrader
from rdd.embedding.check_file import FlawError, check_file
from rdd.embedding.conflicts import conflicting_hashes, reject_conflicting
from rdd.embedding.decoder import RecordDecoder
from rdd.embedding.encoder import RecordEncoder
from rdd.embedding.output import parquet_options
from rdd.embedding.stored import stored_features
from rdd.features.columns import columns_of
from rdd.preprocessing import Preprocessor
from rdd.schema import RAW

LIST = ["noise 0.05 to 0.2 p 0.8", "jpeg 30 to 100 p 0.5"]
VIEWS, SEED = 2, 5


def picture(seed: int, width: int = 50, height: int = 40) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def records(*images: list[bytes]) -> pa.Table:
    rows = [
        {"key": f"f#{i}", "source": "f", "row": i, "record_id": f"r{i}", "images": some}
        | {"generators": ["real", *["sd"] * (len(some) - 1)]}
        for i, some in enumerate(images)
    ]
    return pa.Table.from_pylist([{name: row.get(name) for name in RAW.names} for row in rows], schema=RAW)


def embed(clip: ClipConfig, table: pa.Table, degrader: Degrader, views: list[Degrader] | None = None) -> pa.Table:
    views = views or []
    preprocessor = Preprocessor(preprocessing_of(clip.model, clip.pretrained))
    decoder = RecordDecoder(
        preprocessor, None, degrader=degrader, views=views, max_pixels=100_000, progress=lambda step, count: None
    )
    encoder = RecordEncoder(
        ClipEncoder.from_config(clip), clip, text=False, views=len(views), progress=lambda step, count: None
    )
    return encoder(decoder(table))


def views_of(texts: list[str]) -> list[Degrader]:
    return [Degrader(texts, seed=SEED + view) for view in range(1, 1 + VIEWS)]


@pytest.fixture
def clip(tiny_model: str) -> ClipConfig:
    return ClipConfig(model=tiny_model, pretrained="random", batch_size=4, blocks=[1])


@pytest.mark.parametrize("degrade", [[], ["scale 0.5"]])
def test_a_view_is_to_the_bit_what_a_set_of_degraded_copies_holds(clip: ClipConfig, degrade: list[str]) -> None:
    table = records([picture(0), picture(1), picture(2)], [picture(3)], [picture(4), picture(5)])
    found = embed(clip, table, Degrader(degrade, seed=SEED), views_of(LIST))
    plain = embed(clip, table, Degrader(degrade, seed=SEED))
    assert [name for name in found.column_names if "_view_" not in name] == plain.column_names
    for name in clip.features:
        assert found[name].equals(plain[name])
        for view in range(1, 1 + VIEWS):
            if not degrade:  # a list of transforms draws by their places, so two lists one after the other are not one list
                copies = embed(clip, table, Degrader(LIST, seed=SEED + view))
                assert found[f"{name}_view_{view}"].equals(copies[name])
            assert not found[f"{name}_view_{view}"].equals(plain[name])
    assert not found["projected_view_1"].equals(found["projected_view_2"])
    assert found["sha256s"].equals(plain["sha256s"])


def test_a_record_with_a_view_that_fails_is_rejected_whole(clip: ClipConfig) -> None:
    wide, too_wide_for_webp = picture(0, 2500, 30), ["scale 4", "pad 2", "webp 50"]
    table = records([picture(0), wide], [picture(1)])
    found = embed(clip, table, Degrader([], seed=0), views_of(too_wide_for_webp))
    row, other = found.to_pylist()
    assert (row["stage"], row["reason"]) == ("decode", "not_degraded")
    assert {row[name] for name in found.column_names if name.startswith(("projected", "block"))} == {None}
    assert other["reason"] is None
    assert len(other["projected_view_2"]) == 2 * 32


def test_files_and_manifest_name_the_views_and_verifying_reads_them(clip: ClipConfig, tmp_path: Path) -> None:
    given = {"clip.model": clip.model, "clip.pretrained": "random", "clip.blocks": [1], "clip.float32": ["block_1"]}
    config = override(Config(), given | {"embed.text": False, "embed.views": VIEWS})
    features = stored_features(config)
    assert list(features) == [f"{name}{end}" for end in ("", "_view_1", "_view_2") for name in ("projected", "block_1")]
    assert {one["dtype"] for name, one in features.items() if name.startswith("block_1")} == {"float32"}
    table = embed(config.clip, records([picture(0), picture(1)], [picture(1)]), Degrader([], seed=0), views_of(LIST))
    options, place = parquet_options(config), str(tmp_path / "f.parquet")
    pq.write_table(table, place, **{name: value for name, value in options.items() if name != "schema"})
    assert table.schema.equals(options["schema"])
    columns = columns_of({"features": features})
    assert check_file(place, columns, d3=False).counts["images"] == 3
    whole = pq.read_table(place)
    short = pa.array([value[:-4] for value in whole["block_1_view_2"].to_pylist()])
    torn = whole.set_column(whole.schema.get_field_index("block_1_view_2"), "block_1_view_2", short)
    pq.write_table(torn, tmp_path / "torn.parquet")
    with pytest.raises(FlawError, match="another number of bytes than 32 numbers a vector need in block_1_view_2"):
        check_file(str(tmp_path / "torn.parquet"), columns, d3=False)


def test_a_record_that_is_rejected_later_loses_its_views_too(clip: ClipConfig, tmp_path: Path) -> None:
    table = embed(clip, records([picture(0), picture(1)], [picture(1)]), Degrader([], seed=0), views_of(LIST))
    place = str(tmp_path / "f.parquet")
    pq.write_table(table, place)
    reject_conflicting({place: table}, conflicting_hashes(table), {})
    rows = pq.read_table(place).to_pylist()
    assert {row["projected_view_1"] for row in rows if row["reason"]} == {None}
    assert sum(row["reason"] is not None for row in rows) == 2


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"embed.views": 1, "embed.view_degrade": []}, "embed.view_degrade must name a transform where embed.views is above 0"),
        ({"embed.view_degrade": ["gauss 1"]}, "embed.view_degrade must name transforms among jpeg"),
        ({"embed.views": 1, "embed.beside": ["x"]}, "embed.views must be 0 where embed.beside names feature sets, got 1"),
    ],
)
def test_views_that_can_not_be_made_are_refused(values: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        override(Config(), values)


def test_a_config_with_views_is_read_back() -> None:
    config = override(Config(), {"embed.views": 2, "embed.view_degrade": ["jpeg 30 to 90", "blur 2 p 0.5"]})
    assert from_yaml(to_yaml(config)) == config
