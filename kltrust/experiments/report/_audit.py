"""The section on the audit of every update, with more than the mean KL."""

import numpy as np
import pandas as pd

from kltrust.experiments.reading.audit_plots import lengths, path_of, percentiles
from kltrust.experiments.reading.plots import panels, thousands
from kltrust.experiments.report import _style
from kltrust.experiments.report._page import Block, Picture, Section, Table, each_env, share, small

NEEDED = "audit.update.kl.mean"
"""A column that folders lack if an older version, which measured less, wrote them."""
ON_REQUEST = {
    "fresh.kl.mean": "fresh / batch KL",
    "normalizer.mean": "normaliser's KL",
    "reference.from_reference.mean": "distance / way",
    "curvature.kl_quadratic": "KL / model",
    "curvature.surrogate_gain_linear": "gain / model",
    "curvature.largest_eigenvalue.value": "F's largest",
    "curvature.effective_dimension.value": "dimension",
    "curvature.cg_residual": "CG residual",
}


def section(updates: pd.DataFrame, looks: _style.Looks) -> Section | None:
    """The section from `_region.updates`; None if no folder has been audited."""
    if NEEDED not in updates:
        return None
    audited = updates[updates[NEEDED].notna()]
    audited = audited.assign(length=lengths(audited))
    said = [
        f"{method}: of the samples {share(1 - rows.inside.mean())} ended further than 0.2 from a "
        f"ratio of 1. Of {share(rows.gradient_removed.mean())} clipping removes the gradient. The "
        f"worst update left an effective sample size of "
        f"{share(rows.effective_sample_size.min())} of its batch."
        for method, rows in _update(audited).groupby(audited.method, sort=False)
    ]
    text = (
        "The same KL can be many small moves or a few large ones. Total variation is half the L1 "
        "distance, exact where it has a closed form. A gradient counts as removed where clipping "
        "at 0.2 would remove it, whatever the method does. The effective sample size is what is "
        "left of the batch once it is reweighted by its ratios. The way is the sum of sqrt(2 KL) "
        "over all updates, a length in the Fisher-Rao metric for small steps."
    )
    inner = each_env("audit", audited, lambda n, env, rows: _of_env(n, env, rows, looks))
    return Section("audit", "Every update, audited", [text, said], inner)


def _of_env(name: str, env: str, audited: pd.DataFrame, looks: _style.Looks) -> list[Block]:
    blocks: list[Block] = [_table(name, env, audited), _along(env, audited, looks)]
    requested = _requested(audited).dropna(axis=0, how="all").dropna(axis=1, how="all")
    if len(requested):
        medians = requested.groupby(audited.label, sort=False).median()
        caption = (
            f"On request, on {env}; medians over updates. Fresh: at states of the new policy. "
            "Distance: sqrt(2 KL(first || last)), over the way. Model: s'Fs/2 for the KL, g's for "
            "the gain. Dimension: tr(F (F + damping)^-1), estimated. CG residual: relative."
        )
        columns = {ON_REQUEST[name]: medians[name].map(small) for name in medians}
        name = name.replace("audit", "audit-requested")
        blocks.append(Table(name, caption, {"setting": medians.index, **columns}))
    if "audit.path.epoch" in audited and audited["audit.path.epoch"].notna().any():
        blocks.append(_within(env, audited[audited["audit.path.epoch"].notna()], looks))
    return blocks


def _update(audited: pd.DataFrame) -> pd.DataFrame:
    """The audit's numbers for every update, under short names; missing where not audited."""
    update = audited.filter(like="audit.update.").rename(columns=lambda c: c.split(".", 2)[2])
    names = dict.fromkeys([*update, "tv.mean", "tv.max", "kl_from_scale"])
    return update.reindex(columns=list(names)).astype(float)


def _table(name: str, env: str, audited: pd.DataFrame) -> Table:
    by_label = _update(audited).groupby(audited.label, sort=False)
    least, middle, mean, most = by_label.min(), by_label.median(), by_label.mean(), by_label.max()
    total = by_label.sum(min_count=1)
    scale = total.kl_from_scale / total["kl.mean"].clip(lower=np.finfo(float).tiny)
    return Table(
        name,
        f"All updates on {env}. TV: mean over states, median of the updates (sampled, where there "
        "is no closed form), the largest of any state, and Pinsker's bound of the mean. |r-1|: "
        "mean over samples, median. Removed and kept: mean shares of samples beyond 0.2. ESS: "
        "effective sample size, median and least. Scale: the share of the KL that the Gaussian's "
        "scales make. Way: of a run, median.",
        {
            "setting": middle.index,
            "TV": middle["tv.mean"].fillna(middle.tv_sampled).map(small),
            "largest": most["tv.max"].map(small),
            "Pinsker": middle["pinsker.mean"].map(small),
            "|r-1|": middle.ratio_deviation.map(small),
            "removed": mean.gradient_removed.map(share),
            "kept": mean.gradient_kept.map(share),
            "ESS": middle.effective_sample_size.map(share),
            "least": least.effective_sample_size.map(share),
            "scale": scale.map(share),
            "way": _ways(audited).map(small),
        },
    )


