"""The command ``cellfm genes network``."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from cellfm.cli.console import print_table, say, wrote
from cellfm.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.figure import Figure

    from cellfm.tl import DifferentialNetwork, GeneNetwork, NetworkCheck

EDGES, COMPARISON, GRAPH, PICTURE = "edges.csv.gz", "controls.csv", "network.graphml", "neighbourhood_{}.png"  # fmt: skip
CHANGES, HEADS, CELLS = "changes.csv.gz", "heads.csv", "cells.h5ad"
N_SHOWN = 12

Method = Literal["retention", "knockout", "gradient", "embedding", "contextual"]


def network(  # noqa: PLR0913 - the parameters of tl.gene_network, tl.check_network and tl.differential_network
    source: Path,
    out: Path,
    *,
    tfs: Path | None = None,
    known: Path | None = None,
    targets: Path | None = None,
    model: str | None = None,
    method: Method = "retention",
    groupby: str | None = None,
    group: str | None = None,
    between: str | None = None,
    gene: list[str] | None = None,
    n_cells: int | None = None,
    heads: list[str] | None = None,
    n_heads: int = 0,
    n_genie3: int = 300,
    n_permutations: int = 1000,
    n_edges: int = 10_000,
    varp: bool = False,
    min_cells: int = 10,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Literal["counts", "log1p"] = "counts",
    min_matched: float = 0.3,
    device: str | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Score which genes bear on which in some cells, and compare that with a known network, beside correlations.

    Writes the folder OUT: edges.csv.gz (source, target, score, rank, p among targets expressed alike, correlation), network.graphml, for each --gene a picture of its neighbourhood;
    with --known also controls.csv (the model and every control on the same pairs, with intervals); with --between changes.csv.gz (pairs that differ between two conditions).

    Parameters
    ----------
    source
        h5ad file with raw counts.
    out
        Folder to make.
    tfs
        Text file with regulators, one a line; without it, those of the known network.
    known
        Known network, such as TRRUST: source, target and perhaps mode in each line.
    targets
        Text file with targets, one a line; without it, all genes that the cells express.
    model
        Weights folder, or name of one in the cache folder; without it, the small model that comes with the package.
    method
        What a score is: what a target reads of a source, what taking the source out changes, how steeply the prediction depends on it, or the similarity of
        vectors in the embedding table or in the cells.
    groupby
        Column of obs with groups of cells.
    group
        Entry of it whose cells are taken.
    between
        Two entries of it with a comma between, such as control,treated: which pairs differ.
    gene
        Gene whose neighbourhood is drawn; may be repeated.
    n_cells
        Cells, drawn at random when there are more; without it 2000, for knock-outs 100, for gradients 200.
    heads
        Head of the retention to average, such as "layer 1 head 0"; may be repeated. All without.
    n_heads
        With --known: select so many heads by half of its regulators, and test them on the other half.
    n_genie3
        With --known: targets for which GENIE3 is fitted as a control; 0 leaves it out.
    n_permutations
        Random networks with the same degrees, or of shuffled conditions.
    n_edges
        Pairs to write, the strongest.
    varp
        Also write cells.h5ad, SOURCE with the network in varp.
    min_cells
        Genes that fewer cells express are left out.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    scale
        What the values are; log1p accepts log-normalised data and loses the read depth.
    min_matched
        Least fraction of the file's genes that the model must know.
    device
        Device to compute on, such as cpu or cuda.
    seed
        Of all draws.
    overwrite
        Replace an existing OUT.

    Examples
    --------
    cellfm genes network pbmc.h5ad network --tfs tfs.txt --groupby cell_type --group "CD14+ Monocytes" --gene SPI1

    cellfm genes network pbmc.h5ad network --known trrust_rawdata.human.tsv --n-heads 2

    cellfm genes network cells.h5ad network --tfs tfs.txt --groupby condition --between control,treated
    """
    from cellfm.corpus.adata import read_h5ad
    from cellfm.tl._network.genes import check_names
    from cellfm.tl._states import as_model
    from cellfm.weights.atomic import refuse_existing, replacing_folder

    refuse_existing(out, overwrite=overwrite)
    asked = _Asked(
        tfs=tfs, known=known, targets=targets, model=model, method=method, groupby=groupby, group=group, n_cells=n_cells,
        heads=tuple(heads or ()), n_heads=n_heads, n_genie3=n_genie3, n_permutations=n_permutations, min_cells=min_cells,
        layer=layer, use_raw=use_raw, gene_names=gene_names, scale=scale, min_matched=min_matched, device=device, seed=seed,
    )  # fmt: skip
    asked.check(between=between, genes=gene or [])
    if gene:  # said before minutes of work, not after
        check_names(gene, as_model(model, "cpu").vocabulary)
    adata = read_h5ad(source, "cells")
    if between is not None:
        changes = asked.differences(adata, between)
        with replacing_folder(out, marker=CHANGES) as folder:
            changes.table(n_edges).to_csv(folder / CHANGES, index=False, float_format="%.6g")
        _show_changes(changes)
        wrote(out, about=CHANGES)
        return
    check = asked.checked(adata) if known is not None else None
    found = asked.network(adata) if check is None else check.network
    with replacing_folder(out, marker=EDGES) as folder:
        files = _write(found, check, folder, n_edges=n_edges, genes=gene or [])
        if varp:
            found.write_varp(adata, gene_names=gene_names, n=n_edges, overwrite=True)
            adata.write_h5ad(folder / CELLS, compression="gzip")
            files.append(CELLS)
    _show(found, check)
    wrote(out, about=", ".join(files))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """What a command is about."""

    tfs: Path | None
    known: Path | None
    targets: Path | None
    model: str | None
    method: Method
    groupby: str | None
    group: str | None
    n_cells: int | None
    heads: tuple[str, ...]
    n_heads: int
    n_genie3: int
    n_permutations: int
    min_cells: int
    layer: str | None
    use_raw: bool
    gene_names: str | None
    scale: Literal["counts", "log1p"]
    min_matched: float
    device: str | None
    seed: int

    def check(self, *, between: str | None, genes: list[str]) -> None:
        """Refuse what does not go together, before minutes of work."""
        if self.tfs is None and self.known is None:
            msg = "No regulators were named. Give a file of them by --tfs, a known network by --known, or both."
            raise ConfigError(msg)
        if between is not None and (self.known or self.group or genes or self.heads):
            msg = "--between compares two groups of cells, and --known, --group, --gene or --heads are about the network of one. Run the command twice."
            raise ConfigError(msg)
        if self.heads and self.known is not None:
            msg = "--heads names the heads to average, and --known tests all, or those that --n-heads selects. Leave one of the two out."
            raise ConfigError(msg)
        if self.n_heads and self.known is None:
            msg = f"--n-heads {self.n_heads} selects heads by a known network, and there is none. Give one by --known, or name heads by --heads."
            raise ConfigError(msg)

    def network(self, adata: "AnnData") -> "GeneNetwork":
        """Score pairs."""
        from cellfm import tl
        from cellfm.cli.progress import progress_bar

        assert self.tfs is not None  # checked
        with progress_bar("scoring", unit="cells") as progress:
            return tl.gene_network(
                adata, self.model, sources=self.tfs, targets=self.targets, method=self.method, groupby=self.groupby,
                group=self.group, n_cells=self.n_cells, heads=list(self.heads) or None, min_cells=self.min_cells,
                layer=self.layer, use_raw=self.use_raw, gene_names=self.gene_names, scale=self.scale,
                min_matched=self.min_matched, device=self.device, seed=self.seed, progress=progress,
            )  # fmt: skip

    def checked(self, adata: "AnnData") -> "NetworkCheck":
        """Score pairs, and compare them with the known network."""
        from cellfm import tl
        from cellfm.cli.progress import progress_bar

        assert self.known is not None  # the caller asked
        with progress_bar("scoring", unit="cells") as progress:
            return tl.check_network(
                adata, self.model, known=self.known, sources=self.tfs, targets=self.targets, method=self.method,
                groupby=self.groupby, group=self.group, n_cells=self.n_cells, n_heads=self.n_heads, n_genie3=self.n_genie3,
                n_permutations=self.n_permutations, min_cells=self.min_cells, layer=self.layer, use_raw=self.use_raw,
                gene_names=self.gene_names, scale=self.scale, min_matched=self.min_matched, device=self.device,
                seed=self.seed, progress=progress,
            )  # fmt: skip

    def differences(self, adata: "AnnData", between: str) -> "DifferentialNetwork":
        """Compare the networks of two groups."""
        from cellfm import tl
        from cellfm.cli.progress import progress_bar

        parts = tuple(name.strip() for name in between.split(","))
        if len(parts) != 2 or self.groupby is None or self.tfs is None:
            msg = f"--between is {between!r}; it takes two entries of the column that --groupby names, with a comma between, and regulators by --tfs."
            raise ConfigError(msg)
        with progress_bar("scoring", unit="cells") as progress:
            return tl.differential_network(
                adata, self.model, groupby=self.groupby, groups=(parts[0], parts[1]), sources=self.tfs,
                targets=self.targets, method=self.method, n_cells=self.n_cells, n_permutations=self.n_permutations,
                min_cells=self.min_cells, layer=self.layer, use_raw=self.use_raw, gene_names=self.gene_names,
                scale=self.scale, min_matched=self.min_matched, device=self.device, seed=self.seed, progress=progress,
            )  # fmt: skip


