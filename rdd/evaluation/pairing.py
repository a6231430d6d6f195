"""The same images of several feature sets, in one order, so that what is said of them can be compared image by image."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from rdd.evaluation.scores import Scored


def image_keys(record_ids: list[str], generators: list[str]) -> np.ndarray:
    """``(N,)`` names of images: record, generator, and which of the images of both it is.

    Args:
        record_ids: of each image, the images of a record in a fixed order.
        generators: of each image.
    """
    seen: Counter[tuple[str, str]] = Counter()
    keys = []
    for pair in zip(record_ids, generators, strict=True):
        keys.append("\0".join((*pair, str(seen[pair]))))
        seen[pair] += 1
    return np.array(keys, dtype=object)


def common_images(scored: Mapping[str, tuple[Scored, np.ndarray]]) -> tuple[dict[str, Scored], int]:
    """Of several scored sets the images that all of them hold, ordered by key.

    Args:
        scored: by name, logits and the keys of their images.

    Returns:
        By name, the logits of the common images, records numbered alike; and how many images of any set were left out.
    """
    orders, records, left_out = common_order({name: keys for name, (_, keys) in scored.items()})
    found = {}
    for name, (one, _) in scored.items():
        order = orders[name]
        found[name] = Scored(one.logits[order], one.labels[order], one.generator_of[order], one.generators, records)
    return found, left_out


def common_order(keys: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray, int]:
    """Where in each of several sets the images lie that all of them hold.

    Args:
        keys: by name of a set, the keys of its images (:func:`image_keys`).

    Returns:
        By name, ``(n,)`` positions of the common images, ordered by key; ``(n,)`` the record of each, numbered alike; and how
        many images of any set were left out.
    """
    first, *others = keys.values()
    common = set(first.tolist()).intersection(*(of.tolist() for of in others))
    wanted = sorted(common)
    everywhere = common.union(*(of.tolist() for of in keys.values()))
    records = np.unique([key.split("\0")[0] for key in wanted], return_inverse=True)[1] if wanted else np.zeros(0, dtype=int)
    orders = {}
    for name, of in keys.items():
        place = {key: number for number, key in enumerate(of.tolist())}
        orders[name] = np.array([place[key] for key in wanted], dtype=np.int64)
    return orders, records, len(everywhere) - len(common)
