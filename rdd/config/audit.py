"""Settings of the leak audit."""

from dataclasses import dataclass

from rdd.config.checks import MAX_RESAMPLES, SEEDS, check


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """What a detector could have learned instead: properties of files and captions that tell real from generated."""

    output: str = ""
    """Directory to write: audit.json, audit.md."""
    max_images: int = 20_000
    """Images, at least 100, whose properties are looked at; of a larger set whole records are drawn."""
    folds: int = 5
    """Folds by record, in [2, 100], of the cross-validated AUC of a property."""
    red_above: float = 0.6
    """AUC in [0.5, 1); a property is a red leak when the lower end of its 95 % interval lies above."""
    near: float = 0.95
    """Cosine in (0, 1] of two images' features, less the mean of the training part, from which they are near duplicates."""
    near_images: int = 2000
    """Images of validation and test, at least 1, that near duplicates are looked for of, among all of the training part."""
    resamples: int = 1000
    """Bootstrap resamples of records for the intervals, in [100, 1000000]."""
    seed: int = 0
    """Seed of the records drawn, the folds and the resamples, in [0, 2^63)."""

    def __post_init__(self) -> None:
        check(self.max_images >= 100, "audit.max_images", "be at least 100", self.max_images)
        check(2 <= self.folds <= 100, "audit.folds", "lie in [2, 100]", self.folds)
        check(0.5 <= self.red_above < 1, "audit.red_above", "lie in [0.5, 1)", self.red_above)
        check(0 < self.near <= 1, "audit.near", "lie in (0, 1]", self.near)
        check(self.near_images >= 1, "audit.near_images", "be at least 1", self.near_images)
        check(100 <= self.resamples <= MAX_RESAMPLES, "audit.resamples", f"lie in [100, {MAX_RESAMPLES}]", self.resamples)
        check(0 <= self.seed < SEEDS, "audit.seed", "lie in [0, 2^63)", self.seed)
