"""Pictures of states, drawn on the host by the environments' own libraries."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kltrust.environments._parameters import jax_defaults
from kltrust.types import PyTree, Render

HEIGHT, WIDTH = 360, 480
"""The size of pictures whose library does not set one."""


def inside(render: Render | None) -> Render | None:
    """Draws states that are pairs by the renderer of the pair's first entry."""
    if render is None:
        return None
    return lambda states: render([state for state, _ in states])


def pixels(draw: Callable[[PyTree], Any]) -> Render:
    """Draws by a pure function of one state that returns [H, W, 3], numbers from 0 to 255."""

    def render(states: Sequence[PyTree]) -> Iterator[np.ndarray]:
        with jax_defaults():
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
            pictures = np.asarray(jax.lax.map(draw, stacked)).astype(np.uint8)
        # Some draw a tile with a few pixels, too small for any video player.
        times = max(HEIGHT // pictures.shape[1], 1)
        for picture in pictures:
            yield picture.repeat(times, 0).repeat(times, 1)

    return render


def figures(begin: Callable[[Any, PyTree], Callable[[PyTree], Any]], dots_per_inch: int) -> Render:
    """Draws by ``begin(pyplot, first_state) -> draw``, and ``draw(state) -> figure``."""

    def render(states: Sequence[PyTree]) -> Iterator[np.ndarray]:
        with _off_screen() as pyplot:
            with jax_defaults():
                draw = begin(pyplot, states[0])
            for state in states:
                with jax_defaults():
                    figure = draw(state)
                figure.set_dpi(dots_per_inch)
                figure.canvas.draw()
                yield np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()

    return render


def physics(model: Any, set_state: Callable[[Any, PyTree], None]) -> Render:
    """Draws an ``mujoco.MjModel`` by OpenGL.

    ``set_state(data, state)`` sets the positions and velocities of an ``mujoco.MjData``.
    """

    def render(states: Sequence[PyTree]) -> Iterator[np.ndarray]:
        import mujoco

        try:
            renderer = mujoco.Renderer(model, HEIGHT, WIDTH)
        except Exception as error:  # OpenGL's libraries raise exceptions of any kind
            raise RuntimeError(
                f"MuJoCo can't draw here ({type(error).__name__}: {error}): it needs OpenGL; where "
                "there is no screen, set MUJOCO_GL=egl (or osmesa) before Python starts"
            ) from error
        with renderer:
            for state in states:
                data = mujoco.MjData(model)
                set_state(data, state)
                mujoco.mj_forward(model, data)
                # The model's first camera, which mostly follows the body; else a free one.
                renderer.update_scene(data, camera=0 if model.ncam else -1)
                yield renderer.render().copy()

    return render


@contextlib.contextmanager
def _off_screen() -> Iterator[Any]:
    """A pyplot that draws into memory; its old backend and figures come back afterwards."""
    import matplotlib.pyplot as plt

    backend, shown = plt.get_backend(), set(plt.get_fignums())
    plt.switch_backend("agg")
    try:
        with warnings.catch_warnings():
            # From libraries that ask for a window.
            warnings.filterwarnings("ignore", message=".*non-interactive")
            yield plt
    finally:
        for number in set(plt.get_fignums()) - shown:
            plt.close(number)
        plt.switch_backend(backend)
