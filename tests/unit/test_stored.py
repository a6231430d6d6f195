"""What float16 does to features, measured in deviations of each dimension."""

import numpy as np
import pytest

from rdd.config import Config
from rdd.config.parse import override
from rdd.embedding.stored import MAX_ROUNDING, Rounding, as_float16, stored_features


def far_from_zero(means: list[float], images: int = 1000) -> np.ndarray:
    """Features whose dimensions vary by 1 around some means."""
    return np.random.default_rng(0).standard_normal((images, len(means))).astype(np.float32) + np.float32(means)


def moved(values: np.ndarray) -> np.ndarray:
    """Root mean square of float16's rounding of each dimension, in its deviations."""
    rounding = values.astype(np.float64) - values.astype("<f2").astype(np.float64)
    return np.sqrt(np.square(rounding).mean(axis=0)) / values.std(axis=0, dtype=np.float64)


@pytest.mark.parametrize("batch", [1, 20, 64, 1000])
def test_one_dimension_that_float16_rounds_too_much_refuses_the_feature(batch: int) -> None:
    fine, coarse = far_from_zero([0.0, 5.0, 90.0]), far_from_zero([0.0, 5.0, 900.0])
    assert moved(fine).max() < MAX_ROUNDING / 2
    assert moved(coarse)[2] > MAX_ROUNDING > moved(coarse)[1]
    rounding = Rounding({"block_2": False, "block_3": False, "block_4": True})
    for start in range(0, len(fine), batch):
        part = slice(start, start + batch)
        assert np.array_equal(rounding.stored("block_2", fine[part]), fine[part].astype("<f2"))
        assert np.array_equal(rounding.stored("block_4", coarse[part]), coarse[part])
    said = (
        r"block_3 must be kept in float32: over \d+ images float16 moves its dimension 2 by 0\.\d+ of that dimension's deviat"
    )
    with pytest.raises(ValueError, match=said):
        for start in range(0, len(coarse), batch):
            rounding.stored("block_3", coarse[start : start + batch])


def test_what_is_moved_is_measured_over_all_images_so_far() -> None:
    values = far_from_zero([0.0, 300.0, 2000.0], images=512)
    values[:, 2] = 2000.3  # does not vary, so nothing is lost in it
    rounding = Rounding({"projected": False})
    for part in np.array_split(values, 7):
        rounding.stored("projected", part)
    moments = rounding._moments["projected"]
    found = np.sqrt(moments._roundings[:2] / moments._deviations[:2])
    np.testing.assert_allclose(found, moved(values[:, :2]), rtol=1e-6)
    assert moments.flaw() is None


def test_after_some_thousand_images_nothing_is_looked_at_any_more() -> None:
    rounding = Rounding({"projected": False})
    for _ in range(9):
        rounding.stored("projected", far_from_zero([0.0, 5.0], images=512))
    rounding.stored("projected", far_from_zero([0.0, 20_000.0], images=8192))


def test_values_beyond_float16_refuse_the_feature_when_they_are_more_than_a_few() -> None:
    values = far_from_zero([0.0] * 4, images=128)
    values[5, 1] = 1e5
    rounding = Rounding({"block_9": False})
    assert np.isinf(rounding.stored("block_9", values)[5, 1])
    values[7:17, 2] = 1e5
    with pytest.raises(ValueError, match="11 of 256 images hold a value beyond float16") as refused:
        rounding.stored("block_9", np.concatenate([values[7:], values[6:7], values[0:5], values[:1]]))
    assert "add it to clip.float32" in str(refused.value)
    assert np.isinf(as_float16(np.float32([7e4]))).all()


def test_what_is_stored_is_known_without_weights() -> None:
    values = {"clip.model": "ViT-B-16", "clip.blocks": [9, 2], "clip.float32": ["block_2"]}
    assert stored_features(override(Config(), values)) == {
        "projected": {"width": 512, "dtype": "float16"},
        "block_2": {"width": 768, "dtype": "float32"},
        "block_9": {"width": 768, "dtype": "float16"},
        "text_original": {"width": 512, "dtype": "float16"},
        "text_positive": {"width": 512, "dtype": "float16"},
    }
    with pytest.raises(ValueError, match=r"clip\.blocks must lie in \[1, 12\], the blocks of ViT-B-16, got 13"):
        stored_features(override(Config(), values | {"clip.blocks": [13], "clip.float32": []}))
