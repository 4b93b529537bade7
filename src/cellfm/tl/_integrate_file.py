"""h5ad in, h5ad with integrated states out."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cellfm.corpus.adata import read_h5ad
from cellfm.corpus.counts import Scale
from cellfm.errors import DataError, OutputExistsError
from cellfm.tl._integrate import Method, integrate
from cellfm.tl._integrate_tune import GeneStart
from cellfm.tl._states import Pool
from cellfm.weights.atomic import replacing
from cellfm.weights.folder import Pretrained

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegrateSummary:
    """What `integrate_file` did."""

    target: Path
    n_cells: int
    dim: int
    batch_sizes: dict[str, int]
    """Cells of each batch."""
    best_epoch: int | None
    """From 1; None without fine-tuning."""
    validation: tuple[float, float] | None
    """Masked loss on the validation cells before fine-tuning and after the best epoch."""
    seconds: float


def integrate_file(  # noqa: PLR0913 - the arguments of a user's question
    source: Path | str,
    target: Path | str,
    model: Pretrained | str | Path | None = None,
    *,
    batch_key: str,
    key_added: str = "X_cellfm_integrated",
    method: Method = "finetune",
    pool: Pool = "cls",
    adversarial: float = 0.0,
    conditional: bool = True,
    ecs: float = 0.0,
    gene_start: GeneStart = "weights",
    n_epochs: int = 30,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    scale: Scale = "counts",
    seed: int = 0,
    device: str | None = None,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> IntegrateSummary:
    """Integrate the cells of an h5ad file, which is read into memory; the target appears complete or not at all.

    Parameters
    ----------
    source, target
        h5ad files; the source is never changed.
    model, batch_key, key_added, method, pool, adversarial, conditional, ecs, gene_start, n_epochs, layer, use_raw, gene_names, scale, seed, device, progress
        As in `integrate`.
    overwrite
        Replace an existing target, and an existing result of that name in it.

    Returns
    -------
    What was done. The target is a copy of the source with what `integrate` writes.

    Raises
    ------
    OutputExistsError
        The target, or the key in the source, exists.
    DataError
        The source is no h5ad file or the target; also as in `integrate`.
    GeneMatchError, CountsError, WeightsError
        As in `integrate`.

    Examples
    --------
    >>> cellfm.tl.integrate_file(
    ...     "pancreas.h5ad", "integrated.h5ad", batch_key="donor"
    ... )  # doctest: +SKIP
    """
    source, target, started = Path(source), Path(target), time.perf_counter()
    _refuse(source, target, overwrite=overwrite)
    adata = read_h5ad(source, "input")
    integrate(
        adata,
        model,
        batch_key=batch_key,
        key_added=key_added,
        method=method,
        pool=pool,
        adversarial=adversarial,
        conditional=conditional,
        ecs=ecs,
        gene_start=gene_start,
        n_epochs=n_epochs,
        layer=layer,
        use_raw=use_raw,
        gene_names=gene_names,
        scale=scale,
        seed=seed,
        device=device,
        overwrite=overwrite,
        progress=progress,
    )
    with replacing(target) as temporary:
        adata.write_h5ad(temporary, compression="gzip")
    return _summary(adata, target, key_added, started)


def _refuse(source: Path, target: Path, *, overwrite: bool) -> None:
    if not source.is_file():
        msg = f"{source} does not exist or is no file; give an h5ad file with raw counts."
        raise DataError(msg)
    if target.exists() and source.samefile(target):
        msg = f"{source} is the source and the target; the source is never changed. Name another file to write."
        raise DataError(msg)
    if target.exists() and not overwrite:
        msg = f"{target} exists already; choose another name or pass overwrite (--overwrite)."
        raise OutputExistsError(msg)
    if not target.absolute().parent.is_dir():
        msg = f"The folder of {target} does not exist; make it first."
        raise DataError(msg)


def _summary(adata: "AnnData", target: Path, key: str, started: float) -> IntegrateSummary:
    record = adata.uns["cellfm"][key]
    tuned = record.get("finetuning")
    sizes = zip(record["batches"].tolist(), record["batch_sizes"].tolist(), strict=True)
    return IntegrateSummary(
        target=target,
        n_cells=adata.n_obs,
        dim=adata.obsm[key].shape[1],
        batch_sizes=dict(sizes),
        best_epoch=None if tuned is None else tuned["best_epoch"] + 1,
        validation=None
        if tuned is None
        else (tuned["validation_before"], float(tuned["validation"].min())),
        seconds=time.perf_counter() - started,
    )
