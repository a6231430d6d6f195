"""Records of images without labels, prepared for the encoder; without torch."""

from rdd.data.records import RawRecord, RejectedRecord
from rdd.serving.answer import Unreadable
from rdd.serving.content_credentials import NO_CREDENTIALS
from rdd.serving.prepare import Prepared, Preparer


def prepare_record(record: RawRecord | RejectedRecord, preparer: Preparer) -> Prepared:
    """The one image of a record before the encoder; one that could not be read has its reason.

    Args:
        record: its ``record_id`` is what the image is called in its answer.
        preparer: of the detector's encoder.
    """
    name = record.place.record_id
    if isinstance(record, RawRecord):
        return preparer(record.images[0], name)
    error = Unreadable(reason=record.reason, detail=record.detail or record.reason)
    return Prepared(name=name, sha256=None, pixels=None, credentials=NO_CREDENTIALS, error=error)
