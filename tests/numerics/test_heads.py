"""Every kind of head is trained on the same path by any number of ranks, and standardised inputs are the same to the bit."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from _runs import FEATURES, RankContext, assert_same, make_config, make_table, on_ranks

import rdd.standardization
from rdd.block_mixer import BlockMixer
from rdd.engine import fit, predict
from rdd.features import FeatureTable
from rdd.features.columns import Column
from rdd.heads import check_head
from rdd.model import DetectorHead
from rdd.runs.checkpoint import load_state
from rdd.runs.directory import RunDirectory
from rdd.runs.local_context import LocalContext
from rdd.standardization import column_moments

HALF = FEATURES // 2
BLOCKS = {"model__kind": "blocks", "model__projection": 5, "features__inputs": ["block_1", "block_2"], "model__dropout": 0.3}
LINEAR = {"model__layers": 0, "model__dropout": 0.3}


def blocks_table(text: bool = False) -> FeatureTable:
    """The features as two blocks, or as a block and a prompt a record."""
    table = make_table()
    signs = torch.tensor([1.0, -1.0]).repeat(HALF)  # or layer norm would take away what all columns have in common
    columns = (table.matrices["projected"] * signs.half()).split(HALF, dim=1)
    layout = {f"block_{k}": (Column(f"block_{k}", HALF, np.dtype("<f2")),) for k in (1, 2)}
    matrices = dict(zip(layout, columns, strict=True))
    if text:
        del layout["block_2"]
        layout["text"] = (Column("text_original", HALF, np.dtype("<f2")), Column("text_positive", HALF, np.dtype("<f2")))
        matrices = {"block_1": columns[0], "text": columns[1][: 2 * len(table.record_ids)].contiguous()}
    return replace(table, layout=layout, matrices=matrices)


def alone(folder: Path) -> LocalContext:
    return LocalContext(RunDirectory(str(folder)), lambda metrics: None)


def on_rank(folder: Path) -> None:
    context = RankContext(folder)
    fit(make_config(**BLOCKS), blocks_table(), RankContext(folder / "blocks"))
    fit(make_config(**LINEAR), make_table(), RankContext(folder / "linear"))
    rdd.standardization._CHUNK = 7
    moments = column_moments(make_table(), torch.arange(3, 240), "none", context)
    torch.save(tuple(moments), folder / f"{context.rank}.pt")


@pytest.mark.slow
def test_on_two_ranks_moments_are_the_same_to_the_bit_and_every_head_keeps_its_path(tmp_path: Path, monkeypatch) -> None:
    on_ranks(2, on_rank, tmp_path)
    monkeypatch.setattr(rdd.standardization, "_CHUNK", 7)
    alone_found = column_moments(make_table(), torch.arange(3, 240), "none", alone(tmp_path / "alone"))
    for rank in range(2):
        mean, deviation = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert torch.equal(mean, alone_found.mean)
        assert torch.equal(deviation, alone_found.deviation)
    values = make_table().matrices["projected"][3:].double().numpy()
    np.testing.assert_allclose(alone_found.mean, values.mean(0), rtol=1e-6)
    np.testing.assert_allclose(alone_found.deviation, values.std(0), rtol=1e-6)
    for name, changes, table in (("blocks", BLOCKS, blocks_table()), ("linear", LINEAR, make_table())):
        one = fit(make_config(**changes), table, alone(tmp_path / f"{name}-alone"))
        assert_same(one, load_state(RunDirectory(str(tmp_path / name)).checkpoint("last")), 1e-9)


def test_a_column_that_never_varies_is_not_blown_up(tmp_path: Path) -> None:
    table = make_table()
    table.matrices["projected"][:, 0] = 3.0
    table.matrices["projected"][:, 1] = torch.linspace(0, 1e-3, len(table)).half()
    mean, deviation = column_moments(table, torch.arange(len(table)), "none", alone(tmp_path))
    usual = table.matrices["projected"].double().var(0, correction=0).mean().sqrt()
    assert mean[0] == 3
    torch.testing.assert_close(
        deviation[:2].double(), torch.full((2,), 0.05 * float(usual), dtype=torch.float64), rtol=1e-6, atol=0
    )
    table.matrices["projected"][:] = 1.0
    assert (column_moments(table, torch.arange(len(table)), "none", alone(tmp_path)).deviation == 1).all()


def test_scaling_features_by_hand_is_the_same_run(tmp_path: Path) -> None:
    table, config = make_table(), make_config(train__batch_size=32)
    state = fit(config, table, alone(tmp_path / "inside"))
    train = table.split(config.features, "train")
    mean, deviation = column_moments(table, train, "none", alone(tmp_path))
    assert torch.equal(state.model["mean"].float(), mean)
    assert torch.equal(state.model["deviation"].float(), deviation)
    scaled = {"projected": (table.matrices["projected"].double() - mean) / deviation}
    outside = fit(make_config(train__batch_size=32, model__standardize=False), replace(table, matrices=scaled), alone(tmp_path))
    assert "mean" not in outside.model
    for name, values in outside.model.items():
        torch.testing.assert_close(state.model[name], values, rtol=1e-9, atol=1e-12)


def test_the_vector_for_a_missing_text_stands_in_for_a_text_that_is_scaled_already() -> None:
    head = DetectorHead(6, hidden=4, layers=1, text_dropout=0.3, text_features=2, standardize=True).eval()
    torch.nn.init.normal_(head.no_text)
    head.set_moments(torch.arange(6.0), torch.full((6,), 2.0))
    images = torch.randn(5, 4)
    text = head.no_text.detach() * 2 + torch.arange(6.0)[4:]
    torch.testing.assert_close(head(images), head(torch.cat([images, text.expand(5, -1)], dim=1)))


@pytest.mark.parametrize("changes", [LINEAR, BLOCKS, BLOCKS | {"model__layers": 0}])
def test_each_head_learns_and_goes_on_from_its_checkpoint(changes: dict, tmp_path: Path) -> None:
    table = blocks_table()
    config = make_config(**changes, optimizer__lr=0.01, train__epochs=12)
    whole = fit(config, table, alone(tmp_path / "whole"))
    assert whole.history[-1]["val/auroc"] > 0.8
    with pytest.raises(KeyboardInterrupt):
        fit(config, table, Stopped(tmp_path / "parts"))
    again = fit(config, table, alone(tmp_path / "parts"))
    for name, values in whole.model.items():
        assert torch.equal(values, again.model[name]), name


class Stopped(LocalContext):
    """A process that is killed after some epochs."""

    def __init__(self, folder: Path) -> None:
        super().__init__(RunDirectory(str(folder)), self.stop)

    def stop(self, metrics: Mapping[str, float]) -> None:
        if metrics["epoch"] == 5:
            raise KeyboardInterrupt


def test_blocks_are_projected_alike_and_weighed_for_each_column() -> None:
    mixer = BlockMixer(3, 7, projection=4)
    torch.nn.init.normal_(mixer.importance)
    tokens = torch.randn(5, 3, 7) * torch.tensor([1.0, 10.0, 100.0])[:, None]
    weights = mixer.importance.detach().exp() / mixer.importance.detach().exp().sum(0)
    expected = torch.zeros(5, 4)
    for k in range(3):
        normed = (tokens[:, k] - tokens[:, k].mean(1, keepdim=True)) / tokens[:, k].std(1, correction=0, keepdim=True)
        expected += weights[k] * (normed @ mixer.shared.weight.T + mixer.shared.bias).clamp(min=0)
    torch.testing.assert_close(mixer(tokens.flatten(1)), expected.detach(), rtol=1e-4, atol=1e-4)


def test_a_head_of_blocks_takes_text_beside_them(tmp_path: Path) -> None:
    head = DetectorHead(
        3 * HALF,
        hidden=4,
        layers=1,
        kind="blocks",
        projection=5,
        input_widths=[HALF, HALF],
        text_dropout=0.5,
        text_features=HALF,
    ).eval()
    assert head.hidden[0][0].in_features == 5 + HALF
    assert head(torch.randn(3, 2 * HALF)).shape == (3,)
    table = blocks_table(text=True)
    config = make_config(features__text_mode="shared", features__inputs=["block_1"], model__text_dropout=0.5)
    state = fit(config, table, alone(tmp_path))
    moments = column_moments(table, table.split(config.features, "train"), "shared", alone(tmp_path))
    assert torch.equal(state.model["mean"].float(), moments.mean)
    assert len(moments.mean) == FEATURES


def test_inputs_that_can_not_be_weighed_are_refused() -> None:
    config = make_config(model__kind="blocks").model
    for widths in ([768], [512, 768]):
        with pytest.raises(ValueError, match=r"features\.inputs must be at least two of one width when model\.kind is blocks"):
            check_head(config, "none", widths)
    check_head(config, "none", [768, 768])
    linear = DetectorHead(12, layers=0)
    assert predict(linear, make_table(), torch.arange(9), "none").shape == (9,)
