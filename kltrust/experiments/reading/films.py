"""Films of episodes: in gymnasium's own environments, or in the one a policy was trained in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from kltrust.experiments.reading.deploy import Act, begin, gymnasium_maker, key_of
from kltrust.experiments.store import files
from kltrust.lazy import import_extra
from kltrust.types import Env, Render

FORMATS = (".gif", ".mp4")


def gymnasium_frames(act: Act, env_name: str, *, seed: int = 0) -> Iterator[np.ndarray]:
    """One episode in gymnasium's own environment as pictures [H, W, 3] of bytes."""
    env = gymnasium_maker(env_name)(render_mode="rgb_array")
    try:
        obs, _ = env.reset(seed=seed)
        begin(act)
        ended, step = False, 0
        while not ended:
            yield env.render()
            obs, _, terminated, truncated, _ = env.step(act(obs, key_of(seed, step)))
            ended, step = terminated or truncated, step + 1
        yield env.render()
    finally:  # also for a film that is cut
        env.close()


def trained_frames(
    act: Act, env: Env, *, seed: int = 0, most: int | None = None
) -> Iterator[np.ndarray]:
    """One episode in the environment of the training, as pictures [H, W, 3] of bytes.

    The last state of the episode has no picture: it is reset at once. The policy is a `NumpyPolicy`
    with ``native=False``. There are at most ``most`` steps.

    Raises:
        ValueError: if nothing can draw the environment.
        RuntimeError: if the drawing does not work here.
    """
    render = check_drawn(env)
    step = jax.jit(env.step)
    key = jax.random.key(seed)
    state, obs = jax.jit(env.reset)(jax.random.fold_in(key, 0))
    begin(act)
    states, ended = [state], False
    while not ended and (most is None or len(states) < most):
        action = act(obs, key_of(seed, len(states)))
        state, obs, outcome = step(jax.random.fold_in(key, len(states)), state, action)
        ended = bool(outcome.terminated | outcome.truncated)
        if not ended:
            states.append(state)
    return render(states)


def check_drawn(env: Env) -> Render:
    """The function that draws an environment.

    Raises:
        ValueError: if there is none.
    """
    if env.render is None:
        raise ValueError(
            f"{env.name} can't be drawn: give an environment of your own a function that draws it, "
            "from_functions(..., render=...); for another library, this one has no picture"
        )
    return env.render


def write_film(path: str | Path, frames: Iterator[np.ndarray], fps: int = 30) -> int:
    """Writes pictures of one size as NAME.gif or NAME.mp4; returns how many there are.

    Raises:
        ValueError: if the name has another ending.
        RuntimeError: if the extra is missing.
        StorageError: if it can't be written.
    """
    path = check_film(path)
    imageio = import_extra("imageio.v3", "play", "a film")
    shown = list(frames)
    with files.explained(f"write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".gif":
            imageio.imwrite(path, shown, duration=1000 / fps, loop=0)
        else:
            codec = {"plugin": "pyav", "codec": "libx264", "fps": fps}
            pictures = np.stack(shown)
            height, width = (size // 2 * 2 for size in pictures.shape[1:3])  # even sizes only
            imageio.imwrite(path, pictures[:, :height, :width], **codec)
    return len(shown)


def check_film(path: str | Path) -> Path:
    """The path, if its name is one for a film."""
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"{path} must end with {' or '.join(FORMATS)}")
    return path
