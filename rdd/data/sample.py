"""A sample set in D3's format, made on this machine: real photographs and four *simulated* generators.

The photographs ship inside scikit-image, scikit-learn and matplotlib. An image is a random crop of one of them; a simulated
generator adds its artefact to such a crop. Crops, sizes, encodings and light are drawn alike for real and generated images,
so that the artefact is the only signal. What a detector of these artefacts scores says nothing about real generators.
"""

import io
import logging
import os
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from rdd import storage
from rdd.config import SampleConfig
from rdd.data.sample_artefacts import ARTEFACTS
from rdd.hashing import hash_strings, sha256_bytes
from rdd.schema import D3, NUM_GENERATED, REAL_IMAGES, STATUS_OK

logger = logging.getLogger(__name__)

PHOTOGRAPHS = {
    "skimage/data/astronaut.png": "an astronaut in an orange suit in front of a flag and a model of the space shuttle",
    "skimage/data/brick.png": "a wall of bricks",
    "skimage/data/camera.png": "a man in a coat who looks through a camera on a tripod",
    "skimage/data/chelsea.png": "a tabby cat that looks into the camera",
    "skimage/data/coffee.png": "a cup of coffee with a spoon on a wooden table",
    "skimage/data/coins.png": "old coins in rows",
    "skimage/data/grass.png": "a lawn from above",
    "skimage/data/gravel.png": "a ground of gravel",
    "skimage/data/hubble_deep_field.jpg": "galaxies on a black sky",
    "skimage/data/moon.png": "the surface of the moon",
    "skimage/data/motorcycle_left.png": "a motorcycle in a garage",
    "skimage/data/rocket.jpg": "a rocket on its launch pad at night",
    "sklearn/datasets/images/china.jpg": "a Chinese temple under a blue sky",
    "sklearn/datasets/images/flower.jpg": "a red dahlia in front of leaves",
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg": "a woman in a navy uniform in front of a flag",
}
"""Photographs by package and path, with a caption."""

SIZES = ((256, 256), (512, 512), (640, 480), (640, 360))
"""Width and height of D3's generated images."""

ENCODINGS = {"JPEG": 0.6, "PNG": 0.2, "GIF": 0.1, "BMP": 0.05, "TIFF": 0.05}
"""D3's encodings and how often each is drawn here."""

_STYLES = ("{}", "a photo of {}", "picture: {}", "{}, seen on a trip")
_QUALITIES = ("highly detailed", "sharp focus", "natural light", "8k", "award winning photography", "realistic colours")


def make_sample(config: SampleConfig) -> dict[str, object]:
    """Write the sample set, one file of records and one of real images at a time.

    The same config gives the same bytes. Killed and started again, whole files are kept.

    Args:
        config: where, how many and which seed; the directory gets ``records/data/`` and ``real_images/``.

    Returns:
        ``output``, ``records``, ``real_images`` and ``num_records``.

    Raises:
        ValueError: no output is given, or it was made with another config.
    """
    if not config.output:
        raise ValueError("sample.output must name the directory to write, got nothing")
    output = storage.absolute(config.output)
    identity = {key: value for key, value in asdict(config).items() if key != "output"}
    done = {name: storage.join(output, name) for name in ("records", "real_images")}
    with storage.owned_directory(output, {"sample": identity}):
        if storage.is_remote(output):
            _write_files(config, output)  # S3 has no rename, so that both directories fill file by file
        elif not all(storage.exists(path) for path in done.values()):
            partial = storage.join(output, ".partial")
            _write_files(config, partial)
            for name, path in done.items():
                if not storage.exists(path):  # a run killed between the two has placed one
                    os.rename(storage.join(partial, name), path)
            storage.delete_directory(partial)
    return {"output": output, **done, "num_records": config.num_records}


