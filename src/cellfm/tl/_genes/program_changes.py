"""How programs differ between conditions: in the scores of cells, and in how closely their genes lie together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.corpus.counts import Scale
from cellfm.errors import ConfigError, DataError
from cellfm.tl._genes.program_coherence import (
    Coherence,
    CoherenceOptions,
    compare_coherence,
    halves,
)
from cellfm.tl._genes.program_scores import cells_of_programs, names_of
from cellfm.tl._genes.program_study import GenePrograms
from cellfm.tl._genes.program_units import Units, adjusted, compare_units, units_of
from cellfm.tl._genes.programs import LEVEL, Programs, score_programs
from cellfm.tl._labels import label_column
from cellfm.tl._states import EmbedOptions, as_model
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

Progress = Callable[[int, int], None]
REST = "rest"
NO_REPLICATES = (
    "Cells are no replicates: without a column of samples (sample=…, --sample) p, q and intervals say whether these cells differ, "
    "not whether the conditions do."
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ProgramChanges:
    """Programs in two conditions, or in each group and the rest.

    Attributes
    ----------
    table
        A row for each comparison and program: ``group``, ``against``, ``program``, ``name``; ``design`` (``"paired"``, ``"independent"``,
        ``"cells"``) with ``n`` and ``n_against`` units and ``n_cells`` and ``n_cells_against``; ``mean`` and ``mean_against`` score over units,
        their difference ``change`` with its 95 % interval ``low``, ``high``, ``effect`` (Hedges' g), ``p`` (t-test) and ``q``
        (Benjamini–Hochberg over all rows). With coherence also ``coherence``, ``coherence_against``, ``coherence_change``,
        ``coherence_noise`` (between blocks of the same condition), ``coherence_p`` and ``coherence_q`` (permuted gene labels), with samples
        ``coherence_sample_p`` (t-test over them), and ``coherence_genes``.
    scores
        Score of each program in each cell that was compared, float32, index names of cells, columns names of programs.
    notes
        What must be known to read the table.
    """

    table: "pd.DataFrame"
    scores: "pd.DataFrame"
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """How many programs change, and what that is worth."""
        n = len(self.table)
        found = self.table[self.table["q"] <= LEVEL]
        text = f"{len(found)} of {n} changes of score have q ≤ {LEVEL}."
        if len(found):
            most = found.iloc[int(found["effect"].abs().argmax())]
            text += f" The largest: {most['name']}, {most['group']} less {most['against']} {most['change']:+.3f} [{most['low']:+.3f}, {most['high']:+.3f}], g {most['effect']:+.2f}."
        if "coherence_q" in self.table:
            away = self.table["coherence_change"].abs()
            moved = away[
                (self.table["coherence_q"] <= LEVEL) & (away > self.table["coherence_noise"])
            ]
            size = f", by {moved.max():.3f} at most" if len(moved) else ""
            text += f" The coherence of {len(moved)} modules differs more than that of permuted genes and than between blocks of the same condition{size}."
        return " ".join((text, *self.notes))


def program_changes(  # noqa: PLR0913 - the arguments of a user's question
    adata: "AnnData",
    model: Pretrained | str | Path | None = None,
    *,
    programs: Programs | GenePrograms,
    groupby: str,
    groups: Sequence[str] | None = None,
    sample: str | None = None,
    min_cells: int = 10,
    coherence: bool = True,
    n_cells: int = 500,
    n_permutations: int = 200,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Scale = "counts",
    min_matched: float = 0.3,
    device: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> ProgramChanges:
    """Compare programs between conditions: their scores, with samples as replicates, and the coherence of their genes' contextual vectors.

    A score is the mean log expression of a program's genes less that of genes expressed alike, as in `program_scores`; it is relative: a program
    that rises lowers others, among whose compared genes its own are. With samples, the mean of
    each sample in each condition is one value: a paired t-test where samples are in both, else Welch's. Without, cells are compared, which are
    no replicates; a note says so. The coherence is the mean cosine within a module, in as many cells of each condition; permuted gene labels say
    what modules of random genes would show, and samples, or random halves of the cells, what happens within a condition.

    Parameters
    ----------
    adata
        Cells × genes with raw counts.
    model
        From `cellfm.load`, or a weights folder or name, for the coherence; None for the model of the package.
    programs
        From `gene_programs`.
    groupby
        Column of ``obs`` with the conditions. Cells without an entry are left out.
    groups
        Two entries: the first less the second; one: it less the rest; None: each less the rest.
    sample
        Column of ``obs`` with the donor or sample of each cell; None for none.
    min_cells
        A sample with fewer cells in a condition is left out of it.
    coherence
        Also compare the coherence.
    n_cells
        Most cells of a block whose contextual vectors are taken.
    n_permutations
        Of gene labels.
    layer, use_raw, gene_names, scale, min_matched, device
        As in `embed`.
    seed
        Of genes compared with, halves, draws of cells and permutations.
    progress
        Called with (comparisons done, in all).

    Returns
    -------
    A table, scores and notes; writes nothing.

    Raises
    ------
    ConfigError
        More than two groups are named, or one twice.
    DataError
        There is no such column or entry, or a condition has too few cells or samples.
    CountsError, GeneMatchError
        As in `embed`.
    MissingDependencyError
        scanpy is missing.

    Examples
    --------
    >>> found = cellfm.tl.program_changes(
    ...     adata, programs=programs, groupby="condition", groups=("stim", "ctrl"), sample="donor"
    ... )  # doctest: +SKIP
    >>> found.table, found.verdict  # doctest: +SKIP
    """
    import pandas as pd

    own = programs.programs if isinstance(programs, GenePrograms) else programs
    pairs, notes = comparisons_of(adata.obs, groupby, groups, sample=sample, min_cells=min_cells)
    options = EmbedOptions(
        layer=layer, use_raw=use_raw, gene_names=gene_names, scale=scale, min_matched=min_matched
    )
    rows = np.flatnonzero(np.logical_or.reduce([each.own | each.against for each in pairs]))
    reading = EmbedOptions(layer=layer, use_raw=use_raw, gene_names=gene_names, scale=scale, min_matched=0.0)  # fmt: skip
    cells = cells_of_programs(adata, own, reading, rows=rows)
    values = np.full((adata.n_obs, own.n), np.nan)
    values[rows] = score_programs(cells, own, seed=seed)
    pretrained = as_model(model, device) if coherence else None
    measured = CoherenceOptions(
        reading=options, n_cells=n_cells, n_permutations=n_permutations, seed=seed
    )
    names, tables = names_of(programs), []
    for number, each in enumerate(pairs):
        table = _scores_table(values, each)
        table.insert(2, "program", np.arange(own.n))
        table.insert(3, "name", names)
        if pretrained is not None:
            found = compare_coherence(
                adata, pretrained, own, blocks=_blocks(each, seed=seed), options=measured
            )
            table = table.join(_coherence_table(found, each.units))
        tables.append(table)
        if progress is not None:
            progress(1 + number, len(pairs))
    return ProgramChanges(
        table=_adjusted(pd.concat(tables, ignore_index=True)),
        scores=pd.DataFrame(
            values[rows].astype(np.float32), index=adata.obs_names[rows], columns=list(names)
        ),
        notes=notes,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """Two groups of cells.

    Attributes
    ----------
    group, other
        Names.
    own, against
        Which cells are of each.
    units
        What they are compared by.
    """

    group: str
    other: str
    own: "NDArray[np.bool_]"
    against: "NDArray[np.bool_]"
    units: Units


def comparisons_of(
    obs: "pd.DataFrame",
    groupby: str,
    groups: Sequence[str] | None,
    *,
    sample: str | None,
    min_cells: int,
) -> tuple[tuple[Comparison, ...], tuple[str, ...]]:
    """Return what is to be compared, and notes on it.

    Parameters
    ----------
    obs
        Table of the cells.
    groupby, groups, sample, min_cells
        As in `program_changes`.

    Raises
    ------
    ConfigError, DataError
        As in `program_changes`.
    """
    samples = None if sample is None else label_column(obs, sample, what="data")
    found, few = [], []
    for group, other, own, against in _sides(obs, groupby, groups):
        try:
            name = f"{group} against {other}"
            units = units_of(own, against, samples, min_cells=min_cells, name=name)
        except DataError as error:
            if groups is not None:
                raise
            few.append(error)  # of many groups some may be too small
            continue
        found.append(Comparison(group=group, other=other, own=own, against=against, units=units))
    if not found:
        raise few[0]
    notes = [str(error).partition("; at least")[0] + ": left out." for error in few]
    if sample is None:
        notes.append(NO_REPLICATES)
    elif lost := max(each.units.n_left_out for each in found):
        notes.append(f"Up to {lost} samples are left out of a comparison: too few cells, or not in both conditions where others are.")  # fmt: skip
    return tuple(found), tuple(notes)


def _sides(
    obs: "pd.DataFrame", groupby: str, groups: Sequence[str] | None
) -> "list[tuple[str, str, NDArray[np.bool_], NDArray[np.bool_]]]":
    """Return name, name of the other side, and the cells of both, of each comparison."""
    entries = label_column(obs, groupby, what="data")
    there = sorted(set(entries.tolist()) - {""})
    wanted = there if groups is None else list(map(str, groups))
    if groups is not None and (not 1 <= len(wanted) <= 2 or len(set(wanted)) < len(wanted)):
        msg = f"groups is {wanted}; expected one entry, which is compared with the rest, or two different ones (--group)."
        raise ConfigError(msg)
    if unknown := [name for name in wanted if name not in there]:
        some = ", ".join(there[:20]) + (", …" if len(there) > 20 else "")
        msg = f"obs[{groupby!r}] has no entry {unknown[0]!r}; it has {some or 'none'}. Name one of these by groups=… (--group)."
        raise DataError(msg)
    if len(there) < 2:
        msg = f"obs[{groupby!r}] has the entries {there}; at least two are needed to compare. Name another column."
        raise DataError(msg)
    if len(wanted) == 2 and (groups is not None or len(there) == 2):
        # Of two in all, the second less the rest would say the same again.
        one, other = wanted
        return [(one, other, entries == one, entries == other)]
    known = entries != ""
    return [(name, REST, entries == name, known & (entries != name)) for name in wanted]


def _scores_table(values: "NDArray[np.float64]", pair: Comparison) -> "pd.DataFrame":
    import pandas as pd

    own, against = pair.units.means(values)
    found = compare_units(own, against, paired=pair.units.design == "paired")
    return pd.DataFrame(
        {
            "group": pair.group,
            "against": pair.other,
            "design": pair.units.design,
            "n": len(own),
            "n_against": len(against),
            "n_cells": int(pair.own.sum()),
            "n_cells_against": int(pair.against.sum()),
            "mean": found.mean,
            "mean_against": found.mean_against,
            "change": found.mean - found.mean_against,
            "low": found.low,
            "high": found.high,
            "effect": found.effect,
            "p": found.p,
        }
    )


def _blocks(
    pair: Comparison, *, seed: int
) -> "tuple[tuple[NDArray[np.int64], ...], tuple[NDArray[np.int64], ...]]":
    """Return samples, or random halves of the cells, of each side."""
    if pair.units.design != "cells":
        return pair.units.own, pair.units.against
    rng = np.random.default_rng(seed)
    return halves(np.flatnonzero(pair.own), rng), halves(np.flatnonzero(pair.against), rng)


def _coherence_table(found: Coherence, units: Units) -> "pd.DataFrame":
    import pandas as pd

    own, against = found.own.mean(axis=0), found.against.mean(axis=0)
    table = pd.DataFrame(
        {
            "coherence": own,
            "coherence_against": against,
            "coherence_change": own - against,
            "coherence_noise": found.noise,
            "coherence_p": found.p,
            "coherence_genes": found.n_genes,
        }
    )
    if units.design != "cells":
        tested = compare_units(found.own, found.against, paired=units.design == "paired")
        table["coherence_sample_p"] = tested.p
    return table


def _adjusted(table: "pd.DataFrame") -> "pd.DataFrame":
    """Add q over all comparisons and programs, behind p."""
    for name in ("p", "coherence_p"):
        if name in table:
            q = adjusted(table[name].to_numpy(np.float64))
            table.insert(list(table.columns).index(name) + 1, name.removesuffix("p") + "q", q)
    return table
