"""The command ``kltrust watch``."""

from __future__ import annotations

import dataclasses
import os
import webbrowser
from pathlib import Path
from typing import Annotated

import tyro

from kltrust.experiments.cli import launch, typed
from kltrust.experiments.cli.launch import Switch


@dataclasses.dataclass(frozen=True)
class _Watch:
    """Show sweeps and trainings in the browser while they go on.

    One page, for this machine alone: learning curves, the KL of updates against what was claimed,
    findings, progress, and a table of all runs. It follows what is committed, and needs no restart
    when a run begins, is killed, resumed or finished. Ctrl-C ends it; the runs go on.

    Example: kltrust watch runs
    """

    folders: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DIR ...")]
    """Folders of sweeps or trainings, or a folder of such folders, as in `kltrust watch runs`."""
    port: int | None = None
    """The port to listen on; by default the first free one from 8421 on, 0 for any."""
    open: Switch = False
    """Open the page in a browser."""


def watch(arguments: list[str]) -> int:
    """``kltrust watch``."""
    options = typed.cli(_Watch, prog="kltrust watch", args=arguments)
    if not options.folders:
        raise ValueError("name the run folders to watch, as in `kltrust watch DIR`")
    if options.port is not None:
        launch.check_flag("port", options.port, 0, 65535)
    for folder in options.folders:
        if not folder.is_dir():
            raise ValueError(
                f"there is no folder {folder}: check the path, or make it; a run may begin in it "
                "later"
            )
    from kltrust.experiments.watch import Server

    server = Server(options.folders, options.port)
    try:
        print(f"watching {', '.join(map(str, options.folders))} at {server.address}", flush=True)
        if "SSH_CONNECTION" in os.environ:
            port = server.server_port
            print(f"from your own machine: ssh -L {port}:127.0.0.1:{port} HOST, then that address")
        print("Ctrl-C ends this page; the runs go on", flush=True)
        if options.open:
            webbrowser.open(server.address)
        server.serve_forever()
    except KeyboardInterrupt:
        print("\nno longer watching")
    finally:
        server.server_close()
    return 0
