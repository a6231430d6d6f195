"""What jobs/embed.py --dry-run says, without Ray and without weights."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdd.config import Config
from rdd.config.parse import override
from rdd.config.stages import EMBED
from rdd.data.open import open_source
from rdd.embedding.plan import plan
from rdd.embedding.resume import WORK, keep_index
from rdd.encoder_identity import EncoderIdentity
from rdd.runs.stage import begun, check_output
from rdd.schema import REAL_IMAGES


@pytest.fixture
def config(sample_set: Path, tiny_model: str, tmp_path: Path) -> Config:
    values = {
        "records.path": str(sample_set / "records"),
        "records.real_images": str(sample_set / "real_images"),
        "clip.model": tiny_model,
        "clip.pretrained": "random",
        "clip.batch_size": 16,
        "clip.blocks": [1],
        "embed.output": str(tmp_path / "features"),
        "tracking.enabled": False,
    }
    return override(Config(), values)


def test_a_plan_counts_the_work_and_its_costs_and_writes_nothing(config: Config, tmp_path: Path) -> None:
    stated = override(config, {"embed.images_per_s": 2.0, "embed.num_workers": 3, "embed.dollars_per_hour": 36.0})
    assert plan(stated) == {
        "output": str(tmp_path / "features"),
        "finished": False,
        "files": 2,
        "records": 12,
        "records_unusable": 0,
        "records_left": 12,
        "images_left": 60,
        "forward_passes": 4,  # three records, of five images, in a batch of sixteen
        "workers": 3,
        "images_per_s": 2.0,
        "hours": pytest.approx(10 / 3600),
        "dollars": pytest.approx(0.1),
        "output_bytes": 12 * (2 * 64 + 250) + 60 * (2 * 64 + 50),
    }
    assert list(tmp_path.iterdir()) == []
    image_only = plan(override(stated, {"embed.text": False, "clip.float32": ["block_1"], "clip.batch_size": 64}))
    assert image_only["output_bytes"] == 12 * 250 + 60 * (64 + 128 + 50)
    assert image_only["forward_passes"] == 1
    viewed = plan(override(stated, {"embed.views": 2}))
    assert (viewed["images_left"], viewed["forward_passes"], viewed["hours"]) == (60, 12, pytest.approx(30 / 3600))
    assert viewed["output_bytes"] == 12 * (2 * 64 + 250) + 60 * (3 * 2 * 64 + 50)
    limited = plan(override(stated, {"embed.limit": 5}))
    assert (limited["records"], limited["images_left"], limited["hours"]) == (5, 25, pytest.approx(25 / 6 / 3600))


def test_hours_and_dollars_are_null_where_nobody_stated_them(config: Config, caplog) -> None:
    planned = plan(config)
    assert (planned["images_per_s"], planned["hours"], planned["dollars"]) == (None, None, None)
    assert "no hours without a speed: state embed.images_per_s" in caplog.text
    assert plan(override(config, {"embed.images_per_s": 1.0}))["dollars"] is None
    assert plan(override(config, {"embed.dollars_per_hour": 1.0}))["dollars"] is None
    gpu = {"clip.model": "ViT-L-14-quickgelu", "clip.device": "cuda", "embed.gpus_per_worker": 1.0, "clip.blocks": [16]}
    assert plan(override(config, gpu))["images_per_s"] == 312
    assert plan(override(config, gpu | {"embed.images_per_s": 800.0}))["images_per_s"] == 800
    assert plan(override(config, gpu | {"clip.model": "ViT-B-16", "clip.blocks": [9]}))["images_per_s"] is None


def test_records_without_a_real_image_take_no_forward_pass(config: Config, sample_set: Path, tmp_path: Path) -> None:
    rows = [row for file in sorted((sample_set / "real_images").rglob("*.parquet")) for row in pq.read_table(file).to_pylist()]
    for row in rows[:4]:
        row |= {"status": "http 404", "bytes": None}
    (tmp_path / "real").mkdir()
    pq.write_table(pa.Table.from_pylist(rows[:-1], schema=REAL_IMAGES), tmp_path / "real" / "r.parquet")
    planned = plan(override(config, {"records.real_images": str(tmp_path / "real")}))
    counts = ("records", "records_unusable", "records_left", "images_left")
    assert [planned[name] for name in counts] == [12, 5, 12, 35]


def test_files_of_images_are_counted_as_they_are(config: Config, tmp_path: Path) -> None:
    for name in ("real/1.png", "gen_0/1.png", "gen_1/2.png"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"x")
    values = {"records.kind": "d3_test", "records.path": str(tmp_path / "set"), "records.real_images": "", "embed.text": False}
    planned = plan(override(config, values))
    assert [planned[name] for name in ("files", "records", "images_left")] == [3, 2, 3]


def test_what_is_embedded_already_is_not_planned_again(config: Config, tmp_path: Path) -> None:
    index = open_source(config.records).index()
    encoder = EncoderIdentity(
        model="tiny",
        pretrained="random",
        weights_sha256="0",
        embed_dim=32,
        quick_gelu=False,
        normalized=False,
        has_text=True,
        preprocessing={},
    )
    output = tmp_path / "features"
    with begun(EMBED, config):
        keep_index(index, encoder, {}, str(output))
    (output / WORK / "checkpoint").mkdir()
    (output / "data").mkdir()
    pq.write_table(index.select(["key"]).slice(0, 5), output / WORK / "checkpoint" / "a.parquet")
    pq.write_table(index.select(["key"]).slice(5, 5), output / WORK / "checkpoint" / "b.parquet")
    (output / "data" / "a-0.parquet").write_bytes(b"of which only the name is read")  # that of b was deleted
    planned = plan(config)
    assert (planned["records"], planned["records_left"], planned["images_left"]) == (12, 7, 35)
    note = output / WORK / "compaction.json"
    note.write_text(json.dumps({"rows_per_group": 1, "files": []}))  # all was embedded, and the files are being rewritten
    assert plan(config)["records_left"] == 0
    note.unlink()
    with pytest.raises(RuntimeError, match="the records have changed since the embedding began"):
        plan(override(config, {"embed.limit": 3}))
    check_output(EMBED, config)
    with pytest.raises(ValueError, match=r"clip\.seed \(0 there, 1 now\); choose another output"):
        check_output(EMBED, override(config, {"clip.seed": 1}))
    (output / "config.yaml").unlink()
    with pytest.raises(ValueError, match=r"holds files but no config\.yaml of this stage"):
        check_output(EMBED, config)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"records.path": "nowhere"}, "no directory at nowhere"),
        ({"records.real_images": "nowhere/*"}, "no Parquet file of real images is like"),
        ({"clip.blocks": [2]}, r"clip\.blocks must lie in \[1, 1\]"),
        ({"clip.model": "ViT-B-33"}, r"clip\.model must be one of open_clip's models"),
        ({"clip.model": "ViT-B-32", "clip.pretrained": "opanai"}, "open_clip has no weights 'opanai'"),
        (
            {"clip.model": "ViT-B-32", "clip.pretrained": "openai"},
            "runs with GELU but the weights openai were trained with Quick",
        ),
        ({"clip.pretrained": "gone.safetensors"}, r"clip\.pretrained names no file"),
        ({"records.kind": "folder", "records.real_images": ""}, "no image below real/ or fake/"),
    ],
)
def test_a_wrong_request_is_refused_as_a_start_does(config: Config, values: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan(override(config, values))


def test_prompts_need_a_source_and_a_tower_that_have_them(config: Config, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    (tmp_path / "set" / "real").mkdir(parents=True)
    (tmp_path / "set" / "real" / "1.png").write_bytes(b"x")
    folder = override(config, {"records.kind": "folder", "records.path": str(tmp_path / "set"), "records.real_images": ""})
    with pytest.raises(ValueError, match=r"embed\.text must be false, since .*set has no prompts"):
        plan(folder)
    save_file({"visual.proj": pa.array([1.0]).to_numpy()}, tmp_path / "tower.safetensors")
    tower = override(config, {"clip.pretrained": str(tmp_path / "tower.safetensors")})
    with pytest.raises(ValueError, match=r"holds an image tower alone, so embed\.text must be false"):
        plan(tower)
    assert plan(override(tower, {"embed.text": False}))["records_left"] == 12
    assert json.dumps(plan(override(tower, {"embed.text": False})))
