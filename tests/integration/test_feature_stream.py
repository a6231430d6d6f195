"""Streamed features: what arrives is what the table in memory holds, and a task is sent next to nothing."""

import pickle
from pathlib import Path

import pytest
import torch
from _features import feature_rows, with_views
from _features import write_features as write_named_features
from synthetic import write_features

from rdd.config import FeaturesConfig
from rdd.features import Batch, FeatureTable
from rdd.on_ray.feature_stream import StreamedTable


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three files of records, two of a thousand."""
    return write_features(tmp_path_factory.mktemp("features"), records=2300, images=3, width=8)


@pytest.mark.parametrize("text_mode", ["none", "shared", "official"])
def test_streamed_batches_hold_what_the_table_holds(ray_session, path: str, text_mode: str) -> None:
    table, streamed = FeatureTable.load(path), StreamedTable.open(path, shuffle_mib=1)
    object.__setattr__(streamed, "window_bytes", 40_000)  # several windows, each over several files
    parts = list(torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:5000].split(700))
    for images, batch in zip(parts, streamed.batches(parts, text_mode), strict=True):
        expected = table.gather(images, text_mode)
        assert torch.equal(batch.features, expected.features)
        assert torch.equal(batch.labels, expected.labels)


def test_an_epoch_holds_every_image_once(path: str) -> None:
    streamed = StreamedTable.open(path, shuffle_mib=1)
    images = torch.arange(len(streamed))
    for stratified in (False, True):
        batches = streamed.epoch_batches(images, seed=0, epoch=1, batch_size=256, stratified=stratified)
        assert torch.equal(torch.cat(batches).sort().values, images)


def test_an_epoch_holds_no_image_of_a_generator_that_is_left_out(ray_session, path: str) -> None:
    config = FeaturesConfig(leave_out=["gen-1"])
    table, streamed = FeatureTable.load(path), StreamedTable.open(path, shuffle_mib=1)
    images = streamed.split(config, "train")
    assert torch.equal(images, table.split(config, "train"))
    batches = streamed.epoch_batches(images, seed=0, epoch=1, batch_size=256, stratified=False)
    assert torch.equal(torch.cat(batches).sort().values, images)
    left_out = streamed.generator_of[torch.cat(batches)] == streamed.generators.index("gen-1")
    assert not left_out.any()
    for part, batch in zip(batches, streamed.batches(batches, "none"), strict=True):
        assert torch.equal(batch.features, table.gather(part, "none").features)


def test_a_window_ships_four_bytes_an_image_whatever_the_table_weighs(path: str) -> None:
    streamed = StreamedTable.open(path, shuffle_mib=512)
    images = torch.arange(4000)
    window = len(pickle.dumps(streamed._window(list(images.split(500)), "shared")))
    assert window < 4 * len(images) + 4000


@pytest.mark.parametrize("inputs", [["block_2", "projected"], ["projected", "block_5"]])
def test_streamed_inputs_of_several_widths_and_dtypes(ray_session, tmp_path: Path, inputs: list[str]) -> None:
    named = write_named_features(tmp_path, feature_rows(40), names=("projected", "block_2", "block_5"))
    table = FeatureTable.load(named, inputs=inputs)
    streamed = StreamedTable.open(named, inputs=inputs, shuffle_mib=1)
    parts = list(torch.randperm(len(table), generator=torch.Generator().manual_seed(0)).split(30))
    for images, batch in zip(parts, streamed.batches(parts, "official"), strict=True):
        assert torch.equal(batch.features, table.gather(images, "official").features)


def test_streamed_images_come_with_the_same_views(ray_session, tmp_path: Path) -> None:
    inputs, views = ("projected", "block_2"), ("projected_view_1", "block_2_view_1", "projected_view_2", "block_2_view_2")
    named = write_named_features(tmp_path, with_views(feature_rows(40), views), names=(*inputs, *views))
    table = FeatureTable.load(named, inputs=inputs, views=2)
    streamed = StreamedTable.open(named, inputs=inputs, views=2, shuffle_mib=1)
    parts = list(torch.randperm(len(table), generator=torch.Generator().manual_seed(0)).split(50))
    expected = [Batch(batch.features.clone(), batch.labels, batch.copies) for batch in table.batches(parts, "shared", view=2)]
    for one, other in zip(expected, streamed.batches(parts, "shared", view=2), strict=True):
        assert torch.equal(one.features, other.features)
        assert torch.equal(one.labels, other.labels)
        assert one.copies == other.copies == 2
