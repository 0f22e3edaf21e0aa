"""The viewer as tests have it before them: on the demonstration page, or in a page of somebody's."""

from __future__ import annotations

from typing import Any

from tests.browser.samples import Product
from tests.support.browser import Tab
from tests.support.pages_api import PagesApi

EVENTS = "GET /api/v1/events"


def show(tab: Tab, product: Product) -> None:
    """The demonstration page of the real service, with a key of ``product``."""
    tab.open(f"{product.service.url}/viewer")
    tab.type("#token", product.key)
    tab.click("button[type=submit]")


def embed(tab: Tab, api: PagesApi, attributes: str = "", *, token: str = "vt_1") -> None:
    """A page of somebody's that has the viewer in it, under a policy that names nothing but what the viewer needs."""
    html = f"""<!doctype html><html lang="en"><head><title>A page</title>
        <meta name="viewport" content="width=device-width"><script type="module" src="/viewer.js"></script></head>
        <body><main><h1>Ours</h1><logstitch-viewer token="{token}" {attributes}></logstitch-viewer></main></body>"""
    policy = f"default-src 'none'; script-src {api.url}; connect-src {api.url}; style-src 'self'"
    policy += "; require-trusted-types-for 'script'; trusted-types 'none'"
    tab.open(api.page("/page", html, content_security_policy=policy))


def rows(tab: Tab) -> int:
    return len(tab.all(".row"))


def inside(tab: Tab, script: str) -> Any:
    """Runs a function's body that knows the viewer's shadow tree as ``root``."""
    return tab.run(f"const root = document.querySelector('logstitch-viewer').shadowRoot; {script}")


def set_(tab: Tab, name: str, value: str) -> None:
    tab.run(f"document.querySelector('logstitch-viewer').{name} = arguments[0]", value)