def _write(
    found: "GeneNetwork",
    check: "NetworkCheck | None",
    folder: Path,
    *,
    n_edges: int,
    genes: list[str],
) -> list[str]:
    """Write the files of a network; return their names."""
    from cellfm import pl

    pictures = {}
    for gene in genes:
        try:
            pictures[gene] = pl.network(found.neighbourhood(gene))
        except DataError as error:  # too few cells express it: no reason to lose the rest
            say(f"no picture of {gene}: {error}")
    table = found.table(n_edges) if check is None else check.table(n_edges)
    table.to_csv(folder / EDGES, index=False, float_format="%.6g")
    found.to_graphml(folder / GRAPH, n=min(n_edges, 1000))
    files = [EDGES, GRAPH]
    if check is not None:
        check.comparison.to_csv(folder / COMPARISON, float_format="%.6g")
        files.append(COMPARISON)
        if check.heads is not None:
            check.heads.to_csv(folder / HEADS, float_format="%.6g")
            files.append(HEADS)
    for gene, axes in pictures.items():
        name = PICTURE.format("".join(letter if letter.isalnum() else "_" for letter in gene))
        cast("Figure", axes.figure).savefig(folder / name, dpi=150)
        files.append(name)
    return files


def _show(found: "GeneNetwork", check: "NetworkCheck | None") -> None:
    scores = found.scores
    table = (found if check is None else check).table(N_SHOWN)
    title = f"strongest of {scores.score.size:,} pairs ({len(scores.sources):,} sources, {len(scores.targets):,} targets, {scores.method}, {found.n_cells:,} cells: {found.described})"
    print_table(title, _as_text(table))
    if check is None:
        say("Whether these are regulation was not tested; give a known network by --known.")
        return
    columns = ["n_edges", "epr", "auprc_ratio", "auroc"]
    for universe in check.comparison.index.get_level_values("universe").unique():
        part = check.comparison.loc[universe]
        text = part[["n_edges"]].astype(int).astype(str)
        for name in columns[1:]:
            bounds = zip(part[name], part[f"{name}_low"], part[f"{name}_high"], strict=True)
            text[name] = [f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in bounds]
        text["odds_ratio"] = [f"{value:.1f}" for value in part["odds_ratio"]]
        text["null_epr"] = [f"{value:.2f}" for value in part["null_epr"]]
        text["p"] = [f"{value:.3g}" for value in part["p"]]
        print_table(f"known edges found ({universe}: {part['n_sources'].iloc[0]:,} sources, {part['n_pairs'].iloc[0]:,} pairs; random scores: EPR 1, AUPRC ratio 1, AUROC 0.5)", text)  # fmt: skip
    if check.heads is not None:
        shown = check.heads.sort_values("auprc_ratio", ascending=False)
        shown = shown.assign(auprc_ratio=shown["auprc_ratio"].map("{:.3f}".format))
        print_table("heads, by the sources they were selected with", shown.astype(str))
    say(check.verdict)


def _as_text(table: "pd.DataFrame") -> "pd.DataFrame":
    """Numbers with few digits, rows by source and target."""
    text = table.copy()
    for name in table.select_dtypes("number").columns:
        text[name] = [f"{value:.4g}" for value in table[name]]
    text.index = [f"{one} → {other}" for one, other in zip(text.pop("source"), text.pop("target"), strict=True)]  # fmt: skip
    return text


def _show_changes(changes: "DifferentialNetwork") -> None:
    print_table(
        f"pairs that differ most, {changes.groups[0]} → {changes.groups[1]} ({changes.n_cells:,} cells each)",
        _as_text(changes.table(N_SHOWN)),
    )
    say(changes.verdict)
