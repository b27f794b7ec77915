"""Named image sets as uint8 arrays, their long tails and their validation splits."""

from kdlib.data.records import ImageSet, fingerprint, from_arrays
from kdlib.data.selection import Selection, long_tail, long_tail_counts, select, split_validation
from kdlib.data.sets import load, names, save_npz

__all__ = [
    "ImageSet",
    "Selection",
    "fingerprint",
    "from_arrays",
    "load",
    "long_tail",
    "long_tail_counts",
    "names",
    "save_npz",
    "select",
    "split_validation",
]
