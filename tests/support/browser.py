"""A real headless Chromium: Debian's chromium and chromium-driver, driven by selenium, reaching loopback only.

Every tab watches itself from its first moment on: violations of a Content-Security-Policy, uncaught errors, and a
function ``pwned`` that hostile strings try to call. ``Tab.troubles`` tells what has come of it.
"""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.remote.webelement import WebElement

T = TypeVar("T")

AXE = Path(__file__).parents[1] / "browser/vendor/axe.min.js"
REBOUND = "evil.example"
"""A foreign name that leads to this machine."""
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--disable-default-apps",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--lang=en-US",
    # No name is ever looked up; addresses need no looking up. One is what somebody has made of this machine's address.
    f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1 , MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)
DESKTOP, PHONE = (1280, 800), (390, 844)

_WATCH = """
window.__troubles = [];
window.pwned = () => window.__troubles.push('a string of an event ran as a script');
window.alert = window.confirm = window.prompt = window.pwned;
addEventListener('securitypolicyviolation', (e) =>
  window.__troubles.push(`policy: ${e.violatedDirective} ${e.blockedURI} ${e.sample}`));
addEventListener('error', (e) => window.__troubles.push(`error: ${e.message}`));
addEventListener('unhandledrejection', (e) => window.__troubles.push(`rejection: ${e.reason}`));
"""
# The first element that a selector finds, the open shadow trees of the page included.
_FIND = """
const hosts = (root) => [...root.querySelectorAll('*')].filter((e) => e.shadowRoot);
const all = (root) => [root, ...hosts(root).flatMap((e) => all(e.shadowRoot))];
const found = all(document).flatMap((root) => [...root.querySelectorAll(arguments[0])]);
"""


