"""Takes the pictures of the page of `kltrust watch` that the documentation shows.

    kltrust sweep benchmarks/specs/quickstart.toml &
    python benchmarks/pictures.py runs/quickstart

Writes watch.png and watch_phone.png to docs/assets/, in few colours so that they are small. Needs
Chromium, and tornado, which the notebooks' tests install.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import chrome
import tyro
from common import HERE

from kltrust.experiments.watch import Server

SIZES = {"watch": (1280, 760, False), "watch_phone": (390, 800, True)}
POINTED = """(() => {
    const chart = charts[1];
    const line = chart.aims()[1];
    const i = Math.floor(line.y.length * 0.3);
    const box = chart.plot.getBoundingClientRect();
    return [box.x + chart.px(line.x[i]), box.y + chart.py(line.y[i])];
})()"""
MOST = 150_000
"""The most bytes of a picture."""


def main(folder: tyro.conf.Positional[Path], out: Path = HERE.parent / "docs" / "assets") -> None:
    """Takes them.

    Args:
        folder: of a sweep, better one that goes on.
        out: where to write them.
    """
    server = Server([folder], 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with chrome.opened() as page:
        for name, (width, height, dark) in SIZES.items():
            page.size(width, height, dark=dark)
            page.go(server.address, "document.querySelector('#folders li')")
            page.wait("charts[0].lines.length && model.folders[0].judged", 60)
            page.move(*page.run(POINTED))
            time.sleep(0.5)
            small(page.picture(out / f"{name}.png"))
    server.shutdown()
    server.server_close()


def small(file: Path) -> None:
    """Writes a picture again in 64 colours."""
    from PIL import Image

    with Image.open(file) as picture:
        few = picture.convert("RGB").quantize(64, dither=Image.Dither.NONE)
    few.save(file, optimize=True)
    size = file.stat().st_size
    if size > MOST:
        raise ValueError(f"{file} has {size:,} bytes, more than {MOST:,}: take fewer colours")
    print(f"wrote {file}, {size:,} bytes")


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
