"""Tests the status page in Chromium, under load and during a reload: status_page.py SERVER [FOLDER FOR SCREENSHOTS]"""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

from chromium import LIMIT, Chromium

WORKERS = 4


class Server:
    """prefork-http with a status page. A thread reads its log."""

    def __init__(self, program):
        self.log = []
        self.process = subprocess.Popen(
            [program, "--listen", "127.0.0.1:0", "--status", "127.0.0.1:0", "--workers", str(WORKERS)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        threading.Thread(target=self.read, daemon=True).start()
        self.address = self.logged(r"listening.*?(127\.0\.0\.1:\d+)")
        self.status = self.logged(r"serving the status page.*?(127\.0\.0\.1:\d+)")

    def read(self):
        for line in self.process.stderr:
            self.log.append(re.sub(r"\x1b\[[0-9;]*m", "", line))

    def logged(self, pattern):
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            for line in list(self.log):
                if match := re.search(pattern, line):
                    return match.group(1)
            time.sleep(0.05)
        raise TimeoutError(f"the log has no {pattern!r}:\n{''.join(self.log)}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Load:
    """As many clients as workers. Each sends one request after another."""

    def __init__(self, address):
        self.address = address
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self.ask) for _ in range(WORKERS)]
        for thread in self.threads:
            thread.start()

    def ask(self):
        connection = http.client.HTTPConnection(self.address, timeout=LIMIT)
        while not self.ended.is_set():
            try:
                connection.request("GET", "/")
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                connection.close()  # The next request connects again, which is needed after a reload.

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ended.set()
        for thread in self.threads:
            thread.join()


ROWS = "[...document.querySelectorAll('.generation')].map(generation => generation.querySelectorAll('tbody tr').length)"
STATES = "[...document.querySelectorAll('[data-name=state]')].map(cell => cell.innerText)"
BACKGROUND = "getComputedStyle(document.documentElement).backgroundColor + getComputedStyle(document.body).backgroundColor"


def numbers_change(browser):
    """The script replaces the content: the number of requests rises, and the browser does not load the page again."""
    browser.evaluate("window.here = true")
    requests = "[...document.querySelectorAll('[data-name=requests]')].reduce((sum, cell) => sum + Number(cell.innerText), 0)"
    before = browser.evaluate(requests)
    browser.until("the number of requests rises", f"{requests} > {before}")
    assert browser.evaluate("window.here"), "the page was loaded again"


def survives_a_proxy(browser):
    """The page keeps its content while a proxy answers in place of the server. It shows the time of the server's last answer."""
    browser.evaluate("Date.prototype.toLocaleTimeString = () => '1:02:03 PM'")
    browser.until("the page has the time", "document.getElementById('live').innerText == 'updated 1:02:03 PM'")
    browser.evaluate("window.own = fetch; void (window.fetch = async () => new Response('<h1>Bad Gateway</h1>', { status: 502 }))")
    browser.until("the page says that the server does not answer",
                  "document.getElementById('live').innerText == 'no answer since 1:02:03 PM'")
    assert browser.evaluate(ROWS) == [WORKERS], browser.evaluate("document.body.innerText")
    browser.evaluate("window.fetch = own")
    browser.until("the server answers again", "document.getElementById('live').innerText == 'updated 1:02:03 PM'")


def fits(browser, width):
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
    needed = browser.evaluate("document.documentElement.scrollWidth")
    assert needed <= width, f"the page needs {needed} of {width} pixels"


def stays_in_place(browser):
    """A table that is wider than the page stays where the user has moved it."""
    fits(browser, 900)
    browser.evaluate("document.documentElement.style.fontSize = '24px'")
    browser.evaluate("document.querySelector('.generation').scrollLeft = 50; document.querySelector('main').isOld = true")
    browser.until("the content is replaced", "!document.querySelector('main').isOld")
    place = browser.evaluate("document.querySelector('.generation').scrollLeft")
    assert place == 50, f"the table has moved from 50 to {place}"
    browser.evaluate("document.documentElement.style.fontSize = ''")


def shows_workers(browser):
    browser.until(f"one generation of {WORKERS} workers", f"JSON.stringify({ROWS}) == '[{WORKERS}]'")
    states = browser.evaluate(STATES)
    assert len(states) == WORKERS and set(states) <= {"booting", "ready", "busy", "draining"}, states
    plots = browser.evaluate("[...document.querySelectorAll('.plots svg')].map(plot => plot.getBoundingClientRect().width)")
    assert len(plots) == 2 and min(plots) > 100, plots


def asks_for_the_page_only(browser, origin):
    urls = {event["params"]["request"]["url"] for event in browser.events if event.get("method") == "Network.requestWillBeSent"}
    others = {url for url in urls if not url.startswith((origin, "about:"))}
    assert not others, f"the page loads from other origins: {others}"
    entries = [event["params"]["entry"]["text"] for event in browser.events if event.get("method") == "Log.entryAdded"]
    assert not [text for text in entries if "favicon" not in text and "404" not in text], entries


def main(program, folder=None):
    with Server(program) as server, Load(server.address), Chromium() as browser:
        origin = f"http://{server.status}"
        browser.open(f"{origin}/status")
        shows_workers(browser)
        numbers_change(browser)
        survives_a_proxy(browser)
        stays_in_place(browser)
        for width in (1280, 768, 360):
            fits(browser, width)
            hidden = browser.evaluate("(table => table.scrollWidth - table.clientWidth)(document.querySelector('.generation'))")
            assert hidden == 0, f"{hidden} pixels of the table are hidden on a page of {width} pixels"

        backgrounds = set()
        for scheme in ("light", "dark"):
            browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            backgrounds.add(browser.evaluate(BACKGROUND))
        assert len(backgrounds) == 2, f"dark and light are alike: {backgrounds}"

        # Connections that have sent no request keep the workers of the old generation from ending.
        waiting = [socket.create_connection(server.address.split(":")) for _ in range(4 * WORKERS)]
        server.process.send_signal(signal.SIGHUP)
        browser.call("Emulation.clearDeviceMetricsOverride")
        browser.until("two generations side by side, the older one draining",
                      f"{ROWS}.length == 2 && {STATES}.includes('draining')")
        for scheme in ("light", "dark"):
            browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            for width in (1280, 360):
                fits(browser, width)
                if folder:
                    browser.screenshot(os.path.join(folder, f"status-{scheme}-{width}.png"))
        for connection in waiting:
            connection.close()
        browser.until("the older generation has ended", f"JSON.stringify({ROWS}) == '[{WORKERS}]'")
        asks_for_the_page_only(browser, origin)

        browser.call("Emulation.setScriptExecutionDisabled", value=True)
        browser.open(f"{origin}/status")
        tree = browser.call("DOM.getDocument", depth=-1)["root"]["nodeId"]
        rows = browser.call("DOM.querySelectorAll", nodeId=tree, selector=".generation tbody tr")["nodeIds"]
        assert len(rows) == WORKERS, f"{len(rows)} rows without scripts"
        assert browser.call("DOM.querySelectorAll", nodeId=tree, selector="noscript meta[http-equiv=refresh]")["nodeIds"], \
            "without scripts, the page is not refreshed"
    print("the status page: ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
