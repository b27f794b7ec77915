"""What readers call what params call by short keys: methods, losses, rules."""

from typing import Any

NAMES = {
    "none": "no KD", "ce": "cross-entropy", "als": "label-aware smoothing",
    "cp": "a confidence penalty", "bs": "balanced softmax", "pskd": "PS-KD",
    "kd_adjusted": "KD in adjusted space", "kd": "KD", "crd": "CRD",
    "rkd": "RKD", "at": "AT", "byot": "BYOT", "dmfl": "DMFL",
    "camkd": "CAMKD", "ca_mkd": "CA-MKD", "camkd_hints": "CAMKD's hints alone",
    "camkd_equal": "CAMKD with equal weights", "centroid": "the mean of the teachers' logits",
    "centroid_weight1": "the mean of the teachers' logits at weight 1",
    "centroid_probs": "the mean of the teachers' probabilities", "median": "the median teacher",
    "confident": "losses to each teacher, weighted by its confidence in a sample",
    "val_confident": "losses to each teacher, weighted by its loss on validation",
    "camkd_pooled": "CAMKD, maps no larger than the student's",
    "ca_mkd_logits": "CA-MKD's logits alone", "ca_mkd_hints": "CA-MKD's hints alone",
    "best": "the best teacher of a batch", "restricted_kd": "restricted KD",
    "label_free": "the label-free rule", "mean": "the mean of the teachers that know the class",
    "per_class": "the per-class mean of those that know the class",
}  # fmt: skip


def called(value: Any) -> str:
    """A method, a sum of methods, a loss or a number for readers.

    >>> called("pskd+byot"), called("restricted_kd"), called(4.0)
    ('PS-KD + BYOT', 'restricted KD', '4')
    """
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return " + ".join(NAMES.get(part, part.replace("_", " ")) for part in text.split("+"))