def _ways(audited: pd.DataFrame) -> pd.Series:
    """The median, for each label, of the path lengths of its runs."""
    of_run = audited.groupby(["label", "run"], sort=False).length.max()
    return of_run.groupby("label", sort=False).median()


def _requested(audited: pd.DataFrame) -> pd.DataFrame:
    """`ON_REQUEST` for every update, in the units of the titles; missing where not audited."""
    names = [*ON_REQUEST, "curvature.surrogate_gain"]
    found = audited.reindex(columns=[f"audit.{name}" for name in names]).astype(float)
    found.columns = names
    kl, gain = audited.kl, found.pop("curvature.surrogate_gain")
    last = ~audited.run.duplicated(keep="last")
    way = audited.length.where(last & (audited.length > 0))
    distance = np.sqrt(2 * found["reference.from_reference.mean"].clip(lower=0))
    model, linear = found["curvature.kl_quadratic"], found["curvature.surrogate_gain_linear"]
    found["fresh.kl.mean"] /= kl.where(kl > 0)
    found["reference.from_reference.mean"] = distance / way
    found["curvature.kl_quadratic"] = kl / model.where(model > 0)
    found["curvature.surrogate_gain_linear"] = gain / linear.where(linear != 0)
    return found


def _along(env: str, audited: pd.DataFrame, looks: _style.Looks) -> Picture:
    """The audit along training, a line for each setting."""
    removed = (
        audited["audit.update.gradient_removed"]
        .astype(float)
        .groupby(audited.label, sort=False)
        .mean()
    )
    said = [
        f"{label}: removed {share(removed[label])}, way {small(way)}"
        for label, way in _ways(audited).items()
    ]
    drawn = audited[audited.label.isin(_style.select_labels(audited))]
    exact = "audit.update.tv.mean" in drawn and drawn["audit.update.tv.mean"].notna().all()
    titles = {
        f"audit.update.{'tv.mean' if exact else 'tv_sampled'}": "TV, mean over states",
        "audit.update.gradient_removed": "samples whose gradient clipping removes",
        "audit.update.effective_sample_size": "effective sample size",
        "length": "sum of sqrt(2 KL) so far",
    }
    figure, grid = panels(len(titles), 4.2, 3.0, columns=2)
    for axes, (column, title) in zip(grid, titles.items(), strict=True):
        for label, look in _style.of_settings(drawn, looks).items():
            _style.draw_curves(axes, drawn[drawn.label == label], column, label=label, **look)
        thousands(axes)
        axes.set(ylabel=title, xlabel="environment steps of each run")
    _style.legend_below(figure)
    return Picture(
        f"audit-{env}",
        f"The audit along training on {env}",
        "; ".join(said) + ".",
        "Median over seeds, with the 5th to the 95th percentile where there are three or more. At "
        f"most {_style.SHOWN} settings of a method are shown.",
        figure,
    )


def _within(env: str, recorded: pd.DataFrame, looks: _style.Looks) -> Picture:
    """The path of the KL through the epochs of an update, where it was recorded."""
    said = []
    figure, (axes,) = panels(1, 6.4, 3.6)
    shown = recorded[recorded.label.isin(_style.select_labels(recorded))]
    styles = _style.of_settings(shown, looks)
    for label, rows in recorded.groupby("label", sort=False):
        minibatch, epoch = path_of(rows)
        after = percentiles(epoch)[1]
        said.append(f"{label} from {small(after[0])} after one epoch to {small(after[-1])}")
        if look := styles.get(label):
            before = percentiles(minibatch.reshape(len(rows), -1))[1]
            epochs = np.arange(len(before)) / minibatch.shape[2]
            axes.plot(epochs, before, **{**look, "marker": ""}, linewidth=1)
            marks = {**look, "linestyle": "", "label": label}
            axes.plot(np.arange(1, len(after) + 1), after, **marks)
    axes.set(xlabel="epochs of the update", ylabel="mean KL(old || now), nats")
    _style.legend_below(figure)
    return Picture(
        f"audit-path-{env}",
        f"The KL through the epochs of an update on {env}",
        "; ".join(said) + ".",
        "Median over all updates of the mean KL to the policy before. Line: over the states of "
        "each minibatch just before its step. Markers: over the whole batch after each epoch, an "
        "undone one included.",
        figure,
    )
