"""The command ``cellfm convert``."""

from pathlib import Path

from cellfm.cli.console import next_step, say, wrote


def convert(source: Path, target: Path, *, overwrite: bool = False) -> None:
    """Write counts of any readable format (10x h5, mtx, csv, h5ad) as an h5ad file.

    All commands on cells take h5ad files. Only raw counts are written; of an h5ad file the first of X, the layer counts, other layers and raw that
    holds them becomes X. `cellfm doctor SOURCE` says what is in a file before. The counts are held in memory.

    Parameters
    ----------
    source
        10x h5 file, folder of Cell Ranger or its matrix.mtx, csv or tsv of either orientation, or h5ad.
    target
        h5ad file to write.
    overwrite
        Replace an existing TARGET.

    Examples
    --------
    cellfm convert filtered_feature_bc_matrix/ sample.h5ad

    cellfm convert filtered_feature_bc_matrix.h5 sample.h5ad
    """
    from cellfm.tl._convert import convert_file

    done = convert_file(source, target, overwrite=overwrite)
    for note in done.notes:
        say(note)
    wrote(done.target, about=f"{done.n_cells:,} cells × {done.n_genes:,} genes, counts from {done.matrix}")  # fmt: skip
    next_step("doctor", done.target)
