"""The commands ``cellfm weights …``."""

from pathlib import Path


def import_(
    checkpoint: Path,
    out: Path,
    *,
    genes: Path,
    heads: int | None = None,
    optimizer: bool = False,
    overwrite: bool = False,
) -> None:
    """Make a weights folder of a MindSpore checkpoint, such as the official CellFM weights.

    Parameters
    ----------
    checkpoint
        The .ckpt file, as downloaded.
    out
        Weights folder to make.
    genes
        The gene list (csv or tsv) that belongs to the weights.
    heads
        Retention heads; needed only for widths other than the released models'.
    optimizer
        Keep Adam's moments, to continue training.
    overwrite
        Replace an existing weights folder.

    Examples
    --------
    cellfm weights import CellFM_80M_weight.ckpt weights/cellfm-80m --genes expand_gene_info.csv
    """
    from cellfm.cli.console import wrote
    from cellfm.cli.progress import byte_bar
    from cellfm.weights.mindspore import import_checkpoint, import_size

    with byte_bar("importing", import_size(checkpoint, optimizer=optimizer)) as progress:
        import_checkpoint(
            checkpoint,
            genes,
            out,
            n_heads=heads,
            optimizer=optimizer,
            overwrite=overwrite,
            progress=progress,
        )
    show(str(out))
    wrote(out)


def export(folder: str, checkpoint: Path, *, overwrite: bool = False) -> None:
    """Write a weights folder as a checkpoint that MindSpore loads.

    Parameters
    ----------
    folder
        Weights folder, or its name.
    checkpoint
        The .ckpt file to write.
    overwrite
        Replace an existing file.

    Examples
    --------
    cellfm weights export weights/cellfm-80m cellfm-80m.ckpt
    """
    from cellfm.cli.console import wrote
    from cellfm.cli.progress import byte_bar
    from cellfm.weights.folder import find
    from cellfm.weights.layout import OPTIMIZER, WEIGHTS
    from cellfm.weights.mindspore import export_checkpoint

    found = find(folder)
    files = (found / WEIGHTS, found / OPTIMIZER)
    with byte_bar(
        "exporting", sum(file.stat().st_size for file in files if file.is_file())
    ) as progress:
        export_checkpoint(found, checkpoint, overwrite=overwrite, progress=progress)
    wrote(checkpoint, about=f"{checkpoint.stat().st_size:,} bytes")


def show(folder: str) -> None:
    """Print what a weights folder holds.

    Parameters
    ----------
    folder
        Weights folder, or its name: mini, one of the cache folder, or hf://ORG/REPO.

    Examples
    --------
    cellfm weights show weights/cellfm-80m
    """
    from rich.table import Table

    from cellfm.cli.console import show_table
    from cellfm.weights.card import shape_text
    from cellfm.weights.folder import locate
    from cellfm.weights.layout import WEIGHTS, read_description, read_vocabulary

    located = locate(folder)
    description = read_description(located.path)
    vocabulary = read_vocabulary(located.path, description)
    table = Table(title=str(folder), show_header=False, title_justify="left")
    table.add_row("network", shape_text(description.model))
    table.add_row("genes", f"{', '.join(vocabulary.symbols[:4])}, … (hash {vocabulary.hash[:12]})")
    table.add_row("weights", f"{(located.path / WEIGHTS).stat().st_size:,} bytes")
    for key, value in {**description.provenance, **located.provenance}.items():
        table.add_row(key, value)
    show_table(table)


def new(preset: str, out: Path, *, seed: int = 0) -> None:
    """Make a weights folder with random weights over the default genes.

    Parameters
    ----------
    preset
        Shape of the network: debug, mini, small, 80m, 800m or 3b.
    out
        Weights folder to make.
    seed
        Of the random weights.

    Examples
    --------
    cellfm weights new mini weights/random
    """
    from cellfm.cli.console import wrote
    from cellfm.genes.vocabulary import Vocabulary
    from cellfm.weights import folder

    made = folder.new(preset, Vocabulary.from_hgnc(), seed)
    card = f"# {out.name}\n\nRandom weights of the preset {preset}, seed {seed}: nothing was learned.\n"
    folder.save(out, made.network, made.vocabulary, card=card, provenance=made.provenance)
    show(str(out))
    wrote(out)


def whiten(
    folder: Path,
    source: Path,
    *,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    n_cells: int = 2000,
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Fit the whitening of a weights folder, which embed --pool whitened uses.

    Splits the counts of cells in random halves; what differs between the states of the halves is technical noise and read depth, and
    the whitening puts states in units of it. No labels are used. Give cells of the kind the model was trained on.

    Parameters
    ----------
    folder
        Weights folder; gets the file whitening.safetensors.
    source
        h5ad file with raw counts.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    n_cells
        Draw so many cells.
    seed
        Of the draw and of the halves.
    overwrite
        Replace an earlier whitening.

    Examples
    --------
    cellfm weights whiten weights/cellfm-80m pbmc.h5ad

    cellfm embed pbmc.h5ad out.h5ad --model weights/cellfm-80m --pool whitened
    """
    import anndata

    from cellfm import tl
    from cellfm.cli.console import wrote
    from cellfm.cli.progress import progress_bar
    from cellfm.corpus.missing import refuse_no_file
    from cellfm.errors import ConfigError, OutputExistsError
    from cellfm.weights.folder import load
    from cellfm.weights.hub_names import is_hub_name
    from cellfm.weights.whitening import WHITENING, write_whitening

    if is_hub_name(folder):
        msg = "A whitening is written into a weights folder, and what came from the hub stays as it came. Copy the folder that 'cellfm weights get' prints, and give the copy."
        raise ConfigError(msg)
    target = folder / WHITENING
    if target.exists() and not overwrite:
        msg = f"{target} exists. Say --overwrite to replace it."
        raise OutputExistsError(msg)
    refuse_no_file(source, "an h5ad file with raw counts")
    model = load(folder)
    with progress_bar("encoding", unit="cells") as progress:
        whitening = tl.fit_whitening(
            anndata.read_h5ad(source, backed="r"),
            model,
            layer=layer,
            use_raw=use_raw,
            gene_names=gene_names,
            n_cells=n_cells,
            seed=seed,
            progress=progress,
        )
    write_whitening(folder, whitening)
    wrote(
        target,
        about=f"{whitening.dim} of {model.network.config.dim} directions vary at least twice as much as their noise, the first "
        f"{whitening.ratio[0]:,.0f} times",
    )
