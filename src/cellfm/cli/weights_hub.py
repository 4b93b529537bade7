"""The commands ``cellfm weights get | list | upload | official``."""

from pathlib import Path


def get(name: str, *, sha256: str | None = None, overwrite: bool = False) -> None:
    """Download weights from the hub, unless they are here, and print the name that always means the same ones.

    Only the files of a weights folder are downloaded, each is checked, and an interrupted download goes on where it stopped. A mirror:
    set CELLFM_HUB. Without a network: set CELLFM_OFFLINE=1, and what is in the cache folder (CELLFM_CACHE) is used.

    Parameters
    ----------
    name
        hf://ORG/REPO, hf://ORG/REPO@REVISION, either with #sha256=… of model.safetensors; or weights on this machine.
    sha256
        What the SHA-256 of model.safetensors must be.
    overwrite
        Download again, in place of the copy that is here.

    Examples
    --------
    cellfm weights get hf://org/repo

    cellfm weights get hf://org/repo@v1.0 --sha256 4ae0…
    """
    from rich.table import Table

    from cellfm.cli.console import show_table
    from cellfm.cli.progress import download_bar
    from cellfm.errors import WeightsError
    from cellfm.weights.folder import HUB_KEY, locate
    from cellfm.weights.hub_folder import check_folder
    from cellfm.weights.layout import WEIGHTS

    with download_bar("downloading") as progress:
        found = locate(name, sha256=sha256, progress=progress, again=overwrite)
    digest = check_folder(found.path)[WEIGHTS]
    if found.sha256 and digest != found.sha256:
        msg = (
            f"{found.path / WEIGHTS} has the SHA-256 {digest}, expected {found.sha256}. These are other weights, or the file is damaged: --overwrite "
            "downloads it again."
        )
        raise WeightsError(msg)
    pinned = found.provenance.get(HUB_KEY, name)
    table = Table(show_header=False, title="Weights", title_justify="left")
    table.add_row("name", pinned)
    table.add_row("sha256", digest)
    table.add_row("folder", str(found.path))
    if found.provenance:
        table.add_row("from", found.provenance["hub_endpoint"])
    table.add_row("use", f"cellfm embed IN.h5ad OUT.h5ad --model {pinned}")
    show_table(table)


def list_() -> None:
    """List the weights that are on this machine: those of the package, of the cache folder, and from the hub.

    Examples
    --------
    cellfm weights list
    """
    from rich import box
    from rich.table import Table

    from cellfm.cli.console import say, show_table
    from cellfm.settings import cache_dir
    from cellfm.weights.folder import PACKAGED
    from cellfm.weights.hub_cache import all_cached
    from cellfm.weights.layout import CONFIG

    table = Table(title="Weights on this machine", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("name", no_wrap=True)
    for head in ("parameters", "genes", "MB"):
        table.add_column(head, justify="right")
    table.add_column("folder", overflow="fold")
    for shelf in (PACKAGED, cache_dir() / "models"):
        for config in sorted(shelf.glob(f"*/{CONFIG}")):
            table.add_row(config.parent.name, *_facts(config.parent))
    for fetched in all_cached():
        table.add_row(str(fetched.name), *_facts(fetched.path))
    show_table(table)
    say(
        "Every --model takes such a name, the path of a folder, or hf://ORG/REPO; 'cellfm weights get' downloads."
    )


def upload(folder: str, name: str, *, private: bool = False, licence: str | None = None) -> None:
    """Put a weights folder on the hub in one commit, with its card and the hash of every file.

    Weights imported from the official CellFM checkpoints are refused: their licence forbids passing on anything made from them. The token is
    that of 'hf auth login' or HF_TOKEN.

    Parameters
    ----------
    folder
        Weights folder, or its name.
    name
        hf://ORG/REPO; made unless it exists.
    private
        Only you and your organisation may see it.
    licence
        Terms that you give the weights, such as cc-by-4.0 or apache-2.0; without it the card's header says, or "unknown".

    Examples
    --------
    cellfm weights upload runs/mini/model hf://org/blood-mini --private --licence cc-by-4.0
    """
    from rich.table import Table

    from cellfm.cli.console import say, show_table
    from cellfm.weights.folder import find
    from cellfm.weights.hub_names import parse
    from cellfm.weights.hub_upload import NO_LICENCE
    from cellfm.weights.hub_upload import upload as put

    target = parse(name)
    done = put(find(folder), target, private=private, licence=licence)
    table = Table(show_header=False, title="Uploaded", title_justify="left")
    table.add_row("name", str(done.name))
    table.add_row("sha256", done.sha256)
    table.add_row("page", done.url)
    table.add_row("licence", done.licence)
    show_table(table)
    if done.licence == NO_LICENCE:
        say(
            "No licence is stated, so others may not use these weights. State one: --licence cc-by-4.0, for example."
        )


def official(
    size: str,
    *,
    checkpoint: Path | None = None,
    genes: Path | None = None,
    out: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Say where the official CellFM weights are and under which licence, or import the downloaded files.

    Nothing is downloaded: the licence is between you and the authors.

    Parameters
    ----------
    size
        80m or 800m.
    checkpoint
        The downloaded .ckpt file.
    genes
        The downloaded gene list (csv) that belongs to it.
    out
        Weights folder to make; by default cellfm-80m or cellfm-800m in the cache folder, where --model finds it by that name.
    overwrite
        Replace an existing weights folder.

    Examples
    --------
    cellfm weights official 80m

    cellfm weights official 80m --checkpoint CellFM_80M_weight.ckpt --genes expand_gene_info.csv
    """
    from cellfm.cli.console import say, wrote
    from cellfm.cli.progress import byte_bar
    from cellfm.cli.weights import show
    from cellfm.errors import ConfigError
    from cellfm.settings import cache_dir
    from cellfm.weights.mindspore import import_size
    from cellfm.weights.official import LICENCE, import_official, instructions, release

    wanted = release(size)
    if checkpoint is None and genes is None:
        if out is not None:
            msg = f"--out {out} is given without files. Add --checkpoint {wanted.checkpoint} --genes {Path(wanted.genes).name}."
            raise ConfigError(msg)
        say(instructions(wanted))
        return
    if checkpoint is None or genes is None:
        msg = f"The import needs both files: --checkpoint {wanted.checkpoint} and --genes {Path(wanted.genes).name}. 'cellfm weights official {wanted.size}' says where they are."
        raise ConfigError(msg)
    name = f"cellfm-{wanted.size}"
    folder = out or cache_dir() / "models" / name
    with byte_bar("importing", import_size(checkpoint)) as progress:
        import_official(wanted, checkpoint, genes, folder, overwrite=overwrite, progress=progress)
    show(str(folder))
    say(LICENCE)
    wrote(folder)
    say(f"next: cellfm embed IN.h5ad OUT.h5ad --model {folder if out else name}")


def _facts(folder: Path) -> tuple[str, str, str, str]:
    """Return parameters, genes, size and place of a weights folder."""
    from cellfm.errors import CellFMError
    from cellfm.weights.card import n_parameters
    from cellfm.weights.layout import WEIGHTS, read_description

    try:
        config = read_description(folder).model
        n_bytes = (folder / WEIGHTS).stat().st_size
    except (CellFMError, OSError) as error:
        return "damaged", "", "", f"{folder}: {error}"
    return f"{n_parameters(config):,}", f"{config.n_genes:,}", f"{n_bytes / 1e6:,.1f}", str(folder)
