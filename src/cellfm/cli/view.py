"""The command ``cellfm view``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from uvicorn import Server


def view(  # noqa: PLR0913 - a user's choices
    source: Path | None = None,
    *,
    port: int = 0,
    browser: Annotated[bool, Parameter(negative="--no-browser")] = True,
    embedding: str = "X_cellfm",
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    model: str | None = None,
    annotator: Path | None = None,
    device: str | None = None,
    max_upload: float = 8.0,
) -> None:
    """Show the cells of an h5ad file on a page in the browser.

    Cells are drawn by a UMAP of their embedding, or by that in the file, and coloured by any column of obs or any gene. Selected cells get
    their composition, marker genes and a csv file. An h5ad file that is dropped on the page is embedded, annotated with --annotator,
    and shown. The page is served to this machine only, asks nothing of the network, and ends with Ctrl-C; SOURCE is never changed.

    Parameters
    ----------
    source
        h5ad file, best with an embedding by `cellfm embed` or `cellfm annotate`; without it the page waits for a file to be dropped.
    port
        Port of 127.0.0.1; 0 takes a free one.
    browser
        Open the page in the browser; with --no-browser the address is only printed.
    embedding
        Key of obsm with the cell states.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with the names of the genes, instead of the index.
    model
        Weights folder, or name of one in the cache folder, for files that are dropped; without it, the small model of the package.
    annotator
        Folder of an annotator that `cellfm annotate train` made; it labels the files that are dropped.
    device
        Device to compute on, such as cpu or cuda.
    max_upload
        GiB that a dropped file may have.

    Examples
    --------
    cellfm view pbmc_mini.h5ad

    cellfm view pbmc.annotated.h5ad --port 8765 --no-browser

    cellfm view --annotator atlas-annotator
    """
    from cellfm.cli.console import say
    from cellfm.view import ViewOptions, serve

    options = ViewOptions(
        embedding=embedding,
        layer=layer,
        use_raw=use_raw,
        gene_names=gene_names,
        model=model,
        annotator=annotator,
        device=device,
        max_upload=max_upload,
        port=port,
    )

    def ready(address: str, _: "Server") -> None:
        print(address, flush=True)  # noqa: T201 - alone on its line, for people and for programs
        say("Open this address in a browser on this machine. It ends with Ctrl-C.")

    try:
        serve(source, options, browser=browser, ready=ready)
    except KeyboardInterrupt as interrupt:
        if interrupt.args:  # SIGTERM
            raise
    say("stopped")
