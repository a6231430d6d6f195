"""Settings of the leak audit."""

from dataclasses import dataclass

from rdd.config.checks import MAX_RESAMPLES, SEEDS, check


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """What a detector could have learned instead: properties of files and captions that tell real from generated."""

    output: str = ""
    """Directory to write: audit.json, audit.md; with audit.pixels also features/<treatment>/."""
    pixels: bool = False
    """Also embed copies of all images that make the classes equal (encoded, resized, cropped alike), and see how far
    evaluate.run's detector falls on them, and a probe that is fitted to them; without evaluate.run the probe alone."""
    jpeg_quality: int = 75
    """JPEG quality, in [1, 100], at which the copies are encoded alike, with chroma subsampling 4:2:0."""
    resized_to: int = 224
    """Pixels, in [16, 2048], of each side of the square that the copies are resized to alike."""
    cropped_to: int = 256
    """Pixels, in [16, 2048], of each side of the square that is cut from the middle of the copies alike; of a picture whose
    shorter side has fewer, the largest such square is enlarged."""
    max_images: int = 20_000
    """Images, at least 100, whose properties are looked at; of a larger set whole records are drawn."""
    folds: int = 5
    """Folds by record, in [2, 100], of the cross-validated AUC of a property."""
    red_above: float = 0.6
    """AUC in [0.5, 1); a property is a red leak when the lower end of its 95 % interval lies above."""
    near: float = 0.95
    """Cosine in (0, 1] from which two images are near duplicates: of their feature 'projected', or where that is not stored of
    the first of features.inputs, less the mean of the training part. Of 220 photographs and generated images, those encoded
    once more had at least 0.989 to themselves and 0.973 by block 9 of 12; others at most 0.952 and 0.914."""
    near_images: int = 2000
    """Images of validation and test, at least 1, that near duplicates are looked for of, among all of the training part."""
    probe_c: float = 0.01
    """Inverse strength, above 0 and finite, of the L2 penalty of the logistic regression on features."""
    resamples: int = 1000
    """Bootstrap resamples of records for the intervals, in [100, 1000000]."""
    seed: int = 0
    """Seed of the records drawn, the folds and the resamples, in [0, 2^63)."""

    def __post_init__(self) -> None:
        check(self.max_images >= 100, "audit.max_images", "be at least 100", self.max_images)
        check(2 <= self.folds <= 100, "audit.folds", "lie in [2, 100]", self.folds)
        check(0.5 <= self.red_above < 1, "audit.red_above", "lie in [0.5, 1)", self.red_above)
        check(0 < self.near <= 1, "audit.near", "lie in (0, 1]", self.near)
        check(1 <= self.jpeg_quality <= 100, "audit.jpeg_quality", "lie in [1, 100]", self.jpeg_quality)
        for name in ("resized_to", "cropped_to"):
            side = getattr(self, name)
            check(16 <= side <= 2048, f"audit.{name}", "lie in [16, 2048]", side)
        check(0 < self.probe_c < float("inf"), "audit.probe_c", "be above 0 and finite", self.probe_c)
        check(self.near_images >= 1, "audit.near_images", "be at least 1", self.near_images)
        check(100 <= self.resamples <= MAX_RESAMPLES, "audit.resamples", f"lie in [100, {MAX_RESAMPLES}]", self.resamples)
        check(0 <= self.seed < SEEDS, "audit.seed", "lie in [0, 2^63)", self.seed)

    @property
    def treatments(self) -> dict[str, list[str]]:
        """By name, what is done to every image, as ``embed.degrade`` has it.

        The last one does all three: after it a picture of either class has been cut, resized by one factor and encoded alike.
        """
        encoded, resized = f"jpeg {self.jpeg_quality}", f"square {self.resized_to}"
        cropped = f"centre_square {self.cropped_to}"
        return {"encoded": [encoded], "resized": [resized], "cropped": [cropped], "all_three": [cropped, resized, encoded]}
