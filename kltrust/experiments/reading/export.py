"""Results for other people's dashboards: TensorBoard and Weights & Biases.

Everything is read from a finished or a growing folder, so no training waits for a dashboard, and
an export can be made long after.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kltrust.experiments.reading.results import Results
from kltrust.lazy import import_extra

if TYPE_CHECKING:
    import pandas as pd

# Which row a value belongs to, not what was measured.
_KEYS = ["run", "seed", "iteration", "env_steps"]
# The columns of `Results.runs` that are no setting.
_OUTCOMES = ["run", "iterations", "score", "broken"]


class Exported(NamedTuple):
    """One run as a dashboard takes it.

    Attributes:
        name: sweep/label/environment/seed, unique among the exported.
        config: the resolved settings by dotted name, as plain numbers and texts.
        summary: iterations done, the score, and the first broken iteration if there is one.
        history: environment steps of the run to values by tag: ``train/kl``, say, and
            ``evaluation/mean_return``; a value that is missing or NaN is left out.
    """

    name: str
    config: dict[str, Any]
    summary: dict[str, Any]
    history: dict[int, dict[str, float]]


def exported(results: Results) -> Iterator[Exported]:
    """Every run that has at least one row."""
    metrics = dict(iter(_with_episodes(results.metrics).groupby("run")))
    evaluations = dict(iter(results.evaluations.groupby("run")))
    taken: set[str] = set()
    for row in results.runs.to_dict("records"):
        run = row["run"]
        if run not in metrics:
            continue
        history: dict[int, dict[str, float]] = {}
        _add(history, "train", metrics[run])
        if run in evaluations:
            _add(history, "evaluation", evaluations[run])
        yield Exported(
            _unique(f"{row['sweep']}/{row['label']}/{row['env']}/seed{row['seed']}", run, taken),
            {k: v for k, v in row.items() if k not in _OUTCOMES and not _missing(v)},
            {k: row[k] for k in _OUTCOMES[1:] if not _missing(row[k])},
            dict(sorted(history.items())),
        )


def to_tensorboard(results: Results, logdir: str | Path) -> list[Path]:
    """Writes one TensorBoard run per run; needs ``pip install 'kltrust[tensorboard]'``.

    Args:
        results: from `results.load`.
        logdir: the folder that ``tensorboard --logdir`` is then given; other runs may be in it.

    Returns:
        The folders of the runs.

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
                writer.add_text("settings", _markdown({**run.config, **run.summary}))
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
    runs = list(exported(results)) if len(results.metrics) else []
    if not runs:
        raise ValueError("there is nothing to export yet: no run has finished its first chunk")
    return runs


def _with_episodes(metrics: pd.DataFrame) -> pd.DataFrame:
    """With the mean return and length of the episodes that ended, NaN where none did."""
    ended = metrics.num_episodes.where(metrics.num_episodes > 0)
    return metrics.assign(
        episode_return=metrics.return_sum / ended, episode_length=metrics.length_sum / ended
    )


def _add(history: dict[int, dict[str, float]], section: str, table: pd.DataFrame) -> None:
    # A column of vectors, the path of an update, has no place on a dashboard.
    columns = [c for c in table.columns if c not in _KEYS and table[c].dtype != object]
    rows = table[columns].to_numpy(float, na_value=float("nan"))
    for step, row in zip(table.env_steps, rows, strict=True):
        values = zip(columns, row.tolist(), strict=True)
        found = {f"{section}/{name}": value for name, value in values if not _missing(value)}
        history.setdefault(int(step), {}).update(found)


def _unique(name: str, run: int, taken: set[str]) -> str:
    """Two folders of one name may hold the same run."""
    if name in taken:
        name = f"{name}-run{run}"
    taken.add(name)
    return name


def _missing(value: Any) -> bool:
    import pandas as pd

    return bool(pd.isna(value)) if not isinstance(value, (list, tuple, dict)) else False


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.=+,-]+", "_", text)


def _markdown(values: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {value} |" for name, value in values.items()]
    return "\n".join(["| setting | value |", "| --- | --- |", *rows])
