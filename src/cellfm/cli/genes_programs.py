"""The command ``cellfm genes programs``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

from cyclopts import Parameter

from cellfm.cli.console import print_table, say, wrote
from cellfm.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.figure import Figure

    from cellfm.tl import GenePrograms, ProgramChanges

PROGRAMS, ENRICHMENT, COMPARISON = "programs.tsv", "enrichment.tsv", "comparison.tsv"
CLUSTERINGS, CHANGES = "clusterings.tsv", "changes.tsv"
PICTURES = (".png", ".pdf", ".svg")
N_SHOWN = 15


def programs(  # noqa: PLR0913 - the parameters of tl.gene_programs
    source: Path,
    gene_sets: Path,
    out: Path,
    *,
    model: str | None = None,
    kind: Literal["static", "contextual", "query"] = "static",
    resolution: float = 1.0,
    seeds: int = 3,
    random_draws: int = 20,
    min_cells: int = 10,
    groupby: str | None = None,
    group: list[str] | None = None,
    sample: str | None = None,
    min_sample_cells: int = 10,
    coherence: Annotated[bool, Parameter(negative="--no-coherence")] = True,
    scores: Path | None = None,
    plot: Path | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    min_matched: float = 0.3,
    device: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Cluster the genes that cells express into programs, and name them by known sets, beside co-expression.

    Writes the folder OUT: programs.tsv (gene, program, its most significant set), enrichment.tsv (each program and set) and comparison.tsv (significant
    sets of the model, of co-expression in the same cells at the same number of programs, of random weights, and of random programs; clusterings.tsv has each clustering). With --groupby also
    changes.tsv: how the scores of programs, and the coherence of their genes' contextual vectors, differ between conditions. Give --sample there:
    cells are no replicates.

    Parameters
    ----------
    source
        h5ad file with raw counts.
    gene_sets
        GMT file, or table of genes and sets.
    out
        Folder to make.
    model
        Weights folder, or name of one in the cache folder; without it, the small model that comes with the package.
    kind
        Vectors of genes: the embedding table, mean states in these cells, or the decoder's queries.
    resolution
        Of the Leiden algorithm: more makes more programs.
    seeds
        Clusterings that are compared at each of three resolutions: the one asked for, half of it and twice as much.
    random_draws
        Random programs of the same sizes, drawn so often for each clustering.
    min_cells
        Genes that fewer cells express are left out.
    groupby
        Column of obs with conditions, or other groups of cells, to compare programs between.
    group
        Entry of it; given twice, the first less the second; once, it less the rest; without, each less the rest.
    sample
        Column of obs with donors or samples, the replicates of the comparison.
    min_sample_cells
        A sample with fewer cells in a condition is left out of it.
    coherence
        Also compare how closely the genes of a program lie together.
    scores
        h5ad file to write: the cells of SOURCE with the score of each program in obsm["X_programs"].
    plot
        Picture to write of programs and the groups of --groupby: png, pdf or svg.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    min_matched
        Least fraction of the file's genes that the model must know.
    device
        Device to compute on, such as cpu or cuda.
    seed
        Of random weights and of the programs.
    overwrite
        Replace an existing OUT.

    Examples
    --------
    cellfm genes programs pbmc.h5ad GO_Biological_Process.gmt programs

    cellfm genes programs cells.h5ad hallmark.gmt programs --groupby condition --group stim --group ctrl --sample donor --plot programs.png

    cellfm genes programs pbmc.h5ad hallmark.gmt programs --scores pbmc_programs.h5ad
    """
    from cellfm import tl
    from cellfm.cli.progress import progress_bar
    from cellfm.corpus.adata import read_h5ad
    from cellfm.weights.atomic import refuse_existing

    refuse_existing(out, overwrite=overwrite)
    after = _After(groupby=groupby, group=group, sample=sample, min_cells=min_sample_cells, scores=scores, plot=plot)  # fmt: skip
    adata = read_h5ad(source, "cells")
    after.check(adata, overwrite=overwrite)
    with progress_bar("clustering", unit="clusterings") as progress:
        found = tl.gene_programs(
            adata,
            model,
            gene_sets=gene_sets,
            kind=kind,
            resolution=resolution,
            n_seeds=seeds,
            n_random=random_draws,
            min_cells=min_cells,
            layer=layer,
            use_raw=use_raw,
            gene_names=gene_names,
            min_matched=min_matched,
            device=device,
            seed=seed,
            progress=progress,
        )
    changes = None
    if groupby is not None:
        with progress_bar("comparing", unit="comparisons") as progress:
            changes = tl.program_changes(
                adata,
                model,
                programs=found,
                groupby=groupby,
                groups=group,
                sample=sample,
                min_cells=min_sample_cells,
                coherence=coherence,
                layer=layer,
                use_raw=use_raw,
                gene_names=gene_names,
                min_matched=min_matched,
                device=device,
                seed=seed,
                progress=progress,
            )
    if scores is not None or plot is not None:
        tl.program_scores(
            adata,
            programs=found,
            layer=layer,
            use_raw=use_raw,
            gene_names=gene_names,
            seed=seed,
            overwrite=overwrite,
        )
    _write_all(found, changes, out)
    after.write(adata, changes)


