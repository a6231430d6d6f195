"""Transforms that degrade a picture, as people and websites do: plain functions of a picture, a strength and a generator.

Strengths are in the units of each function's sentence, within the bounds of ``rdd/config/degrade.py``. Pictures are RGB before
and after; random draws come from the generator alone.
"""

import io
import math
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps
from PIL.Image import Resampling, Transform

Rng = np.random.Generator
Apply = Callable[[Image.Image, float, Rng], Image.Image]

_WHITE, _GREY = (255, 255, 255), (222, 225, 230)


def jpeg(image: Image.Image, quality: float, rng: Rng) -> Image.Image:
    """Encoded as JPEG of a quality from 1 to 100 with Pillow's chroma subsampling (4:2:0), and decoded."""
    return _through(image, "JPEG", quality=int(quality))


def webp(image: Image.Image, quality: float, rng: Rng) -> Image.Image:
    """Encoded as lossy WebP of a quality from 1 to 100, and decoded."""
    return _through(image, "WEBP", quality=int(quality))


def blur(image: Image.Image, sigma: float, rng: Rng) -> Image.Image:
    """Gaussian blur of so many pixels, as Pillow approximates it by three box blurs."""
    return image.filter(ImageFilter.GaussianBlur(sigma))


def sharpen(image: Image.Image, factor: float, rng: Rng) -> Image.Image:
    """Sharpness times the factor: 0 blurs, 1 leaves the picture as it is."""
    return ImageEnhance.Sharpness(image).enhance(factor)


def scale(image: Image.Image, factor: float, rng: Rng) -> Image.Image:
    """Both sides times the factor, at least one pixel, bicubic."""
    return _resized(image, image.width * factor, image.height * factor)


def down_up(image: Image.Image, factor: float, rng: Rng) -> Image.Image:
    """Made smaller by the factor and as large as before again, bicubic: the size stays, the detail goes."""
    return scale(image, factor, rng).resize(image.size, Resampling.BICUBIC)


def shorter_side(image: Image.Image, pixels: float, rng: Rng) -> Image.Image:
    """Resized, up or down, until its shorter side has so many pixels, bicubic."""
    return scale(image, pixels / min(image.size), rng)


def square(image: Image.Image, pixels: float, rng: Rng) -> Image.Image:
    """Squeezed into a square of so many pixels, bicubic."""
    return _resized(image, pixels, pixels)


def aspect(image: Image.Image, ratio: float, rng: Rng) -> Image.Image:
    """Squeezed until width over height is the ratio, with as many pixels as before, bicubic."""
    area = image.width * image.height
    return _resized(image, math.sqrt(area * ratio), math.sqrt(area / ratio))


def crop(image: Image.Image, share: float, rng: Rng) -> Image.Image:
    """A window of this share of each side, at a place drawn evenly."""
    return _window(image, round(image.width * share), round(image.height * share), rng)


def crop_pixels(image: Image.Image, pixels: float, rng: Rng) -> Image.Image:
    """A square window of so many pixels at a place drawn evenly; what is smaller gets black edges before."""
    return _window(_with_edges(image, int(pixels)), int(pixels), int(pixels), rng)


def centre_crop(image: Image.Image, pixels: float, rng: Rng) -> Image.Image:
    """The middle, at most so many pixels wide and high; a smaller side stays."""
    width, height = min(image.width, int(pixels)), min(image.height, int(pixels))
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def centre_square(image: Image.Image, pixels: float, rng: Rng) -> Image.Image:
    """A square of so many pixels from the middle; of a smaller picture the largest such square, enlarged to it, bicubic."""
    cut = centre_crop(image, min(pixels, *image.size), rng)
    return cut if cut.width == pixels else _resized(cut, pixels, pixels)


def resized_crop(image: Image.Image, pixels: float, rng: Rng) -> Image.Image:
    """A window of half to all of the area, of a ratio of sides from 0.9 to 1/0.9, as a square of so many pixels.

    The filter is one of bilinear, bicubic and Lanczos, as AI-GenBench draws them.
    """
    area = image.width * image.height * rng.uniform(0.5, 1.0)
    ratio = math.exp(rng.uniform(math.log(0.9), -math.log(0.9)))
    window = _window(image, round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio)), rng)
    filters = (Resampling.BILINEAR, Resampling.BICUBIC, Resampling.LANCZOS)
    return window.resize((int(pixels), int(pixels)), filters[rng.integers(len(filters))])


def pad(image: Image.Image, share: float, rng: Rng) -> Image.Image:
    """Black edges, on each side as wide as this share of the picture's width or height."""
    x, y = int(image.width * share), int(image.height * share)
    return ImageOps.expand(image, (x, y, x, y))


def rotate(image: Image.Image, degrees: float, rng: Rng) -> Image.Image:
    """Turned counter-clockwise, and cut to the largest upright rectangle without an empty corner."""
    turned = image.rotate(degrees, expand=True, resample=Resampling.BICUBIC)
    width, height = _largest_inside(image.width, image.height, math.radians(degrees))
    left, top = (turned.width - width) // 2, (turned.height - height) // 2
    return turned.crop((left, top, left + width, top + height))


def skew(image: Image.Image, factor: float, rng: Rng) -> Image.Image:
    """Sheared by the factor along x or y, drawn evenly, about the middle; empty corners are black."""
    matrix: tuple[float, ...]
    if rng.integers(2):
        matrix = (1, factor, -factor * image.height / 2, 0, 1, 0)
    else:
        matrix = (1, 0, 0, factor, 1, -factor * image.width / 2)
    return image.transform(image.size, Transform.AFFINE, matrix, Resampling.BILINEAR)


