"""Results for other people's dashboards: TensorBoard and Weights & Biases.

Everything is read from a finished or a growing folder, so no training waits for a dashboard, and
an export can be made long after.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kltrust.experiments.reading.results import Results
from kltrust.lazy import import_extra

if TYPE_CHECKING:
    import pandas as pd

# Which row a value belongs to, not what was measured.
_KEYS = ["run", "label", "algorithm", "env", "seed", "iteration", "env_steps"]
# The columns of `Results.runs` that are no setting.
_OUTCOMES = ["run", "iterations", "score", "broken"]


class Exported(NamedTuple):
    """One run as a dashboard takes it.

    The name is sweep/label/environment/seed, unique among the exported. The history goes from
    environment steps of the run to values by tag, ``train/kl``, say, and
    ``evaluation/mean_return``; a value that is missing or NaN is left out.
    """

    name: str
    config: dict[str, Any]
    summary: dict[str, Any]
    history: dict[int, dict[str, float]]


def exported(results: Results) -> Iterator[Exported]:
    """Every run that has at least one row."""
    if not len(results.metrics):
        return
    metrics = results.metrics
    ended = metrics.num_episodes.where(metrics.num_episodes > 0)  # else there is no mean
    metrics = metrics.rename(columns={"mean_return": "episode_return"})
    train = _by_run(metrics.assign(episode_length=metrics.length_sum / ended), "train")
    evaluation = _by_run(results.evaluations, "evaluation")
    taken: set[str] = set()
    for _, row in results.runs.set_index("run", drop=False).loc[list(train)].iterrows():
        name = f"{row.sweep}/{row.label}/{row.env}/seed{row.seed}"
        # Two folders of one name may hold the same run.
        name = f"{name}-run{row.run}" if name in taken else name
        taken.add(name)
        history = train[row.run].join(evaluation.get(row.run), how="outer").to_dict("index")
        there = row.dropna()
        yield Exported(
            name,
            there.drop(_OUTCOMES, errors="ignore").to_dict(),
            there[there.index.intersection(_OUTCOMES[1:])].to_dict(),
            {int(i): {k: v for k, v in of.items() if v == v} for i, of in history.items()},
        )


def _by_run(table: pd.DataFrame, section: str) -> dict[int, pd.DataFrame]:
    """The numbers of each run by environment steps, their columns as tags of a section."""
    # A column of vectors, the path of an update, has no place on a dashboard.
    columns = [c for c in table.columns if c not in _KEYS and table[c].dtype != object]
    numbers = table.set_index("env_steps")[columns].astype(float).add_prefix(f"{section}/")
    return dict(iter(numbers.groupby(table.run.to_numpy())))


def to_tensorboard(results: Results, logdir: str | Path) -> list[Path]:
    """Writes one TensorBoard run, a folder, per run; needs ``pip install 'kltrust[tensorboard]'``.

    Args:
        results: from `results.load`.
        logdir: the folder that ``tensorboard --logdir`` is then given; other runs may be in it.

    Raises:
        RuntimeError: if tensorboardX is missing, or the folder can't be written to.
        ValueError: if there is nothing to export, or a run is there already.
    """
    tensorboard = import_extra("tensorboardX", "tensorboard", "an export to TensorBoard")
    runs = _all(results)
    folders = [Path(logdir).joinpath(*map(_file_name, run.name.split("/"))) for run in runs]
    for folder in folders:
        if folder.exists():
            raise ValueError(
                f"{folder} is there already, and TensorBoard would draw both exports as one line: "
                "remove it, or export to another folder"
            )
    try:
        for run, folder in zip(runs, folders, strict=True):
            with tensorboard.SummaryWriter(str(folder)) as writer:
                rows = [f"| {k} | {v} |" for k, v in {**run.config, **run.summary}.items()]
                table = ["| setting | value |", "| --- | --- |", *rows]
                writer.add_text("settings", "\n".join(table))
                for step, values in run.history.items():
                    for tag, value in values.items():
                        writer.add_scalar(tag, value, step)
    except OSError as error:
        raise RuntimeError(f"can't write to {logdir}: {error.strerror or error}") from error
    return folders


def to_wandb(
    results: Results, project: str, *, online: bool = False, folder: str | Path | None = None
) -> list[str]:
    """Logs one W&B run per run; needs ``pip install 'kltrust[wandb]'``.

    Args:
        results: from `results.load`.
        project: its name at Weights & Biases.
        online: send it now, as whoever ``wandb login`` named; else ``wandb sync`` does it later.
        folder: where W&B keeps its files; None takes its own choice, ``./wandb``.

    Returns:
        The folders that ``wandb sync`` takes, or the addresses of the runs if online.

    Raises:
        RuntimeError: if wandb is missing, or refuses.
        ValueError: if there is nothing to export.
    """
    wandb = import_extra("wandb", "wandb", "an export to Weights & Biases")
    quiet = wandb.Settings(
        silent=True, console="off", x_disable_stats=True, x_disable_meta=True, disable_git=True
    )
    places = []
    for exported_run in _all(results):
        config = exported_run.config
        try:
            with wandb.init(
                project=project,
                name=exported_run.name,
                group=config["sweep"],
                job_type=config["algorithm"],
                config=config,
                mode="online" if online else "offline",
                dir=folder,
                settings=quiet,
                reinit="create_new",
            ) as run:
                for step, values in exported_run.history.items():
                    run.log(values, step=step)
                run.summary.update(exported_run.summary)
                places.append(run.url if online else str(Path(run.dir).parent))
        except (wandb.errors.Error, OSError) as error:
            raise RuntimeError(f"Weights & Biases refuses: {error}") from error
    return places


def _all(results: Results) -> list[Exported]:
    if not (runs := list(exported(results))):
        raise ValueError("there is nothing to export yet: no run has finished its first chunk")
    return runs


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.=+,-]+", "_", text)
