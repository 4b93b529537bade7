"""Weights folders and the networks in them."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from cellfm.errors import WeightsError
from cellfm.genes.vocabulary import Vocabulary
from cellfm.nn import CellFM, initialise
from cellfm.settings import cache_dir
from cellfm.weights import hub
from cellfm.weights.atomic import refuse_existing, replacing_folder
from cellfm.weights.hub_names import checked_sha256, is_hub_name, parse
from cellfm.weights.layout import (
    CARD,
    CONFIG,
    GENES,
    WEIGHTS,
    read_description,
    read_vocabulary,
    write_description,
)
from cellfm.weights.names import check_tensors, name_table
from cellfm.weights.protobuf_write import array_pieces
from cellfm.weights.tensors import Tensor32, open_tensors, shapes_of, tensors_hash, write_tensors
from cellfm.weights.whitening import Whitening, read_whitening

PACKAGED = Path(__file__).parent / "packaged"
"""Weights folders that come with the package."""
HUB_KEY = "hub"
"""Entry of the provenance of weights from the hub: their name with its commit."""
MINI = "mini"
"""Name of the small model that comes with the package: a demonstration, trained on some thousand public cells."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pretrained:
    """A network with the gene list that gives its tokens their meaning."""

    network: CellFM
    """In evaluation mode."""
    vocabulary: Vocabulary
    provenance: dict[str, str]
    """Where the weights come from."""
    hash: str
    """SHA-256 of ``model.safetensors``."""
    path: Path | None
    """Folder the weights were read from; None for weights that are only in memory."""
    whitening: Whitening | None = None
    """Puts states in units of technical noise; None where it was never fitted."""

    @property
    def name(self) -> str:
        """Where the same weights are found again: a name on the hub with its commit, a folder, or ``"in memory"``."""
        return self.provenance.get(HUB_KEY) or str(self.path or "in memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A weights folder that a name led to."""

    path: Path
    sha256: str | None = None
    """What the SHA-256 of its ``model.safetensors`` must be; None when nobody says."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Where it came from, when from the hub."""


def load(
    path_or_name: str | Path, *, device: str | torch.device = "cpu", sha256: str | None = None
) -> Pretrained:
    """Read a weights folder; a missing, extra or misshapen tensor is an error.

    Parameters
    ----------
    path_or_name
        A weights folder, the name of one in the cache folder (``CELLFM_CACHE``), ``"mini"`` for the small model that
        comes with the package, or ``"hf://org/repo@revision"`` for weights on the hub, which are downloaded unless they are in
        the cache folder.
    device
        Where to put the network.
    sha256
        What the SHA-256 of ``model.safetensors`` must be; may stand in the name instead, ``"hf://org/repo#sha256=…"``.

    Returns
    -------
    The network in evaluation mode, its vocabulary and its provenance.

    Raises
    ------
    WeightsError
        There is no such folder, its files are damaged or do not belong together, or they are not those asked for.

    Examples
    --------
    >>> model = cellfm.load("weights/cellfm-80m")  # doctest: +SKIP
    """
    located = locate(path_or_name, sha256=sha256)
    folder = located.path
    description = read_description(folder)
    vocabulary = read_vocabulary(folder, description)
    with torch.device("meta"):
        network = CellFM(description.model)
    path = folder / WEIGHTS
    with open_tensors(path, framework="pt", device=str(device)) as file:
        found = shapes_of(file)
        check_tensors(found, _shapes(network), source=str(path))
        network.load_state_dict(
            {name: file.get_tensor(name) for name in found}, strict=True, assign=True
        )
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    _check_hash(path, digest, located)
    # Only this function knows that weights came from the hub; a file cannot claim it.
    written = {key: value for key, value in description.provenance.items() if key != HUB_KEY}
    return Pretrained(
        network=network.eval(),
        vocabulary=vocabulary,
        provenance={**written, **located.provenance},
        hash=digest,
        path=folder,
        whitening=read_whitening(folder, weights_hash=digest, dim=description.model.dim),
    )


def save(
    folder: str | Path,
    network: CellFM,
    vocabulary: Vocabulary,
    *,
    card: str,
    provenance: Mapping[str, str],
    overwrite: bool = False,
) -> str:
    """Write a weights folder, complete or not at all, and return the SHA-256 of its weights.

    Parameters
    ----------
    folder
        Weights folder to make.
    network
        Its parameters are stored as float32.
    vocabulary
        The gene list it was trained with.
    card
        Text for people: data, recipe, licence, metrics.
    provenance
        Where the weights come from, for programs.
    overwrite
        Replace an existing weights folder.
    """
    folder = Path(folder)
    refuse_existing(folder, overwrite=overwrite)
    tensors = _tensors(network)
    with replacing_folder(folder, marker=CONFIG) as new:
        write_description(new, network.config, vocabulary, provenance)
        digest = write_tensors(new / WEIGHTS, tensors)
        (new / CARD).write_text(card, encoding="utf-8")
    return digest


def new(preset: str, vocabulary: Vocabulary, seed: int = 0) -> Pretrained:
    """Make a network of a preset's shape with random weights.

    Parameters
    ----------
    preset
        Name of a preset, such as ``"mini"``; its number of genes is that of the vocabulary.
    vocabulary
        Genes the network will know.
    seed
        Of the random weights.
    """
    from cellfm.config import preset as shape_of

    config = replace(shape_of(preset), n_genes=len(vocabulary))
    network = initialise(CellFM(config), torch.Generator().manual_seed(seed))
    return Pretrained(
        network=network.eval(),
        vocabulary=vocabulary,
        provenance={"source": "random weights", "preset": preset, "seed": str(seed)},
        hash=tensors_hash(_tensors(network)),
        path=None,
    )


def random_twin(model: Pretrained, *, seed: int) -> Pretrained:
    """Return the same architecture and genes with random weights: the control of every claim about what pretraining gives.

    Parameters
    ----------
    model
        Weights.
    seed
        Of the random weights.
    """
    generator = torch.Generator().manual_seed(seed)
    network = initialise(CellFM(model.network.config), generator).eval()
    name = f"random weights of seed {seed} for {model.hash}"
    # The whitening of the trained weights says nothing of these.
    return replace(
        model,
        network=network.to(model.network.cls.device),
        hash=name,
        provenance={"source": name},
        path=None,
        whitening=None,
    )


def find(path_or_name: str | Path) -> Path:
    """Return the weights folder of a path or name, as `locate` does."""
    return locate(path_or_name).path


def locate(
    path_or_name: str | Path,
    *,
    sha256: str | None = None,
    progress: hub.Progress | None = None,
    again: bool = False,
) -> Located:
    """Find a weights folder: here, in the cache folder, in the package or on the hub, where it is downloaded from.

    Every command and function that takes weights by name finds them here.

    Parameters
    ----------
    path_or_name
        As for `load`.
    sha256
        As for `load`; that of a folder is only checked by `load`.
    progress
        Called while files are downloaded.
    again
        Download again what is here.

    Raises
    ------
    WeightsError
        There is no such folder, or the hub does not give it.
    """
    if is_hub_name(path_or_name):
        fetched = hub.fetch(parse(path_or_name, sha256=sha256), progress=progress, again=again)
        told = {HUB_KEY: str(fetched.name), "hub_endpoint": fetched.endpoint}
        return Located(path=fetched.path, sha256=fetched.sha256, provenance=told)
    wanted = None if sha256 is None else checked_sha256(sha256)
    return Located(path=_on_this_machine(path_or_name), sha256=wanted)


def _on_this_machine(path_or_name: str | Path) -> Path:
    path = Path(path_or_name).expanduser()
    if path.is_dir():
        return path
    models = cache_dir() / "models"
    is_name = len(path.parts) == 1 and path.parts[0] not in (".", "..")
    for shelf in (models, PACKAGED) if is_name else ():
        if (shelf / path).is_dir():
            return shelf / path
    there = sorted(entry.parent.name for entry in models.glob(f"*/{CONFIG}"))
    msg = (
        f"There are no weights at {str(path_or_name)!r}: no such folder here, and {models} holds "
        f"{', '.join(there) if there else 'no weights yet'}. {MINI!r} comes with the package; otherwise give the path of a folder with {CONFIG}, {WEIGHTS} and {GENES}, "
        "or the name of weights on the hub, hf://ORG/REPO. Official CellFM weights: 'cellfm weights official 80m' says where they are and imports "
        "them; random ones: 'cellfm weights new'."
    )
    raise WeightsError(msg)


def _check_hash(path: Path, found: str, located: Located) -> None:
    if located.sha256 is None or found == located.sha256:
        return
    name = located.provenance.get(HUB_KEY)
    way_out = (
        f"The copy in the cache is damaged: 'cellfm weights get {name} --overwrite' downloads it again."
        if name
        else "These are other weights than were asked for, or the file is damaged. Check the name, or get the weights again."
    )
    msg = f"{path} has the SHA-256 {found}, expected {located.sha256}. {way_out}"
    raise WeightsError(msg)


def _shapes(network: CellFM) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _tensors(network: CellFM) -> list[Tensor32]:
    """Return a network's parameters as they are stored; the network must be what its config says."""
    expected = {name.ours: name.shape for name in name_table(network.config)}
    check_tensors(_shapes(network), expected, source="the network in memory")
    return [_stored(name, tensor) for name, tensor in network.state_dict().items()]


def _stored(name: str, tensor: torch.Tensor) -> Tensor32:
    def pieces() -> Iterable[memoryview]:
        return array_pieces(tensor.detach().float().cpu().numpy())

    return Tensor32(name=name, shape=tuple(tensor.shape), pieces=pieces)
