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
    show(out)


def export(folder: Path, checkpoint: Path, *, overwrite: bool = False) -> None:
    """Write a weights folder as a checkpoint that MindSpore loads.

    Parameters
    ----------
    folder
        Weights folder.
    checkpoint
        The .ckpt file to write.
    overwrite
        Replace an existing file.

    Examples
    --------
    cellfm weights export weights/cellfm-80m cellfm-80m.ckpt
    """
    from rich.console import Console

    from cellfm.cli.progress import byte_bar
    from cellfm.weights.layout import OPTIMIZER, WEIGHTS
    from cellfm.weights.mindspore import export_checkpoint

    files = (folder / WEIGHTS, folder / OPTIMIZER)
    with byte_bar(
        "exporting", sum(file.stat().st_size for file in files if file.is_file())
    ) as progress:
        export_checkpoint(folder, checkpoint, overwrite=overwrite, progress=progress)
    Console().print(f"wrote {checkpoint} ({checkpoint.stat().st_size:,} bytes)", highlight=False)


def show(folder: Path) -> None:
    """Print what a weights folder holds.

    Parameters
    ----------
    folder
        Weights folder.

    Examples
    --------
    cellfm weights show weights/cellfm-80m
    """
    from rich.console import Console
    from rich.table import Table

    from cellfm.weights.card import shape_text
    from cellfm.weights.layout import WEIGHTS, read_description, read_vocabulary

    description = read_description(folder)
    vocabulary = read_vocabulary(folder, description)
    table = Table(title=str(folder), show_header=False, title_justify="left")
    table.add_row("network", shape_text(description.model))
    table.add_row("genes", f"{', '.join(vocabulary.symbols[:4])}, … (hash {vocabulary.hash[:12]})")
    table.add_row("weights", f"{(folder / WEIGHTS).stat().st_size:,} bytes")
    for key, value in description.provenance.items():
        table.add_row(key, value)
    Console().print(table, highlight=False)


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
    from cellfm.genes.vocabulary import Vocabulary
    from cellfm.weights import folder

    made = folder.new(preset, Vocabulary.from_hgnc(), seed)
    card = f"# {out.name}\n\nRandom weights of the preset {preset}, seed {seed}: nothing was learned.\n"
    folder.save(out, made.network, made.vocabulary, card=card, provenance=made.provenance)
    show(out)
