"""Tiny ImageNet's official tree as the npz file that `load` reads.

The tree: train/<class>/images/*.JPEG and val/images/*.JPEG with val/val_annotations.txt. Its test
images have no labels, so its validation images are the set's test split, as everybody's are.
"""

from pathlib import Path

import numpy as np

from kdlib.data import sources
from kdlib.data.records import canonical, from_arrays
from kdlib.data.sets import save_npz
from kdlib.registry import suggest

NAME = "tiny_imagenet"
ANNOTATIONS = "val_annotations.txt"


def convert_tiny_imagenet(
    folder: str | Path, data_dir: str | Path | None = None, image_size: int = 64
) -> Path:
    """Write `data_dir/tiny_imagenet.npz` from the unpacked archive; the path of the file.

    folder: the one that holds train/ and val/. data_dir: as in `load`. image_size: 64 is the
    images' own; others are resized to it. Classes are the sorted WordNet ids, images in canonical
    order, gray files made RGB. Raises FileNotFoundError (a missing part of the tree) or ValueError
    (an image that cannot be read, annotations that do not fit the images) naming file and class.
    """
    if not (isinstance(image_size, int) and image_size > 0):
        raise ValueError(f"image_size must be a positive int, got {image_size!r}")
    folder = Path(folder).expanduser()
    train = sorted(folder.glob("train/*/images/*.JPEG"))
    if not train:
        raise FileNotFoundError(f"{folder.absolute()} has no train/<class>/images/*.JPEG")
    classes = sorted({path.parts[-3] for path in train})
    places = {name: place for place, name in enumerate(classes)}
    test = _annotated(folder / "val", places)
    arrays = []
    for paths, labels in (
        (train, [places[path.parts[-3]] for path in train]),
        (list(test), list(test.values())),
    ):
        pixels = np.stack([sources.read_image(path, image_size) for path in paths])
        arrays += canonical(pixels, np.array(labels))
    return save_npz(from_arrays(NAME, *arrays, classes), data_dir)


def _annotated(folder: Path, places: dict[str, int]) -> dict[Path, int]:
    """Image -> label of the validation images; their annotations are lines of file, class and box
    with tabs between them."""
    path, labels = folder / ANNOTATIONS, {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, _, rest = line.partition("\t")
        wanted = rest.split("\t")[0]
        if wanted not in places:
            hint = suggest(wanted, places)
            raise ValueError(f"{path}: {name} is of the class {wanted!r}, not in train; {hint}")
        labels[folder / "images" / name] = places[wanted]
    there = set(folder.glob("images/*.JPEG"))
    for what, images in (
        ("names what is not there", labels.keys() - there),
        ("does not name what is there", there - labels.keys()),
    ):
        if images:
            raise ValueError(f"{path} {what}: {len(images)} image(s), as {min(images)}")
    return labels
