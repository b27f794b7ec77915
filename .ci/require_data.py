"""A pytest plugin: a test marked `data` that skips has failed."""

import pytest


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_makereport(item):
    report = yield
    if report.skipped and item.get_closest_marker("data"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} needs the data sets and was skipped: {report.longrepr}"
    return report
