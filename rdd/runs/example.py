"""One image that the detector has not seen, as a file, and what the detector says of it: where using it begins."""

import io
import logging
from typing import Any

import pyarrow.compute as pc

from rdd import storage
from rdd.config import Config
from rdd.data.open import open_source
from rdd.data.records import RawRecord, from_table
from rdd.detector_identity import encoder_identity_of
from rdd.features import FeatureTable
from rdd.known_weights import find_weights
from rdd.runs.directory import RunDirectory
from rdd.schema import REAL
from rdd.serving.predictor import Predictor
from rdd.serving.writers import writer_of

logger = logging.getLogger(__name__)


def show_example(config: Config) -> dict[str, Any]:
    """Write a generated image of the test part beside the run, answer it, and say how to go on.

    Args:
        config: of a finished run, and of the records that its features were made of.

    Returns:
        ``image``, the file; ``verdict`` and ``probability`` of it.

    Raises:
        RuntimeError: the record of that image can not be read any more.
    """
    run = RunDirectory(config.train.output)
    image, data = storage.join(run.path, "example.png"), _unseen_image(config)
    storage.write_bytes(image, data)
    weights = find_weights(encoder_identity_of(run.detector), config.clip.pretrained)
    predictor = Predictor.load(run.detector, weights=weights)
    answer = predictor.answers([predictor.preparer(data, image)])[0]
    stream = io.BytesIO()
    table = writer_of("table", stream)
    table.write([answer], [None])
    table.close()
    logger.info("an image that the detector was not trained on:\n\n%s", stream.getvalue().decode())
    logger.info("the same again: rdd predict %s --detector %s", image, run.detector)
    logger.info("a page to drop images on: rdd serve --detector %s, then open http://127.0.0.1:8000", run.detector)
    return {"image": image, "verdict": answer.verdict, "probability": answer.probability}


def _unseen_image(config: Config) -> bytes:
    """The first generated image of the first record of the test part."""
    table = FeatureTable.load(config.features.path, inputs=config.features.inputs, text=False)
    images = table.split(config.features, "test")
    record_id = table.record_ids[int(table.record_of[images[table.labels[images] == 1]].min())].as_py()
    source = open_source(config.records)
    index = source.index()
    for read in source.reader(index.filter(pc.equal(index["record_id"], record_id))):
        for record in from_table(read, RawRecord):
            if isinstance(record, RawRecord):
                return next(data for name, data in zip(record.generators, record.images, strict=True) if name != REAL)
    raise RuntimeError(f"record {record_id} can not be read any more; delete {config.features.path} and start again")