def _write_files(config: SampleConfig, folder: str) -> None:
    num_files = -(-config.num_records // config.records_per_file)
    tag = sha256_bytes(f"{config.seed}-{config.num_records}-{config.records_per_file}".encode())[:16]
    for number in range(num_files):
        shard = f"{number:05d}-of-{num_files:05d}"
        records_path = storage.join(folder, "records", "data", f"train-{shard}-{tag}.parquet")
        real_path = storage.join(folder, "real_images", f"real-{shard}.parquet")
        first = number * config.records_per_file
        rows = range(first, min(first + config.records_per_file, config.num_records))
        if not (storage.exists(records_path) and storage.exists(real_path)):
            records, real_images = zip(*(make_record(config.seed, row) for row in rows), strict=True)
            storage.write_table(records_path, pa.Table.from_pylist(list(records), schema=D3), row_group_size=100)
            storage.write_table(real_path, pa.Table.from_pylist(list(real_images), schema=REAL_IMAGES), row_group_size=100)
        logger.info("sample: %d of %d records", rows.stop, config.num_records)


def make_record(seed: int, row: int) -> tuple[dict, dict]:
    """Record number ``row`` of a seed: a row of D3 and its row of the table of real images."""
    rng = np.random.default_rng([seed, row])
    record_id = f"{hash_strings([f'sample-{row}'], seed=seed)[0]:013d}"[:13]
    photograph = list(PHOTOGRAPHS)[rng.integers(len(PHOTOGRAPHS))]
    prompt = _STYLES[rng.integers(len(_STYLES))].format(PHOTOGRAPHS[photograph])
    qualities = rng.permutation(_QUALITIES)[: rng.integers(2, len(_QUALITIES) + 1)]
    url = f"https://photographs.invalid/{record_id}"
    real, encoding = _encode(_crop(photograph, rng), rng)
    record: dict[str, Any] = {
        "id": f"{record_id}-{row}",
        "original_prompt": prompt,
        "positive_prompt": ", ".join([prompt, *qualities]),
        "negative_prompt": "blurry, low quality",
        "url": url,
    }
    for i, (name, artefact) in enumerate(ARTEFACTS.items()):
        generated = artefact(_crop(photograph, rng), rng)
        data, _ = _encode(generated, rng)
        height, width = generated.shape[:2]
        path = f"{name}/{record['id']}"
        record |= {
            f"model_gen{i}": name,
            f"width_gen{i}": width,
            f"height_gen{i}": height,
            f"num_inference_steps_gen{i}": int(rng.integers(20, 51)),
            f"filepath_gen{i}": path,
            f"image_gen{i}": {"bytes": data, "path": path},
        }
    with Image.open(io.BytesIO(real)) as image:
        width, height = image.size
    return record, {
        "id": record["id"],
        "url": url,
        "bytes": real,
        "sha256": sha256_bytes(real),
        "content_type": f"image/{encoding.lower()}",
        "width": width,
        "height": height,
        "final_url": url,
        "status": STATUS_OK,
    }


def _crop(photograph: str, rng: np.random.Generator) -> np.ndarray:
    """A random crop at one of D3's sizes in another light, ``(height, width, 3)`` float32 in [0, 255]."""
    source = _load(photograph)
    width, height = SIZES[rng.integers(len(SIZES))]
    largest = min(source.width / width, source.height / height)
    scale = largest * rng.uniform(0.5, 1.0)
    left = rng.uniform(0, source.width - scale * width)
    top = rng.uniform(0, source.height - scale * height)
    box = (left, top, left + scale * width, top + scale * height)
    image = np.asarray(source.resize((width, height), Image.Resampling.BICUBIC, box=box), dtype=np.float32)
    if rng.random() < 0.5:
        image = image[:, ::-1]
    contrast, light = rng.uniform(0.85, 1.15), rng.uniform(-15, 15)
    return np.clip((image - 128) * contrast + 128 + light, 0, 255)


def _encode(image: np.ndarray, rng: np.random.Generator) -> tuple[bytes, str]:
    """An image file in one of D3's encodings, and which."""
    encoding = str(rng.choice(list(ENCODINGS), p=list(ENCODINGS.values())))
    options = {"JPEG": {"quality": int(rng.integers(75, 96))}, "PNG": {"compress_level": 1}}.get(encoding, {})
    picture = Image.fromarray(np.clip(image + 0.5, 0, 255).astype(np.uint8))
    if encoding == "GIF":
        picture = picture.quantize(method=Image.Quantize.FASTOCTREE)  # the default takes 0.1 s an image
    buffer = io.BytesIO()
    picture.save(buffer, format=encoding, **options)
    return buffer.getvalue(), encoding


@cache
def _load(photograph: str) -> Image.Image:
    package, _, path = photograph.partition("/")
    with files(package).joinpath(path).open("rb") as file:
        return Image.open(file).convert("RGB")


assert len(ARTEFACTS) == NUM_GENERATED
