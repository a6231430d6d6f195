"""Views in a table of features: each image comes with a view of itself, and what there is besides stays as it was."""

from pathlib import Path

import pytest
import torch
from _features import WIDTHS, D, feature_rows, with_views, write_features

from rdd import storage
from rdd.config import FeaturesConfig
from rdd.feature_names import view_name
from rdd.features import FeatureTable
from rdd.features.feature_set import FeatureSet, check_inputs

NAMES = ("projected", "block_5")
OF_VIEWS = tuple(view_name(name, view) for view in (1, 2) for name in NAMES)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return write_features(tmp_path / "features", with_views(feature_rows(30), OF_VIEWS), names=(*NAMES, *OF_VIEWS))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("text_mode", ["none", "shared", "official"])
def test_a_batch_holds_each_image_and_then_its_view(path: str, text_mode: str, shared: bool, tmp_path: Path) -> None:
    maps = str(tmp_path / "maps") if shared else None
    clean = FeatureTable.load(path, inputs=NAMES, shared=maps)
    table = FeatureTable.load(path, inputs=NAMES, views=2, shared=maps)
    assert (clean.views, table.views) == (0, 2)
    assert table.inputs == clean.inputs == {name: WIDTHS[name] for name in NAMES}
    assert table.width(text_mode) == clean.width(text_mode)
    images = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))
    expected = clean.gather(images, text_mode)
    assert torch.equal(table.gather(images, text_mode).features, expected.features)
    inputs = sum(table.inputs.values())
    for view in (1, 2):
        (batch,) = table.batches([images], text_mode, view=view)
        assert batch.copies == 2
        assert torch.equal(batch.features[0::2], expected.features)
        smaller = expected.features[:, :inputs] / (1 + view)
        torch.testing.assert_close(batch.features[1::2, :inputs], smaller, rtol=1e-3, atol=0)
        assert torch.equal(batch.features[1::2, inputs:], expected.features[:, inputs:])
        assert torch.equal(batch.labels, expected.labels.repeat_interleave(2))


def test_views_never_cross_a_split_and_do_not_move_it(path: str) -> None:
    clean, table = FeatureTable.load(path, inputs=NAMES), FeatureTable.load(path, inputs=NAMES, views=2)
    config, records = FeaturesConfig(validation_share=0.2, test_share=0.2), []
    for part in ("train", "validation", "test"):
        images = table.split(config, part)
        assert torch.equal(images, clean.split(config, part))
        (batch,) = table.batches([images], "none", view=2)
        of_rows = (batch.features[1::2, 0] * 3).round()  # the first column of a feature is its record's number
        assert torch.equal(of_rows, batch.features[0::2, 0])
        records.append(set(of_rows.tolist()))
    assert sum(map(len, records)) == len(set.union(*records)) == 30


def test_reading_clean_features_touches_no_view(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = FeatureSet.read
    monkeypatch.setattr(
        FeatureSet, "read", lambda self, layout, *given, **more: read.extend(layout) or original(self, layout, *given, **more)
    )
    FeatureTable.load(path, inputs=["projected"])
    FeatureTable.load(path, inputs=["projected"], text=False, views=1)
    assert read == ["projected", "text", "projected", "projected_view_1"]


def test_more_views_than_there_are_are_refused(path: str, tmp_path: Path) -> None:
    assert check_inputs(FeaturesConfig(path=path, inputs=list(NAMES), views=2)) == [WIDTHS[name] for name in NAMES]
    with pytest.raises(
        ValueError, match=r"features.views must be at most 2, the views of projected that .* holds, got 3; embed"
    ):
        check_inputs(FeaturesConfig(path=path, views=3))
    without = write_features(tmp_path / "without", feature_rows(5))
    with pytest.raises(ValueError, match="features.views must be at most 0"):
        FeatureTable.load(without, views=1)
    with pytest.raises(ValueError, match="features.inputs must hold names of features"):
        FeaturesConfig(path=path, inputs=["projected_view_1"])


def test_joined_directories_must_have_views_of_one_kind(tmp_path: Path) -> None:
    rows = with_views(feature_rows(20, rejected=0), OF_VIEWS)
    names, paths = (*NAMES, *OF_VIEWS), []
    for number, degrade in enumerate(["jpeg 50", "jpeg 50", "blur 2"]):
        paths.append(write_features(tmp_path / str(number), rows[number::3], names=names))
        place = f"{paths[-1]}/manifest.json"
        embed = {"views": 2, "view_degrade": [degrade], "degrade_seed": 0}
        storage.write_json(place, storage.read_json(place, {}, way_out="") | {"config": {"embed": embed}})
    table = FeatureTable.load(paths[:2], inputs=NAMES, views=2)
    (batch,) = table.batches([torch.arange(len(table))], "none", view=1)
    torch.testing.assert_close(batch.features[1::2], batch.features[0::2] / 2, rtol=1e-3, atol=0)
    assert FeatureTable.load(paths, inputs=NAMES).width("shared") == sum(WIDTHS[name] for name in NAMES) + D
    said = r"features.views must be 0 for directories with views that were degraded in two ways .* blur 2 \(after seed 0\)"
    with pytest.raises(ValueError, match=said):
        FeatureTable.load(paths, inputs=NAMES, views=2)
