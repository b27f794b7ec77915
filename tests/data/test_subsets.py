"""Class subsets share the whole set's split; torch files load without running code."""

import numpy as np
import pytest
import torch

from kdlib import data
from kdlib.data import image_selection, image_set, subset, subset_selection


def test_a_subset_is_the_images_of_its_classes(digits):
    part = subset(digits, ["2", "5", "9"])
    assert part.classes == ("2", "5", "9")
    assert (part.name, part.fingerprint) == (digits.name, digits.fingerprint)
    for split in ("train", "test"):
        whole = getattr(digits, f"{split}_labels")
        rows = [row for row, label in enumerate(whole) if label in (2, 5, 9)]
        images = getattr(digits, f"{split}_images")[rows]
        assert np.array_equal(getattr(part, f"{split}_images"), images)
        names = [part.classes[label] for label in getattr(part, f"{split}_labels")]
        assert names == [digits.classes[whole[row]] for row in rows]
    pixels = part.train_images / 255
    assert part.mean == pytest.approx([pixels.mean()])
    assert part.std == pytest.approx([pixels.std()])
    assert part.mean != pytest.approx(digits.mean)


@pytest.mark.parametrize("imbalance_factor", [None, 20])
def test_a_subset_is_split_as_the_whole_set(digits, imbalance_factor):
    whole = data.select(digits, imbalance_factor, None, seed=3)
    classes = ["1", "4", "8"]
    part, chosen = subset(digits, classes), subset_selection(digits, whole, classes)
    place = np.flatnonzero(np.isin(digits.train_labels, [1, 4, 8]))
    for name in ("train", "val", "left_out"):
        theirs, ours = getattr(whole, f"{name}_indices"), getattr(chosen, f"{name}_indices")
        expected = [row for row in theirs if digits.train_labels[row] in (1, 4, 8)]
        assert place[ours].tolist() == expected
    assert chosen.class_counts == tuple(whole.class_counts[label] for label in (1, 4, 8))
    assert chosen.val_counts == tuple(whole.val_counts[label] for label in (1, 4, 8))
    together = [*chosen.train_indices, *chosen.val_indices, *chosen.left_out_indices]
    assert sorted(together) == list(range(len(part.train_labels)))


def test_no_teacher_is_trained_on_what_another_network_validates_on(digits):
    """By content, for any two class sets and every seed."""
    sets = [("0", "1", "2", "3", "4"), ("4", "5", "6", "7"), ("0", "7", "8", "9"), None]
    for seed in range(3):
        trained, held_out = set(), set()
        for classes in sets:
            record = image_set("digits", None, None, False, classes)
            chosen = image_selection("digits", None, None, False, None, None, seed, classes)
            trained |= {record.train_images[row].tobytes() for row in chosen.train_indices}
            held_out |= {record.train_images[row].tobytes() for row in chosen.val_indices}
        copies = {one.tobytes() for one in digits.train_images}
        assert len(copies) == len(digits.train_images)  # so that content tells images apart
        assert not trained & held_out
        assert len(trained) + len(held_out) == len(copies)


def test_all_classes_are_the_set_itself(digits):
    whole = data.select(digits, None, None, 0)
    again = subset_selection(digits, whole, digits.classes)
    assert again.split_hash == whole.split_hash
    assert np.array_equal(subset(digits, digits.classes).train_labels, digits.train_labels)


def test_wrong_classes_are_refused_by_name(digits):
    with pytest.raises(LookupError, match=r"'digits' has no class '12', did you mean '2'"):
        subset(digits, ["1", "12"])
    with pytest.raises(ValueError, match=r"in the set's order, \['1', '3'\], got \['3', '1'\]"):
        subset(digits, ["3", "1"])
    with pytest.raises(ValueError, match="distinct"):
        subset(digits, ["3", "3"])


@pytest.fixture
def animals(tmp_path):
    """Two teachers' files that share a class: images of one colour, labels as in ImageNet."""
    folder = tmp_path / "animals"
    folder.mkdir()
    known = {"mammals": [34, 137], "african": [24, 34]}
    for split, shift in (("train", 0), ("val", 100)):
        for teacher, ids in known.items():
            labels = np.repeat(ids, 3)
            colours = labels % 50 + np.tile([0, 1, 2], 2) * 50 // 3 + shift
            images = np.tile(colours[:, None, None, None], (1, 4, 4, 3)).astype(np.uint8)
            content = {"data": torch.from_numpy(images), "labels": torch.from_numpy(labels)}
            if teacher == "african":  # what others store
                content = {"data": images.astype(np.float32), "labels": labels, "indices": labels}
            torch.save(content, folder / f"{teacher}_{split}.pth")
    return tmp_path


def test_torch_files_of_several_teachers_are_one_set(animals):
    record = data.load("animals", animals)
    assert record.classes == ("24", "34", "137")
    assert record.train_images.shape == (9, 4, 4, 3)  # the shared class counts once
    assert np.bincount(record.train_labels).tolist() == [3, 3, 3]
    assert np.bincount(record.test_labels).tolist() == [3, 3, 3]
    assert set(record.train_images[record.train_labels == 1].ravel()) == {34, 50, 67}
    (animals / "animals" / "classes.txt").write_text("24 elephant\n34 hyena\n137 baboon\n")
    assert data.load("animals", animals).classes == ("elephant", "hyena", "baboon")
    assert "animals" in data.names(animals)
    (animals / "animals" / "classes.txt").write_text("24 elephant\n")
    with pytest.raises(ValueError, match="names no class 34"):
        data.load("animals", animals)


class Evil:
    def __reduce__(self):
        return (print, ("this code must not run",))


def test_torch_files_that_are_something_else_are_refused(animals, capsys):
    path = animals / "animals" / "mammals_train.pth"
    good = torch.load(path, weights_only=True)
    torch.save({**good, "more": Evil()}, path)
    with pytest.raises(ValueError, match=r"mammals_train.pth is no file of arrays alone"):
        data.load("animals", animals)
    assert "must not run" not in capsys.readouterr().out
    for content, message in (
        ([1, 2], "must be a dict with data and labels"),
        ({"data": good["data"]}, "must be a dict with data and labels"),
        (good | {"data": good["data"] / 255}, r"integers 0..255, got float32 of shape \(6, 4"),
        (good | {"labels": good["labels"][:5]}, r"\(6,\) integers, got int64 of shape \(5,\)"),
        (good | {"data": good["data"][:, :2, :2]}, "images differ in shape"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            data.load("animals", animals)


def test_a_test_image_that_a_teacher_was_trained_on_is_refused(animals):
    folder = animals / "animals"
    (folder / "mammals_val.pth").write_bytes((folder / "mammals_train.pth").read_bytes())
    with pytest.raises(ValueError, match="6 images stand in both train and test"):
        data.load("animals", animals)
    (folder / "mammals_val.pth").unlink()
    (folder / "african_val.pth").unlink()
    with pytest.raises(ValueError, match=r"no file \*_test.pth or \*_val.pth"):
        data.load("animals", animals)
