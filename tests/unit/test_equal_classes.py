"""What is left of an AUC with both classes made equal: the treatments, the probe, the page, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from _features import feature_rows, write_features
from PIL import Image

from rdd import storage
from rdd.config import AuditConfig, Config
from rdd.config.parse import override, parse_config
from rdd.config.stages import AUDIT, audit_stage, require
from rdd.data.degrade import Degrader
from rdd.evaluation.equal_classes import EqualClasses, as_markdown, falls, probe_rows
from rdd.evaluation.robustness import copy_rows
from rdd.evaluation.scores import Scored
from rdd.features.feature_set import FeatureSet
from rdd.runs.equal_classes import check_equal_classes

CONFIG = AuditConfig(resamples=200)
RECORDS, LABELS = np.repeat(np.arange(60), 2), np.tile([0, 1], 60)


def test_after_its_treatment_every_picture_is_of_one_size() -> None:
    config = AuditConfig(resized_to=224, cropped_to=256)
    pictures = [Image.effect_noise(size, 50).convert("RGB") for size in ((500, 333), (512, 512), (120, 90), (300, 255))]
    for name, side in (("resized", 224), ("cropped", 256), ("all_three", 224)):
        degrade = Degrader(config.treatments[name], seed=0)
        assert {degrade(picture, bytes(32)).size for picture in pictures} == {(side, side)}
    encoded = Degrader(config.treatments["encoded"], seed=0)
    assert [encoded(picture, bytes(32)).size for picture in pictures] == [picture.size for picture in pictures]


def copies_of(shift: float) -> dict[str, np.ndarray]:
    """Features whose first column alone tells the classes apart; it is noise where sizes are equal."""
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(120, 4))
    leak = np.eye(4)[0] * shift * LABELS[:, None]
    encoded = clean + rng.normal(scale=0.1, size=clean.shape)
    return {"clean": clean + leak, "encoded": encoded + leak, "resized": clean}


def test_a_probe_falls_where_what_tells_the_classes_apart_is_gone_and_nowhere_else() -> None:
    rows = probe_rows(copies_of(2.0), LABELS, RECORDS, CONFIG)
    clean, encoded, resized = rows.values()
    assert (clean.difference, clean.difference_interval) == (None, None)
    assert clean.auroc > 0.8 > 0.65 > resized.auroc
    assert encoded.difference_interval[0] < 0.01 < encoded.difference_interval[1] + 0.05
    assert resized.difference == resized.auroc - clean.auroc
    assert resized.difference_interval[1] < -0.1
    paired, alone = (np.diff(ends)[0] for ends in (encoded.difference_interval, encoded.auroc_interval))
    assert paired < alone / 2, "both copies are of the same records"


def test_without_a_mis_ranked_pair_a_difference_is_as_unsure_as_the_bounds() -> None:
    rows = probe_rows(copies_of(50.0), LABELS, RECORDS, CONFIG)
    assert rows["encoded"].auroc == 1
    least = rows["encoded"].auroc_interval[0]
    assert rows["encoded"].difference_interval == pytest.approx([least - 1, 1 - least])
    perfect = Scored(50.0 * LABELS, LABELS, LABELS, ("real", "a"), RECORDS)
    row = copy_rows(perfect, {"encoded": perfect}, threshold=0.5, resamples=100, seed=0)["encoded"]
    assert row.difference.interval == pytest.approx([least - 1, 1 - least])


def test_the_page_has_a_line_a_treatment_with_and_without_a_detector() -> None:
    rng = np.random.default_rng(0)
    names = ["clean", *CONFIG.treatments]
    shifts = dict(zip(names, (3.0, 3.0, 0.0, 2.9, 0.0), strict=True))
    noise = rng.normal(size=120)
    scored = {name: Scored(noise + of * LABELS, LABELS, LABELS, ("real", "a"), RECORDS) for name, of in shifts.items()}
    detector = copy_rows(scored.pop("clean"), scored, threshold=0.5, resamples=100, seed=0)
    assert list(falls(detector)) == ["resized", "all_three"]
    probe = probe_rows(dict.fromkeys(names, copies_of(2.0)["clean"]), LABELS, RECORDS, CONFIG)
    enlarged = {"real": "3 of 60", "generated": "0 of 60"}
    for rows, columns in ((detector, 9), ({}, 4)):
        page = as_markdown(EqualClasses(rows, probe, 120, 120, 2, enlarged), CONFIG, "test of runs/a")
        table = page.split("\n\n")[1].splitlines()
        assert [line.split(" | ")[0].removeprefix("| ") for line in table[2:]] == names
        assert {line.count("|") for line in table} == {columns + 1}
        assert "below 256 pixels in 3 of 60 real and 0 of 60 generated images" in page
        assert ("test of runs/a" in page) == bool(rows)
        assert "2 images that some copy lacks are left out" in page


def test_the_named_run_asks_for_pixels_of_whatever_it_is_given_after() -> None:
    written = yaml.safe_load(Path("jobs/configs/audit.yaml").read_text())
    assert written.keys() == {"audit", "embed"}
    files = ["--config", "jobs/configs/sample.yaml", "--config", "jobs/configs/audit.yaml"]
    config = parse_config(files, sections=AUDIT.reads)
    stage = audit_stage(config)
    assert set(stage.reads) == set(AUDIT.reads)
    assert {"records", "clip", "embed", "evaluate"} <= set(stage.sections)
    with pytest.raises(ValueError, match="records.path must name the records to embed copies of"):
        require(stage, override(config, {"records.path": ""}))


def test_what_would_fail_later_is_refused_first(tmp_path: Path) -> None:
    path = write_features(tmp_path / "features", feature_rows(6))
    config = override(Config(), {"features.path": path, "audit.pixels": True})
    features = FeatureSet.open(path)
    assert check_equal_classes(config, features) is None
    for values, said in (
        ({"embed.degrade": ["flip"]}, "embed.degrade must be empty, since audit.pixels embeds copies of its own, got"),
        ({"features.inputs": ["block_3"]}, "features.inputs must name features that .* holds, projected, got block_3"),
        (
            {"clip.projected": False, "clip.blocks": [3]},
            r"must keep what the probe \(features.inputs\) looks at, projected, got block_3 without projected",
        ),
        ({"evaluate.run": str(tmp_path)}, "evaluate.run must name a run with a detector .* or nothing"),
    ):
        with pytest.raises(ValueError, match=said):
            check_equal_classes(override(config, values), features)
    note = f"{path}/manifest.json"
    manifest = storage.read_json(note, {}, way_out="")
    storage.write_json(note, manifest | {"config": {"embed": {"degrade": ["jpeg 50"], "degrade_seed": 1}}})
    with pytest.raises(ValueError, match="features.path must name features of images as they are .* with jpeg 50"):
        check_equal_classes(config, FeatureSet.open(path))
