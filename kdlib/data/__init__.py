"""Named image sets as uint8 arrays, their long tails and their validation splits."""

from kdlib.data.kept import image_selection, image_set
from kdlib.data.records import ImageSet, fingerprint, from_arrays
from kdlib.data.selection import Selection, long_tail, long_tail_counts, select, split_validation
from kdlib.data.sets import UnknownSetError, at_hand, load, names, save_npz
from kdlib.data.subsets import subset, subset_selection

__all__ = [
    "ImageSet",
    "Selection",
    "UnknownSetError",
    "at_hand",
    "fingerprint",
    "from_arrays",
    "image_selection",
    "image_set",
    "load",
    "long_tail",
    "long_tail_counts",
    "names",
    "save_npz",
    "select",
    "split_validation",
    "subset",
    "subset_selection",
]
