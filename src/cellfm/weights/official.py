"""The checkpoints that the authors of CellFM published: where a user gets them, under which licence, and whether a file is one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cellfm.config.model import ModelConfig
from cellfm.errors import ConfigError, WeightsError
from cellfm.weights.card import OFFICIAL_LICENCE, shape_text
from cellfm.weights.layout import Description
from cellfm.weights.mindspore import import_checkpoint, read_config

CHECKPOINTS = "https://huggingface.co/ShangguanNingyuan/CellFM"
GENE_LISTS = "https://github.com/biomed-AI/CellFM"
PAPER = "https://doi.org/10.1038/s41467-025-59926-5"
KEY = "official"
"""Entry of the provenance of imported official weights: which."""

LICENCE = f"""\
Licence: {OFFICIAL_LICENCE}, for the checkpoints and the gene lists. That means:
  - name the authors (Zeng et al. 2025, Nat. Commun. 16, 4679);
  - no commercial use;
  - nothing made from them may be passed on: no converted copy, no fine-tuned weights. 'cellfm weights upload' refuses them.
CellFM (this package) is another implementation, contains nothing of them, and downloads nothing of them for you."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """One published checkpoint with the gene list that belongs to it."""

    size: str
    checkpoint: str
    """File name at `CHECKPOINTS`."""
    n_bytes: str
    genes: str
    """Path in the repository `GENE_LISTS`."""
    n_genes: int
    n_layers: int
    dim: int = 1536

    def fits(self, config: ModelConfig) -> bool:
        """Whether a network has the shape of this release."""
        return (config.n_genes, config.n_layers, config.dim) == (
            self.n_genes,
            self.n_layers,
            self.dim,
        )


RELEASES = (
    Release(
        size="80m",
        checkpoint="CellFM_80M_weight.ckpt",
        n_bytes="1.03 GB",
        genes="csv/expand_gene_info.csv",
        n_genes=27_855,
        n_layers=2,
    ),
    Release(
        size="800m",
        checkpoint="base_weight.ckpt",
        n_bytes="9.66 GB",
        genes="csv/gene_info.csv",
        n_genes=24_078,
        n_layers=40,
    ),
)


def release(size: str) -> Release:
    """Return the published checkpoint of a size.

    Parameters
    ----------
    size
        ``"80m"`` or ``"800m"``.

    Raises
    ------
    ConfigError
        There is none.
    """
    for known in RELEASES:
        if known.size == size.strip().lower():
            return known
    msg = f"There are no official weights of size {size!r}; the authors published {' and '.join(known.size for known in RELEASES)}. Give one of them."
    raise ConfigError(msg)


def instructions(wanted: Release) -> str:
    """Say where a user gets a checkpoint, what may be done with it, and how it is imported.

    Parameters
    ----------
    wanted
        From `release`.
    """
    gene_file = Path(wanted.genes).name
    return f"""\
The official CellFM {wanted.size} weights

1. Checkpoint: {wanted.checkpoint} ({wanted.n_bytes}), at {CHECKPOINTS}
2. Gene list that belongs to it: {wanted.genes} ({wanted.n_genes:,} genes), in the repository {GENE_LISTS}
   (The other gene list there belongs to the other checkpoint. Places as in copies of these pages from 2025;
   if they have moved, start from the paper: {PAPER})
3. Import both: cellfm weights official {wanted.size} --checkpoint {wanted.checkpoint} --genes {gene_file}

{LICENCE}"""


def import_official(
    wanted: Release,
    checkpoint: Path,
    genes: Path,
    folder: Path,
    *,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Make a weights folder of a downloaded official checkpoint, after a look whether it is the one that was said.

    Parameters
    ----------
    wanted
        From `release`.
    checkpoint, genes
        The files, as downloaded.
    folder
        Weights folder to make.
    overwrite
        Replace an existing one.
    progress
        Told the number of bytes just read or written; they add up to `cellfm.weights.mindspore.import_size`.

    Raises
    ------
    WeightsError
        It is a checkpoint of another shape, or damaged.
    VocabularyError
        The gene list does not belong to it.
    """
    config = read_config(checkpoint, genes)
    if not wanted.fits(config):
        other = next((known for known in RELEASES if known.fits(config)), None)
        way_out = (
            f"It is that of {other.size}: cellfm weights official {other.size}."
            if other
            else "For a checkpoint of your own: cellfm weights import."
        )
        msg = (
            f"{checkpoint} with {genes} is not the official {wanted.size} checkpoint: it has {shape_text(config)} Expected {wanted.n_genes:,} genes, width "
            f"{wanted.dim:,}, {wanted.n_layers} layers. {way_out}"
        )
        raise WeightsError(msg)
    import_checkpoint(
        checkpoint,
        genes,
        folder,
        overwrite=overwrite,
        progress=progress,
        told={KEY: wanted.size, "licence": OFFICIAL_LICENCE},
    )


def refuse_to_publish(folder: Path, description: Description) -> None:
    """Refuse weights that were imported from an official checkpoint, as far as their provenance and shape tell.

    Parameters
    ----------
    folder
        Weights folder.
    description
        Of it.

    Raises
    ------
    WeightsError
        They may not be passed on.
    """
    told = description.provenance
    # A checkpoint imported before this entry was written: only MindSpore imports say how they were stored.
    imported = "stored_as" in told
    shapes = {(known.n_genes, known.dim) for known in RELEASES}
    if KEY in told or (imported and (description.model.n_genes, description.model.dim) in shapes):
        msg = (
            f"{folder} comes from an official CellFM checkpoint ({told.get('source', 'unknown file')}, imported), which is under {OFFICIAL_LICENCE}: nothing made "
            "from it may be passed on, converted or tuned copies included. Nothing was uploaded. Weights that you trained from scratch with this package can be. Others get "
            "it from the authors: 'cellfm weights official 80m' says where."
        )
        raise WeightsError(msg)