def missing() -> str | None:
    """Why there is no browser here, in a sentence; None where there is one."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    if not absent:
        return None
    return f"no {' and no '.join(absent)} on the PATH (on Debian: apt install chromium chromium-driver)"


@dataclass
class Tab:
    """One browser with one page, and the words in which tests speak of it."""

    driver: Chrome
    downloads: Path
    """Where files are saved to."""

    def open(self, url: str) -> None:
        """Load a page, from scratch."""
        self.driver.get("about:blank")
        self.driver.get(url)

    def run(self, script: str, *arguments: object) -> Any:
        """A function's body in the page, and what it returns."""
        return self.driver.execute_script(script, *arguments)

    def cdp(self, command: str, **parameters: object) -> Any:
        """A command of the DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""
        return self.driver.execute_cdp_cmd(command, parameters)

    def look(self, *, theme: str = "light", size: tuple[int, int] = DESKTOP) -> None:
        """What system the page thinks that it is on. Nothing moves there: a colour on its way has no contrast."""
        phone = size[0] < 600
        media = {"prefers-color-scheme": theme, "prefers-reduced-motion": "reduce"}
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": n, "value": v} for n, v in media.items()])
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=size[0],
            height=size[1],
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        self.cdp("Emulation.setTouchEmulationEnabled", enabled=phone)

    # -- finding --------------------------------------------------------------------------------------------------

    def all(self, selector: str) -> list[WebElement]:
        """Every element, those in shadow trees included."""
        found: list[WebElement] = self.run(_FIND + "return found", selector)
        return found

    def one(self, selector: str) -> WebElement:
        """The first one that can be seen; waits for it."""
        find = _FIND + "return found.find((e) => e.checkVisibility())"
        found: WebElement = self.until(lambda: self.run(find, selector), f"no {selector}")
        return found

    def text(self, selector: str) -> str:
        """What is written in the first one, seen or not."""
        text: str = self.run(_FIND + "return found[0] ? found[0].textContent : ''", selector)
        return text

    def texts(self, selector: str) -> list[str]:
        """What is written in each."""
        texts: list[str] = self.run(_FIND + "return found.map((e) => e.textContent)", selector)
        return texts

    def seen(self, selector: str) -> bool:
        """Whether any can be seen."""
        return bool(self.run(_FIND + "return found.some((e) => e.checkVisibility())", selector))

    def focused(self) -> str:
        """The element that has the focus, as ``tag.class#id``, and what it says."""
        focused: str = self.run(
            "let e = document.activeElement; while (e?.shadowRoot?.activeElement) e = e.shadowRoot.activeElement;"
            "const name = e && `${e.localName}.${[...e.classList].join('.')}#${e.id}`;"
            "return e ? `${name} ${(e.ariaLabel ?? e.textContent).trim()}` : ''"
        )
        return focused

    # -- acting ---------------------------------------------------------------------------------------------------

    def click(self, selector: str) -> None:
        """With the pointer, where it is."""
        self.one(selector).click()

    def type(self, selector: str, text: str) -> None:
        """Into a field, instead of what is there."""
        field = self.one(selector)
        field.clear()
        field.send_keys(text)

    def keys(self, *keys: str) -> None:
        """To whatever has the focus."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def chord(self, modifier: str, key: str) -> None:
        """Two keys at once."""
        ActionChains(self.driver).key_down(modifier).send_keys(key).key_up(modifier).perform()

    def until(self, condition: Callable[[], T | None], complaint: str = "", *, seconds: float = 10) -> T:
        """What ``condition`` answers as soon as it is true."""
        deadline = time.monotonic() + seconds
        while True:
            if answer := condition():
                return answer
            if time.monotonic() > deadline:
                raise AssertionError(f"{complaint or 'it did not come true'}; the page says: {self.words()[:2000]}")
            time.sleep(0.03)

    def until_text(self, selector: str, part: str, *, seconds: float = 10) -> str:
        """The text of the first such element, when it has ``part`` in it."""
        return self.until(
            lambda: text if part in (text := self.text(selector)) else None,
            f"{part!r} is not in {selector}",
            seconds=seconds,
        )

    # -- judging --------------------------------------------------------------------------------------------------

    def words(self) -> str:
        """All text that can be seen."""
        words: str = self.run(
            "const walk = (n) => n.nodeType === 3 ? n.data : n.checkVisibility && !n.checkVisibility() ? '' :"
            " [...(n.shadowRoot ?? n).childNodes].map(walk).join(' ');"
            "return walk(document.body).replace(/\\s+/g, ' ')"
        )
        return words

    def troubles(self) -> list[str]:
        """Violations, errors, scripts that ran, and what the console says beyond refused requests."""
        found: list[str] = self.run("return window.__troubles")
        console = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return found + [
            e["message"] for e in console if e["level"] == "SEVERE" and "Failed to load" not in e["message"]
        ]

    def overflow(self) -> list[str]:
        """What is wider than the page."""
        found: list[str] = self.run(
            _FIND.replace("arguments[0]", "'*'") + "const wide = document.documentElement.clientWidth;"
            "if (document.documentElement.scrollWidth <= wide) return [];"
            "const out = found.filter((e) => e.getBoundingClientRect().right > wide + 1);"
            "return ['the page', ...out.map((e) => e.outerHTML.slice(0, 120))]"
        )
        return found

    def axe(self) -> list[str]:
        """Findings of axe-core that are serious or critical, with where they are."""
        # Through the debugger: the page's own policy, which forbids it, is not asked.
        self.cdp("Runtime.evaluate", expression=AXE.read_text() + "\n;undefined")
        found: list[dict[str, Any]] = self.driver.execute_async_script(
            "const done = arguments[arguments.length - 1];"
            "axe.run(document, {resultTypes: ['violations']}).then((r) => done(r.violations),"
            " (e) => done([{id: String(e), impact: 'critical', nodes: []}]))"
        )
        return [
            f"{finding['id']}: {node['target']} {node.get('failureSummary', '')}"
            for finding in found
            if finding["impact"] in ("serious", "critical")
            for node in finding["nodes"] or [{"target": "?"}]
        ]

    def picture(self, path: Path) -> None:
        """The viewport as a PNG."""
        shot = self.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=False)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextmanager
def running_browser() -> Iterator[Tab]:
    """A browser with a profile of its own, which is gone afterwards."""
    # Selenium would look for drivers, and report home, by itself.
    os.environ.update({"SE_OFFLINE": "true", "SE_AVOID_STATS": "true"})
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    with tempfile.TemporaryDirectory(prefix="logstitch-browser-", ignore_cleanup_errors=True) as profile:
        options = ChromeOptions()
        options.binary_location = str(chromium)
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={DESKTOP[0]},{DESKTOP[1]}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        downloads = Path(profile, "downloads")
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        chrome = Chrome(options=options, service=ChromeService(executable_path=str(driver)))
        try:
            chrome.set_page_load_timeout(20)
            chrome.set_script_timeout(30)
            tab = Tab(chrome, downloads)
            tab.cdp("Page.addScriptToEvaluateOnNewDocument", source=_WATCH)
            tab.cdp("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))
            yield tab
        finally:
            chrome.quit()
