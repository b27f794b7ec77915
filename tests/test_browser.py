"""The report in a real browser: headless Chromium, driven over its DevTools protocol."""

import contextlib
import itertools
import json
import math
import shutil
import subprocess
import time

import pytest
import websocket
from report_helpers import fake_store, params_of

from kdlib import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on PATH")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
TIMEOUT = 60  # seconds, for a machine under load


class Tab:
    """One page: commands and their results, and every event that came meanwhile."""

    def __init__(self, address):
        # Chromium refuses a connection that names an origin.
        self.socket = websocket.create_connection(address, TIMEOUT, suppress_origin=True)
        self.numbers, self.events = itertools.count(1), []

    def call(self, method, **params):
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := json.loads(self.socket.recv())).get("id") != number:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def evaluate(self, expression):
        """The value of an expression in the page; what it throws is an error."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def open(self, url):
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)
        wait(
            lambda: self.evaluate(
                f"document.readyState === 'complete' && location.href === '{url}'"
            )
        )

    def seen(self, method):
        return [event["params"] for event in self.events if event["method"] == method]


def wait(done):
    end = time.monotonic() + TIMEOUT
    while not (found := done()):
        assert time.monotonic() < end, f"not so after {TIMEOUT} s"
        time.sleep(0.1)
    return found


@contextlib.contextmanager
def browser(profile):
    """The DevTools address of a browser that is closed at the end."""
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "--remote-debugging-port=0"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([*command, "about:blank"], **quiet) as process:
        try:
            ready = profile / "DevToolsActivePort"
            wait(lambda: process.poll() is not None or (ready.exists() and ready.read_text()))
            assert process.poll() is None, f"chromium ended with {process.returncode}"
            port, path = ready.read_text().split()
            yield f"ws://127.0.0.1:{port}{path}"
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    folder, params = tmp_path_factory.mktemp("report"), params_of()
    page = report.write(fake_store(params, folder), params, folder)
    with browser(tmp_path_factory.mktemp("profile")) as address:
        whole = Tab(address)
        target = whole.call("Target.createTarget", url="about:blank")["targetId"]
        found = Tab(f"{address.rsplit('/devtools', 1)[0]}/devtools/page/{target}")
        found.open(page.as_uri())
        yield found
        for one in (found, whole):
            one.socket.close()


def test_every_image_loads(tab):
    widths = tab.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) == 11
    assert min(widths) > 100


def column(tab, heading):
    """The numbers of a column of the first table, top to bottom."""
    texts = tab.evaluate(
        "(() => {const table = document.querySelector('table');"
        f"const at = [...table.rows[0].cells].findIndex(cell => cell.textContent === '{heading}');"
        "return [...table.tBodies[0].rows].map(row => row.cells[at].textContent)})()"
    )
    return [float(text) if text else -math.inf for text in texts]


def test_a_click_on_a_heading_sorts_and_another_reverses(tab):
    heading = "ACC effect, points"
    click = (
        "[...document.querySelectorAll('th button')]"
        f".find(button => button.textContent === '{heading}').click()"
    )
    before = column(tab, heading)
    assert before not in (sorted(before), sorted(before)[::-1])
    state = "[...document.querySelectorAll('[aria-sort]')].map(head => head.ariaSort)"
    for expected in ("descending", "ascending", "descending"):
        tab.evaluate(click)
        numbers = column(tab, heading)
        assert numbers == sorted(before, reverse=expected == "descending")
        assert tab.evaluate(state) == [expected]


def test_the_contents_lead_to_every_section(tab):
    anchors = "[...document.querySelectorAll('nav a')].map(a => a.getAttribute('href').slice(1))"
    found = tab.evaluate(f"{anchors}.map(id => document.getElementById(id).tagName)")
    assert found == ["SECTION", "SECTION"]


def test_nothing_goes_wrong_and_nothing_leaves_the_file_system(tab):
    """Last: what happened while the page was opened and clicked."""
    tab.evaluate("0")  # events up to now have come
    assert tab.seen("Runtime.exceptionThrown") == []
    assert [event["entry"]["text"] for event in tab.seen("Log.entryAdded")] == []
    assert tab.seen("Runtime.consoleAPICalled") == []
    urls = [event["request"]["url"] for event in tab.seen("Network.requestWillBeSent")]
    assert len(urls) == 1 + 11
    assert all(url.startswith("file://") for url in urls)


def test_an_error_would_be_seen(tab):
    """The checks above are not blind."""
    tab.evaluate("setTimeout(() => {throw new Error('on purpose')}); new Image().src = 'gone.png'")
    for method in ("Runtime.exceptionThrown", "Log.entryAdded"):
        wait(lambda method=method: tab.evaluate("true") and tab.seen(method))
