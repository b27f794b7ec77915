"""What the tests of every room share."""

import os

import pytest

from kdlib import data


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("data") and not os.environ.get("KDLIB_DATA"):
        pytest.skip("needs the real sets: set KDLIB_DATA to the folder with their npz files")


@pytest.fixture(scope="session")
def digits() -> data.ImageSet:
    return data.load("digits")