def noise(image: Image.Image, sigma: float, rng: Rng) -> Image.Image:
    """Gaussian noise of each value by itself, of a deviation sigma where the whole range of values is 1."""
    values = np.asarray(image, dtype=np.float32)
    noisy = values + 255 * sigma * rng.standard_normal(values.shape, dtype=np.float32)
    return Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))


def shuffle(image: Image.Image, share: float, rng: Rng) -> Image.Image:
    """This share of the pixels change places among each other."""
    pixels = np.array(image).reshape(-1, 3)
    chosen = rng.choice(len(pixels), size=int(share * len(pixels)), replace=False)
    pixels[chosen] = pixels[rng.permutation(chosen)]
    return Image.fromarray(pixels.reshape(image.height, image.width, 3))


def stripes(image: Image.Image, share: float, rng: Rng) -> Image.Image:
    """White stripes across, half the shorter side apart, each this share of that distance high."""
    result, distance = image.copy(), max(1, min(image.size) // 2)
    draw = ImageDraw.Draw(result)
    for top in range(0, image.height, distance):
        if (thick := int(share * distance)) > 0:
            draw.rectangle((0, top, image.width, top + thick - 1), fill=_WHITE)
    return result


def opacity(image: Image.Image, level: float, rng: Rng) -> Image.Image:
    """Mixed with white, of which 1 - level is taken."""
    return Image.blend(Image.new("RGB", image.size, _WHITE), image, level)


def brightness(image: Image.Image, factor: float, rng: Rng) -> Image.Image:
    """Brightness times the factor; 0 is black."""
    return ImageEnhance.Brightness(image).enhance(factor)


def contrast(image: Image.Image, factor: float, rng: Rng) -> Image.Image:
    """Contrast times the factor; 0 is grey."""
    return ImageEnhance.Contrast(image).enhance(factor)


def saturation(image: Image.Image, factor: float, rng: Rng) -> Image.Image:
    """Saturation times the factor; 0 is grayscale."""
    return ImageEnhance.Color(image).enhance(factor)


def screenshot(image: Image.Image, factor: float, rng: Rng) -> Image.Image:
    """Shown on a page at the factor times its size, bilinear as browsers do, and photographed with a part of the page.

    Around the picture lie up to 8 % of its size of white page on each side, drawn evenly, and above them a grey bar of the
    window, as far as the screen goes; nothing is compressed, since screenshots are PNG.
    """
    shown = image.resize(_size(image.width * factor, image.height * factor), Resampling.BILINEAR)
    left, right = (int(shown.width * rng.uniform(0, 0.08)) for _ in range(2))
    top, bottom = (int(shown.height * rng.uniform(0, 0.08)) for _ in range(2))
    bar = max(1, shown.height // 20)
    page = Image.new("RGB", (shown.width + left + right, shown.height + top + bottom + bar), _WHITE)
    page.paste(_GREY, (0, 0, page.width, bar))
    page.paste(shown, (left, bar + top))
    return page


def grayscale(image: Image.Image, nothing: float, rng: Rng) -> Image.Image:
    """Luminance alone (ITU-R 601)."""
    return image.convert("L").convert("RGB")


def flip(image: Image.Image, nothing: float, rng: Rng) -> Image.Image:
    """Left and right exchanged."""
    return ImageOps.mirror(image)


_ALL: tuple[Apply, ...] = (
    *(jpeg, webp, blur, sharpen, scale, down_up, shorter_side, square, aspect, crop, crop_pixels, centre_crop, centre_square),
    *(
        resized_crop,
        pad,
        rotate,
        skew,
        noise,
        shuffle,
        stripes,
        opacity,
        brightness,
        contrast,
        saturation,
        screenshot,
        grayscale,
        flip,
    ),
)
BY_NAME: Mapping[str, Apply] = {function.__name__: function for function in _ALL}
"""Of every name in ``rdd/config/degrade.py`` but ``code``, which draws from these."""


def _through(image: Image.Image, form: str, **options: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, format=form, **options)
    return Image.open(file).convert("RGB")


def _size(width: float, height: float) -> tuple[int, int]:
    return max(1, round(width)), max(1, round(height))


def _resized(image: Image.Image, width: float, height: float) -> Image.Image:
    return image.resize(_size(width, height), Resampling.BICUBIC)


def _window(image: Image.Image, width: int, height: int, rng: Rng) -> Image.Image:
    width, height = min(max(1, width), image.width), min(max(1, height), image.height)
    left, top = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def _with_edges(image: Image.Image, least: int) -> Image.Image:
    x, y = max(0, least - image.width), max(0, least - image.height)
    return ImageOps.expand(image, (x // 2, y // 2, x - x // 2, y - y // 2))


def _largest_inside(width: int, height: int, angle: float) -> tuple[int, int]:
    """Sides of the largest upright rectangle within a turned one, at least a pixel each.

    Where the turned rectangle is long, its two long sides alone bound the upright one; else all four do.
    """
    longer, shorter = max(width, height), min(width, height)
    sine, cosine = abs(math.sin(angle)), abs(math.cos(angle))
    if shorter <= 2 * sine * cosine * longer or abs(sine - cosine) < 1e-10:
        half = shorter / 2
        across, up = (half / sine, half / cosine) if width >= height else (half / cosine, half / sine)
    else:
        double = cosine**2 - sine**2
        across, up = (width * cosine - height * sine) / double, (height * cosine - width * sine) / double
    return max(1, int(across + 1e-6)), max(1, int(up + 1e-6))