def _write_all(found: "GenePrograms", changes: "ProgramChanges | None", out: Path) -> None:
    """Write the tables, and print what they say."""
    from cellfm.weights.atomic import replacing_folder

    with replacing_folder(out, marker=PROGRAMS) as folder:
        _write(found.table(), folder / PROGRAMS)
        _write(found.enrichment, folder / ENRICHMENT)
        found.comparison.to_csv(folder / COMPARISON, sep="\t", float_format="%.6g")
        _write(found.clusterings, folder / CLUSTERINGS)
        if changes is not None:
            _write(changes.table, folder / CHANGES)
    _show(found)
    if changes is not None:
        _show_changes(changes)
    written = [PROGRAMS, ENRICHMENT, COMPARISON, CLUSTERINGS] + [CHANGES] * (changes is not None)
    wrote(out, about=", ".join(written))


@dataclass(frozen=True, slots=True, kw_only=True)
class _After:
    """What is wanted besides the programs."""

    groupby: str | None
    group: list[str] | None
    sample: str | None
    min_cells: int
    scores: Path | None
    plot: Path | None

    def check(self, adata: "AnnData", *, overwrite: bool) -> None:
        """Say what cannot be done before minutes of work, not after."""
        from cellfm.errors import OutputExistsError
        from cellfm.optional import require
        from cellfm.tl._genes.program_changes import comparisons_of
        from cellfm.tl._genes.program_scores import KEY
        from cellfm.weights.atomic import refuse_existing

        if self.groupby is None and (self.group or self.sample or self.plot):
            msg = "--group, --sample and --plot are about groups of cells, and no column with groups was named. Give --groupby."
            raise ConfigError(msg)
        if self.groupby is not None:
            comparisons_of(
                adata.obs, self.groupby, self.group, sample=self.sample, min_cells=self.min_cells
            )
        for path in (self.scores, self.plot):
            if path is not None:
                refuse_existing(path, overwrite=overwrite)
        if self.plot is not None:
            require("matplotlib")
            if self.plot.suffix not in PICTURES:
                msg = f"{self.plot} ends in {self.plot.suffix!r}; a picture ends in {', '.join(PICTURES)}. Name it so."
                raise ConfigError(msg)
        if self.scores is not None and KEY in adata.obsm and not overwrite:
            msg = (
                f"The cells have obsm[{KEY!r}] already. Say --overwrite to replace it in the copy."
            )
            raise OutputExistsError(msg)

    def write(self, adata: "AnnData", changes: "ProgramChanges | None") -> None:
        """Write the scores and the picture."""
        from cellfm import pl
        from cellfm.weights.atomic import replacing

        if self.scores is not None:
            with replacing(self.scores) as partial:
                adata.write_h5ad(partial)
            wrote(self.scores, about=f"{adata.n_obs:,} cells with obsm['X_programs']")
        if self.plot is not None and self.groupby is not None and changes is not None:
            axes = pl.programs(adata, self.groupby, changes=changes.table)
            with replacing(self.plot) as new:
                figure = cast("Figure", axes.figure)
                figure.savefig(new, dpi=150, format=self.plot.suffix.lstrip("."))
            wrote(self.plot)


def _show(found: "GenePrograms") -> None:
    best = found.enrichment.drop_duplicates("program").head(N_SHOWN).set_index("program")
    shown = best[["set", "n", "program_size", "set_size", "q"]].copy()
    shown["q"] = [f"{value:.2g}" for value in shown["q"]]
    print_table(f"{found.programs.n} programs of {len(found.programs.genes):,} genes, their most significant sets", shown.astype(str))  # fmt: skip
    table = found.comparison
    text = table[["programs", "sets", "sd"]].map("{:.1f}".format)
    text["range"] = [
        f"{low} to {high}" for low, high in zip(table["low"], table["high"], strict=True)
    ]
    away = zip(table["difference"], table["difference_low"], table["difference_high"], strict=True)
    text["model ahead by"] = [f"{v:+.0f} [{low:+.0f}, {high:+.0f}]" for v, low, high in away]
    text["in"] = table["ahead"].map("{:.0%}".format)
    text.iloc[0, -2:] = ""
    print_table("gene sets significant in a program (q ≤ 0.05), over clusterings", text)
    say(found.verdict)


def _show_changes(found: "ProgramChanges") -> None:
    import pandas as pd

    table = found.table.sort_values("q", kind="stable").head(N_SHOWN)
    shown = pd.DataFrame({"group": table["group"], "against": table["against"]})
    shown.index = pd.Index(table["name"], name="program")
    values = zip(table["change"], table["low"], table["high"], strict=True)
    shown["change"] = [f"{v:+.3f} [{low:+.3f}, {high:+.3f}]" for v, low, high in values]
    shown["g"] = [f"{value:+.2f}" for value in table["effect"]]
    shown["q"] = [f"{value:.2g}" for value in table["q"]]
    if "coherence" in table:
        pairs = zip(table["coherence_against"], table["coherence"], strict=True)
        shown["coherence"] = [f"{before:.3f} → {after:.3f}" for before, after in pairs]
        shown["its q"] = [f"{value:.2g}" for value in table["coherence_q"]]
    units = f"{table['n'].iloc[0]} and {table['n_against'].iloc[0]} {'cells' if table['design'].iloc[0] == 'cells' else 'samples'}"
    print_table(f"programs that differ most ({units} in the first row)", shown)
    say(found.verdict)


def _write(table: "pd.DataFrame", path: Path) -> None:
    table.to_csv(path, sep="\t", index=False, float_format="%.6g")
