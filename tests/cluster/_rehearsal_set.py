"""D3 in small: records in its schema whose real images lie on the web server of the tests, and what must become of each."""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from _web_server import HOSTS, image
from PIL import Image

from rdd import storage
from rdd.hashing import sha256_bytes
from rdd.schema import D3, NUM_GENERATED

ROWS_PER_FILE = 436  # as D3's files
ROWS_PER_GROUP = 100
MODELS = ("DeepFloyd/IF", "CompVis/stable-diffusion-v1-4", "stabilityai/stable-diffusion-2-1", "stabilityai/sdxl")
_ENCODINGS = {"JPEG": 0.75, "PNG": 0.2, "GIF": 0.05}
_SILENT_HOST = HOSTS[7]
_NOBODY = "127.0.0.9"
"""A host on which nothing listens."""


@dataclass(frozen=True)
class Kind:
    """Addresses that end alike."""

    share: float
    path: str
    """With ``{row}`` for the number of the record."""
    statuses: tuple[str, ...] = ("ok",)
    """What may be written of them."""
    host: str = ""
    """Where they lie, if not on one of the ordinary hosts."""
    times: int | None = 1
    """How often an address is asked for; None where it varies."""


KINDS = {
    "image": Kind(0.592, "/image/{row}.jpg"),
    "moved": Kind(0.010, "/to?to=/image/{row}.jpg"),
    "busy at first": Kind(0.005, "/first/1/503?number={row}", times=2),
    "for another agent": Kind(0.005, "/image/{row}.jpg?robots=googlebot:%20noindex"),
    "not found": Kind(0.210, "/status/404?{row}", ("http_404",)),
    "gone": Kind(0.070, "/status/410?{row}", ("http_410",)),
    "forbidden": Kind(0.010, "/status/403?{row}", ("http_403",)),
    # the machine's own name server may be asked too much
    "no such host": Kind(0.020, "/{row}.jpg", ("no_such_host", "resolver_busy"), host="gone-{row}.invalid", times=None),
    "silent": Kind(0.002, "/silence?{row}", ("read_timeout",), times=None),
    "silent host": Kind(0.010, "/silence?{row}", ("read_timeout", "host_down"), host=_SILENT_HOST, times=None),
    "nobody listens": Kind(0.005, "/{row}.jpg", ("connection_refused", "host_down"), host=_NOBODY, times=None),
    "a page": Kind(0.010, "/html?{row}", ("not_an_image",)),
    "placeholder": Kind(0.030, "/placeholder/{row}", ("placeholder",)),
    "noai": Kind(0.015, "/image/{row}.jpg?robots=noai", ("robots",)),
    "noimageai for rdd": Kind(0.006, "/image/{row}.jpg?robots=rdd:%20noimageai", ("robots",)),
}


@dataclass(frozen=True)
class Address:
    """Where the real image of a record should be."""

    kind: Kind
    number: int
    """Of the image that is served."""
    url: str

    @property
    def sha256(self) -> str | None:
        """Of the image that must come back, if one must."""
        return sha256_bytes(image(self.number)) if self.kind.statuses == ("ok",) else None


class RehearsalSet:
    """The records.

    Args:
        records: how many.
        port: of the web server.
        seed: of all that is drawn.
    """

    def __init__(self, records: int, port: int, seed: int) -> None:
        self._seed, self._port = seed, port
        self.ids = [f"d3-{seed}-{row:07d}" for row in range(records)]
        self.addresses = [self._address(row) for row in range(records)]
        for row in range(2, records, 100):  # an address that stands in two records
            self.addresses[row] = self.addresses[row - 1]

    def write(self, folder: str) -> int:
        """Write the files; their size in bytes."""
        starts = range(0, len(self.ids), ROWS_PER_FILE)
        for number, start in enumerate(starts):
            rows = range(start, min(start + ROWS_PER_FILE, len(self.ids)))
            table = pa.Table.from_pylist([self.record(row) for row in rows], schema=D3)
            path = storage.join(folder, f"train-{number:05d}-of-{len(starts):05d}-{self._seed:016x}.parquet")
            storage.write_table(path, table, row_group_size=ROWS_PER_GROUP)
        return sum(file.size for file in storage.list_files(folder))

    def record(self, row: int) -> dict:
        """A record as D3 has it."""
        record: dict[str, object] = {
            "id": self.ids[row],
            "original_prompt": f"picture {row} of the rehearsal",
            "positive_prompt": f"picture {row} of the rehearsal, sharp focus, natural light",
            "negative_prompt": "blurry",
            "url": self.addresses[row].url,
        }
        for number, data in enumerate(self._generated(row)):
            with Image.open(io.BytesIO(data)) as picture:
                width, height = picture.size
            path = f"{MODELS[number]}/{self.ids[row]}"
            record |= {
                f"model_gen{number}": MODELS[number],
                f"width_gen{number}": width,
                f"height_gen{number}": height,
                f"num_inference_steps_gen{number}": 50,
                f"filepath_gen{number}": path,
                f"image_gen{number}": {"bytes": data, "path": path},
            }
        return record

    def images(self, row: int) -> list[Image.Image]:
        """The real image of a record that has one, and its generated images."""
        return [Image.open(io.BytesIO(data)) for data in (image(self.addresses[row].number), *self._generated(row))]

    def _address(self, row: int) -> Address:
        draw = np.random.default_rng([self._seed, row, 0])
        kind = KINDS[str(draw.choice(list(KINDS), p=[kind.share for kind in KINDS.values()]))]
        host = kind.host.format(row=row) or HOSTS[row % 7]
        return Address(kind, row, f"http://{host}:{self._port}{kind.path.format(row=row)}")

    def _generated(self, row: int) -> Iterator[bytes]:
        """Smooth pictures of 64 to 96 pixels, of another light for each generator."""
        draw = np.random.default_rng([self._seed, row, 1])
        for number in range(NUM_GENERATED):
            coarse = Image.fromarray(draw.integers(16 * number, 200, (6, 6, 3), dtype=np.uint8))
            size = (int(draw.integers(64, 97)), int(draw.integers(64, 97)))
            encoding = str(draw.choice(list(_ENCODINGS), p=list(_ENCODINGS.values())))
            picture, buffer = coarse.resize(size, Image.Resampling.BICUBIC), io.BytesIO()
            if encoding == "GIF":
                picture = picture.quantize(method=Image.Quantize.FASTOCTREE)
            picture.save(buffer, format=encoding, **({"compress_level": 1} if encoding == "PNG" else {}))
            yield buffer.getvalue()
