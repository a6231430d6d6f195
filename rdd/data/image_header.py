"""What bytes are, by their header: an image of a known format and its size, or none."""

import io
import warnings

from PIL import Image

from rdd.data.decode import FORMATS
from rdd.data.outcomes import Outcome
from rdd.schema import STATUS_OK


def image_outcome(data: bytes) -> Outcome:
    """An image file judged by its own bytes: type and size by its header, no pixel is decoded.

    Args:
        data: the whole file.

    Returns:
        ``ok`` with type, width and height; or ``empty``, or ``not_an_image``.
    """
    if not data:
        return Outcome("empty", "zero bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large and odd files, which embedding decides on
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                content_type, (width, height) = image.get_format_mimetype(), image.size
    except Exception as error:  # a malformed header raises whatever its decoder stumbles over
        return Outcome("not_an_image", f"{type(error).__name__}, begins with {data[:16]!r}")
    return Outcome(STATUS_OK, data=data, content_type=content_type, width=width, height=height)
