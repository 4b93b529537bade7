"""The commands ``cellfm perturb train-drugs`` and ``cellfm perturb predict-drugs``."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cellfm.cli.console import print_table, say, wrote

if TYPE_CHECKING:
    from cellfm.tl._drug.judge import DrugScore


def train_drugs(  # noqa: PLR0913 - the parameters of tl.train_drugs
    data: Path,
    out: Path,
    *,
    model: str | None = None,
    drug: str = "drug",
    dose: str = "dose",
    one_dose: bool = False,
    context: str | None = None,
    batch: str | None = None,
    control: str | None = None,
    smiles: str | None = None,
    method: Literal["conditional", "transport", "shift"] = "conditional",
    hold_out: Literal["drug", "scaffold", "dose", "context"] | None = None,
    min_cells: int = 10,
    n_steps: int = 300,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    min_matched: float = 0.3,
    seed: int = 0,
    device: str | None = None,
    overwrite: bool = False,
) -> None:
    """Learn what drugs do to cells, and print how well held-out drugs, doses or contexts are predicted, beside simple methods.

    The table has models that were fitted without the held-out treatments; the one that is written to OUT is then fitted on all of them.

    Parameters
    ----------
    data
        h5ad file with raw counts of treated and control cells.
    out
        Folder to make.
    model
        Weights folder, or name of one in the cache folder; without it, the small model that comes with the package.
    drug
        Column of obs with the drug, or what controls are called (DMSO, vehicle, control).
    dose
        Column of obs with the dose, a number above 0 in one unit.
    one_dose
        There are no doses.
    context
        Column of obs with the cell type or line.
    batch
        Column of obs with the replicate: responses are measured within it.
    control
        What controls are called, besides the usual names.
    smiles
        Column of obs with structures, or a file of two columns, drug and SMILES; needs the extra chem. Without it nothing can be predicted of
        drugs that are not in the data.
    method
        conditional: structure, dose and context, for other drugs too; transport: a map of cells for each drug (CellOT); shift: the mean response,
        moved to the context.
    hold_out
        What is held out whole for the table; without it scaffolds, or doses, whichever there are.
    min_cells
        Treatments with fewer cells are left out.
    n_steps
        Steps of the potentials of a map.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    min_matched
        Least fraction of the file's genes that the model must know.
    seed
        Of everything that is drawn.
    device
        Device to compute on, such as cpu or cuda.
    overwrite
        Replace an existing OUT.

    Examples
    --------
    cellfm perturb train-drugs sciplex.h5ad drugs --context cell_line --smiles SMILES

    cellfm perturb train-drugs screen.h5ad drugs --smiles structures.tsv --hold-out scaffold

    cellfm perturb train-drugs screen.h5ad maps --method transport --hold-out dose
    """
    from cellfm.cli.progress import stage_bars
    from cellfm.corpus.adata import read_h5ad
    from cellfm.tl._drug.train import train_drugs as train
    from cellfm.weights.atomic import refuse_existing

    refuse_existing(out, overwrite=overwrite)
    adata = read_h5ad(data, "data")
    with stage_bars() as progress:
        trained = train(
            adata,
            model,
            drug=drug,
            dose=None if one_dose else dose,
            context=context,
            batch=batch,
            control=control,
            smiles=smiles,
            method=method,
            hold_out=hold_out,
            min_cells=min_cells,
            n_steps=n_steps,
            layer=layer,
            use_raw=use_raw,
            gene_names=gene_names,
            min_matched=min_matched,
            seed=seed,
            device=device,
            progress=progress,
        )
    trained.save(out, overwrite=overwrite)
    _show(trained.scores, held_out=trained.hold_out, notes=trained.notes)
    wrote(out, about=f"{len(trained.drugs)} drugs, method {trained.method}")


def predict_drugs(  # noqa: PLR0913 - the parameters of DrugModel.predict
    trained: Path,
    cells: Path,
    target: Path,
    *,
    drug: str,
    dose: float,
    model: str | None = None,
    context: str | None = None,
    smiles: str | None = None,
    layer: str | None = None,
    use_raw: bool = False,
    gene_names: str | None = None,
    seed: int = 0,
    device: str | None = None,
    overwrite: bool = False,
) -> None:
    """Predict what untreated cells would be under a drug.

    TARGET has the same cells and genes: sampled counts in X, the predicted log1p of counts per 10,000 in the layer log1p, mean changes by context
    in varm.

    Parameters
    ----------
    trained
        Folder of train-drugs.
    cells
        h5ad file with raw counts of untreated cells.
    target
        h5ad file to write.
    drug
        Name of the drug.
    dose
        Its dose, in the unit of the training data.
    model
        The weights it was trained with; without it, the small model that comes with the package.
    context
        Column of obs with the cell type or line; without it, the cells are taken to be of one.
    smiles
        Structure of a drug that was not trained on.
    layer
        Layer with the counts, instead of X.
    use_raw
        Take the counts of .raw.
    gene_names
        Column of var with symbols or Ensembl ids, instead of the index.
    seed
        Of the sampled counts.
    device
        Device to compute on, such as cpu or cuda.
    overwrite
        Replace an existing TARGET.

    Examples
    --------
    cellfm perturb predict-drugs drugs untreated.h5ad treated.h5ad --drug vorinostat --dose 1 --context cell_line

    cellfm perturb predict-drugs drugs untreated.h5ad treated.h5ad --drug aspirin --dose 10 --smiles "CC(=O)Oc1ccccc1C(=O)O"
    """
    from cellfm.corpus.adata import read_h5ad
    from cellfm.tl._drug.model import DrugModel
    from cellfm.weights.atomic import refuse_existing, replacing

    refuse_existing(target, overwrite=overwrite)
    made = DrugModel.load(trained).predict(
        read_h5ad(cells, "cells"),
        drug,
        dose,
        model=model,
        context=context,
        smiles=smiles,
        layer=layer,
        use_raw=use_raw,
        gene_names=gene_names,
        seed=seed,
        device=device,
    )
    with replacing(target) as path:
        made.write_h5ad(path)
    about = f"{made.n_obs:,} cells × {made.n_vars:,} genes under {drug} at {dose:g}"
    wrote(target, about=about)


def _show(scores: "Sequence[DrugScore]", *, held_out: str, notes: Sequence[str]) -> None:
    """Print ours beside its controls, never alone."""
    import pandas as pd

    rows = {
        each.method: {
            "50 most differential genes": f"{each.r2_top50:.3f}",
            "95 % interval": f"{each.low:.3f} to {each.high:.3f}",
            "all genes": f"{each.r2:.3f}",
            "Pearson": "" if math.isnan(each.pearson) else f"{each.pearson:.3f}",
        }
        for each in scores
    }
    title = f"held-out {held_out}s: R² of the responses, against no change"
    print_table(title, pd.DataFrame.from_dict(rows, orient="index").rename_axis("method"))
    if scores:
        say(f"{scores[0].n_treatments} treatments of {scores[0].n_drugs} drugs; intervals resample drugs")  # fmt: skip
    for note in notes:
        say(note)
