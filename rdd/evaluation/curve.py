"""What is read off the precision-recall and the ROC curve, by draws of whole records."""

import numpy as np

CURVE_METRICS = ("average_precision", "tpr_at_1_percent_fpr", "fpr_at_95_percent_tpr", "equal_error_rate")
"""What a curve is asked for, in the order of its values."""

LOW_FPR, HIGH_TPR = 0.01, 0.95


class RecordWeightedCurve:
    """Metrics of fixed scores when records are counted several times or not at all.

    Images are sorted once; counts of records then give every point of both curves by two cumulative sums.

    Args:
        logits: ``(N,)``.
        labels: ``(N,)``: 0 real, 1 generated.
        records: ``(N,)`` record of each image, any integers.
    """

    def __init__(self, logits: np.ndarray, labels: np.ndarray, records: np.ndarray) -> None:
        ids, numbers = np.unique(records, return_inverse=True)
        self.records = len(ids)
        """How many there are."""
        order = np.argsort(-logits, kind="stable")
        self._record_of = numbers[order].astype(np.int32)
        self._generated = labels[order] == 1
        self._ends = np.append(np.flatnonzero(np.diff(logits[order])), len(order) - 1)  # last image of each tie

    def __call__(self, counts: np.ndarray) -> np.ndarray:
        """The metrics of :data:`CURVE_METRICS` with each record counted so often.

        Args:
            counts: ``(B, R)`` whole numbers of B draws, by record in ascending order.

        Returns:
            ``(B, 4)`` float64; NaN where a class has no image, and where the real images do not resolve a rate of 1 %.
        """
        weights = counts[:, self._record_of]
        found = np.cumsum(np.where(self._generated, weights, 0), axis=1, dtype=np.float64)[:, self._ends]
        called = np.cumsum(weights, axis=1, dtype=np.float64)[:, self._ends]
        alarms = called - found
        generated, real = found[:, -1:], alarms[:, -1:]
        values = np.stack(
            [
                _average_precision(found, called),
                _found_at(found, alarms, LOW_FPR),
                _alarms_at(found, alarms, HIGH_TPR),
                _equal_error_rate(found, alarms),
            ],
            axis=1,
        )
        values[((generated == 0) | (real == 0))[:, 0]] = np.nan
        values[real[:, 0] * LOW_FPR < 1, 1] = np.nan
        return values


def _average_precision(found: np.ndarray, called: np.ndarray) -> np.ndarray:
    """Area under the precision-recall curve as a step function, as scikit-learn takes it."""
    precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
    steps = np.diff(found, axis=1, prepend=0)
    return (steps * precision).sum(axis=1) / np.maximum(found[:, -1], 1)


def _found_at(found: np.ndarray, alarms: np.ndarray, rate: float) -> np.ndarray:
    """Largest share of generated images that is found with at most a share ``rate`` of false alarms."""
    allowed = np.floor(rate * alarms[:, -1:] + 1e-9)
    points = (alarms <= allowed).sum(axis=1)  # both curves rise, so those that are allowed come first
    rows = np.arange(len(found))
    return np.where(points > 0, found[rows, points - 1], 0) / np.maximum(found[:, -1], 1)


def _alarms_at(found: np.ndarray, alarms: np.ndarray, rate: float) -> np.ndarray:
    """Smallest share of false alarms at which a share ``rate`` of the generated images is found."""
    first = (found < np.ceil(rate * found[:, -1:] - 1e-9)).sum(axis=1)
    rows = np.arange(len(found))
    return alarms[rows, np.minimum(first, found.shape[1] - 1)] / np.maximum(alarms[:, -1], 1)


def _equal_error_rate(found: np.ndarray, alarms: np.ndarray) -> np.ndarray:
    """Error rate where misses and false alarms are equally frequent, between two points by straight line."""
    alarm_rate = alarms / np.maximum(alarms[:, -1:], 1)
    miss_rate = 1 - found / np.maximum(found[:, -1:], 1)
    after = np.argmax(alarm_rate >= miss_rate, axis=1)
    rows = np.arange(len(found))
    first = after == 0  # then the point before is that of no image called generated
    alarms_before = np.where(first, 0.0, alarm_rate[rows, after - 1])
    gap_before = np.where(first, 1.0, miss_rate[rows, after - 1] - alarms_before)
    alarms_after = alarm_rate[rows, after]
    gap_after = miss_rate[rows, after] - alarms_after
    share = gap_before / np.maximum(gap_before - gap_after, 1e-300)
    return alarms_before + share * (alarms_after - alarms_before)
