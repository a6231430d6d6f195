"""Answers as they come, to a stream: as a table for people, JSON lines, CSV or Parquet."""

import csv
import io
import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from rdd.serving.answer import Answer, classification
from rdd.serving.rows import ROWS, row_of

FORMATS = ("table", "json", "csv", "parquet")

_IMAGE_WIDTH, _NOTES_WIDTH = 38, 26
_LINE = f"{{:<{_IMAGE_WIDTH}}}  {{:<16}}  {{:>11}}  {{:<{_NOTES_WIDTH}}}"
_WIDTH = 97
"""Columns of that."""
_FORMULA = re.compile("\\s*[=+\\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n]")
"""How a text begins that spreadsheets take for a formula; the last four are the wide forms of those before."""


class Writer(Protocol):
    """Writes answers."""

    def write(self, answers: Sequence[Answer], explanations: Sequence[Mapping[str, Any] | None]) -> None:
        """Write some answers at once; an explanation goes with each, where it has one."""

    def close(self) -> None:
        """Write what comes last."""


def writer_of(format: str, stream: IO[bytes], *, huggingface: bool = False) -> Writer:
    """A writer.

    Args:
        format: one of ``FORMATS``.
        stream: where the bytes go; it is flushed after each write, and not closed.
        huggingface: for json, of each image the list of labels of Hugging Face's ``image-classification``.
    """
    if format == "parquet":
        return _ParquetWriter(stream)
    if format == "csv":
        return _CsvWriter(stream)
    return _JsonLines(stream, huggingface) if format == "json" else _Table(stream)


class _JsonLines:
    def __init__(self, stream: IO[bytes], huggingface: bool) -> None:
        self._stream, self._value = stream, _labels if huggingface else Answer.to_dict

    def write(self, answers: Sequence[Answer], explanations: Sequence[Mapping[str, Any] | None]) -> None:
        for answer, explanation in zip(answers, explanations, strict=True):
            value = self._value(answer)
            if explanation is not None and isinstance(value, dict):
                value["explanation"] = explanation
            self._stream.write(json.dumps(value).encode() + b"\n")
        self._stream.flush()

    def close(self) -> None:
        pass


def _labels(answer: Answer) -> Any:
    """The list of labels; of an image that could not be read an object with the error, so that there is a line for each."""
    if answer.error is None:
        return classification(answer)
    return {"image": answer.image, "error": {"reason": answer.error.reason, "detail": answer.error.detail}}


class _CsvWriter:
    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._write([ROWS.names])

    def write(self, answers: Sequence[Answer], explanations: Sequence[Mapping[str, Any] | None]) -> None:
        self._write([_cell(row[name]) for name in ROWS.names] for row in map(row_of, answers))

    def _write(self, rows: Iterable[Sequence[Any]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        self._stream.write(text.getvalue().encode())
        self._stream.flush()

    def close(self) -> None:
        pass


def _cell(value: Any) -> Any:
    """A value of a CSV file; an apostrophe stands before a text that a spreadsheet would compute."""
    if isinstance(value, str) and _FORMULA.match(value):
        return f"'{value}"
    return "" if value is None else value


class _ParquetWriter:
    def __init__(self, stream: IO[bytes]) -> None:
        self._writer = pq.ParquetWriter(stream, ROWS, compression="zstd")

    def write(self, answers: Sequence[Answer], explanations: Sequence[Mapping[str, Any] | None]) -> None:
        self._writer.write_table(pa.Table.from_pylist(list(map(row_of, answers)), schema=ROWS))

    def close(self) -> None:
        self._writer.close()


class _Table:
    """At most ``_WIDTH`` columns wide; what holds for every image is said once, at the end."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._last: Answer | None = None
        self._about_detector: dict[str, None] = {}
        self._say([_LINE.format("image", "verdict", "probability", "notes").rstrip()])

    def write(self, answers: Sequence[Answer], explanations: Sequence[Mapping[str, Any] | None]) -> None:
        for answer in answers:
            self._about_detector |= dict.fromkeys(reason.text for reason in answer.reasons if reason.about == "detector")
            self._last = answer
        self._say(map(_line_of, answers))

    def close(self) -> None:
        if self._last is not None:
            notes = [f"Of every image: {text}." for text in self._about_detector]
            paragraphs = [_about_all(self._last), *notes, self._last.notice]
            self._say(["", *(line for text in paragraphs for line in textwrap.wrap(text, _WIDTH))])

    def _say(self, lines: Iterable[str]) -> None:
        self._stream.write("".join(f"{line}\n" for line in lines).encode(errors="backslashreplace"))
        self._stream.flush()


def _line_of(answer: Answer) -> str:
    name, notes = _shortened(printed(answer.image or ""), _IMAGE_WIDTH), list(_notes_of(answer))
    probability = "" if answer.probability is None else f"{answer.probability:.4f}"
    first, *others = _wrapped(notes) or [""]
    lines = [_LINE.format(name, answer.verdict or "unreadable", probability, first)]
    return "\n".join(line.rstrip() for line in [*lines, *(_LINE.format("", "", "", other) for other in others)])


def _notes_of(answer: Answer) -> Iterable[str]:
    if answer.error is not None:
        yield answer.error.reason
    yield from (reason.code for reason in answer.reasons if reason.about == "image")
    if answer.content_credentials.state != "none":
        yield f"credentials_{answer.content_credentials.state}"


def _wrapped(notes: Sequence[str]) -> list[str]:
    """Notes in lines that fit their column; a single one that does not is left whole."""
    lines: list[str] = []
    for note in notes:
        if lines and len(lines[-1]) + 1 + len(note) <= _NOTES_WIDTH:
            lines[-1] += f" {note}"
        else:
            lines.append(note)
    return lines


def _about_all(answer: Answer) -> str:
    """What holds for every image."""
    bands, rate = answer.bands, _percent
    return (
        f"likely_generated from score {bands.likely_generated_from:.4f} on, likely_real up to {bands.likely_real_to:.4f}: on "
        f"validation at most {rate(bands.false_positive_rate)} of real images are called likely generated, and at most "
        f"{rate(bands.false_negative_rate)} of generated ones likely real. At the threshold {answer.threshold:.4f} "
        f"{rate(answer.true_positive_rate.value)} of generated test images were above, and "
        f"{rate(answer.false_positive_rate.value)} of real ones. The probability assumes that a share of {answer.prior:g} is "
        f"generated. Detector {answer.model_version[:12]}."
    )


def _percent(share: float | None) -> str:
    return "an unmeasured share" if share is None else f"{share:.1%}"


def _shortened(text: str, width: int) -> str:
    """The end of a text that is too long: of a path it tells most."""
    return text if len(text) <= width else f"…{text[1 - width :]}"


def printed(text: str) -> str:
    r"""A text whose characters can not steer a terminal: those are written out.

    Example:
        >>> printed("a\x1b[2Jb")
        'a\\x1b[2Jb'
    """
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
