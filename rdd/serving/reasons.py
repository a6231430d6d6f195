"""What an image file itself says against its verdict: it is unlike what detectors are trained and measured on."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from rdd.data.decode import Picture
from rdd.serving.answer import Reason

LOW_QUALITY = 60
"""JPEG quality below which the traces of a generator are known to fade; published curves fall from here on."""
LEAST_SEEN = 0.5
"""Share of the picture that the encoder's centre crop must show."""
FLAT = 0.7
"""Share of neighbouring pixels that are identical, above which a picture is drawn or rendered rather than photographed."""
_FLAT_ROWS = 128
_SCREENSHOT = ("screenshot", "screen shot")


def reasons_of(picture: Picture, *, seen: tuple[int, int]) -> tuple[Reason, ...]:
    """Reasons, all of them about the image.

    Args:
        picture: the decoded image.
        seen: width and height that the encoder takes.
    """
    return tuple(Reason(code=code, text=text, about="image") for code, text in _found(picture, seen))  # type: ignore[arg-type]


def _found(picture: Picture, seen: tuple[int, int]) -> Iterator[tuple[str, str]]:
    facts, image = picture.facts, picture.image
    if facts.width < seen[0] or facts.height < seen[1]:
        yield (
            "small",
            f"{facts.width} x {facts.height} pixels had to be enlarged to the {seen[0]} x {seen[1]} that the encoder sees",
        )
    if facts.jpeg_quality is not None and facts.jpeg_quality < LOW_QUALITY:
        yield "low_quality", f"JPEG quality {facts.jpeg_quality} is below {LOW_QUALITY}, where traces of a generator fade"
    if why := _screenshot(image, flat_share(image)):
        yield "screenshot_like", why
    shown = min(facts.width, facts.height) / max(facts.width, facts.height)
    if shown < LEAST_SEEN:
        yield "cropped", f"the encoder sees the middle {shown:.0%} of the picture alone"
    if getattr(image, "is_animated", False):  # to count the frames every one of them would have to be read
        yield "animated", "its first frame alone was looked at"


def flat_share(image: Image.Image) -> float:
    """Share in [0, 1] of pixels that equal their right neighbour, in rows all over the picture."""
    if image.width < 2:
        return 0.0
    tops = np.linspace(0, image.height - 1, min(_FLAT_ROWS, image.height)).astype(int).tolist()
    rows = np.stack([np.asarray(image.crop((0, top, image.width, top + 1)))[0] for top in tops])
    rows = rows.reshape(len(tops), image.width, -1)
    return float((rows[:, 1:] == rows[:, :-1]).all(axis=2).mean())


def _screenshot(image: Image.Image, flat: float) -> str | None:
    """Why an image looks like a screenshot, a document or a drawing, or nothing."""
    noted = " ".join(str(value) for value in image.info.values() if isinstance(value, str | bytes)).lower()
    if any(word in noted for word in _SCREENSHOT):
        return "its metadata calls it a screenshot"
    if flat > FLAT:
        return f"{flat:.0%} of its neighbouring pixels are identical, as in screenshots, documents and drawings"
    return None
