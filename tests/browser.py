"""A page as a browser shows it: how wide and high it is, and what it asks a network for."""

import html
import html.parser
import json
import re
import shutil
import subprocess

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SCRIPT = """addEventListener("load", () => setTimeout(() => {
    const inner = document.querySelector("iframe");
    const root = inner.contentDocument.documentElement;
    document.body.dataset.found = JSON.stringify({
        client: root.clientWidth, scroll: root.scrollWidth, height: root.scrollHeight,
        inside: [...root.querySelectorAll(".scroll")].some(t => t.scrollWidth > t.clientWidth),
        images: [...root.querySelectorAll("img")].every(i => i.naturalWidth > 0),
        asked: inner.contentWindow.performance.getEntriesByType("resource")
            .map(e => e.name).filter(n => !/^(file|data):/.test(n)),
    });
}, 500));"""


def measured(page, width, folder):
    """The page at this path in a frame of so many pixels."""
    holder = folder / "holder.html"
    holder.write_text(
        f'<!doctype html><body><iframe width={width} height=900 style="border:0" '
        f'src="{page.as_uri()}"></iframe><script>{SCRIPT}</script></body>'
    )
    command = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--allow-file-access-from-files", "--virtual-time-budget=3000"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--window-size={width + 200},1000"]
    done = subprocess.run(
        [*command, holder.as_uri()], capture_output=True, text=True, timeout=120, check=False
    )
    (found,) = re.findall(r'data-found="([^"]*)"', done.stdout)
    return json.loads(html.unescape(found))


class Page(html.parser.HTMLParser):
    """What a page has: its tags with their attributes, in order."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def of(self, *names):
        return [attrs for tag, attrs in self.tags if tag in names]

    def values(self, key, *names):
        """Of an attribute, in all tags or in those of these names."""
        chosen = self.of(*names) if names else [attrs for _, attrs in self.tags]
        return [attrs[key] for attrs in chosen if key in attrs]
