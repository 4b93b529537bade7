"""Which cells a network was trained on, as a list of their fingerprints: what it is tested on must not be among them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cellfm.errors import WeightsError
from cellfm.genes.vocabulary import Vocabulary
from cellfm.weights.atomic import replacing
from cellfm.weights.layout import CONFIG

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cellfm.corpus.store import Store

SEEN = "seen.safetensors"
"""File of a weights folder with the list; 8 bytes for each cell."""
FORMAT = "1"

_TENSOR = "cell"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """Cells that a network was trained on.

    A cell is known by lane 1 of its fingerprint (`cellfm.corpus.fingerprint`), over the default vocabulary and not the
    network's, so that lists of different networks can be compared. Two different cells share one with a chance of 2⁻⁶⁴:
    10⁶ cells held against a list of 10⁸ give a false one with a chance of 5·10⁻⁶.

    Attributes
    ----------
    number
        Fingerprints, uint64, shape (cell,), ascending, each once.
    vocabulary_hash
        Of the genes that they were computed over.
    """

    number: "NDArray[np.uint64]"
    vocabulary_hash: str

    def __len__(self) -> int:
        """Return the number of cells."""
        return len(self.number)

    def contains(self, number: "NDArray[np.uint64]") -> "NDArray[np.bool_]":
        """Return which of some cells are in the list.

        Parameters
        ----------
        number
            Fingerprints, shape (cell,); 0, that of a cell without counts, is never found.
        """
        if not len(self):
            return np.zeros(len(number), dtype=np.bool_)
        place = np.minimum(np.searchsorted(self.number, number), len(self) - 1)
        return np.asarray((self.number[place] == number) & (number != 0))


def load_seen(folder: Path | str) -> Seen | None:
    """Read the list of a weights folder.

    Parameters
    ----------
    folder
        Weights folder.

    Returns
    -------
    The list; None for a folder without one.

    Raises
    ------
    WeightsError
        The file is damaged, of a newer format, or no such list.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(folder) / SEEN
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            said: dict[str, str] = file.metadata() or {}
            names = list(file.keys())
            number: NDArray[np.uint64] = np.zeros(0, np.uint64)
            if names == [_TENSOR]:
                number = file.get_tensor(_TENSOR)
    except (SafetensorError, OSError) as error:
        msg = f"{path} cannot be read as a safetensors file ({error}). Get it again, or delete it: the weights work without."
        raise WeightsError(msg) from error
    _check(path, said, number, names)
    return Seen(number=number, vocabulary_hash=said["vocabulary"])


def write_seen(folder: Path | str, store: "Store", rows: "NDArray[np.integer]") -> Path:
    """Put the list of the training cells into a weights folder; one that is there is replaced.

    Parameters
    ----------
    folder
        Weights folder.
    store
        Corpus, built over the default vocabulary.
    rows
        Which of its cells were trained on.

    Returns
    -------
    The file.

    Raises
    ------
    WeightsError
        There is no weights folder, or the corpus has other genes than the default ones, so that its fingerprints mean
        something else.
    """
    from safetensors.numpy import save

    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        msg = f"{folder} is no weights folder: it has no {CONFIG}. Save the weights first."
        raise WeightsError(msg)
    expected = Vocabulary.from_hgnc().hash
    if store.manifest.vocabulary != expected:
        msg = (
            f"The corpus {store.path} was built over {len(store.vocabulary):,} genes with hash {store.manifest.vocabulary[:12]}; the "
            f"fingerprints of the list are over the default genes, hash {expected[:12]}. Build the corpus without a vocabulary of its own."
        )
        raise WeightsError(msg)
    numbers = store.numbers_of("fingerprint_1")[rows].astype(np.uint64)
    with replacing(folder / SEEN) as temporary:
        metadata = {"format": FORMAT, "vocabulary": expected, "corpus": store.manifest.hash}
        temporary.write_bytes(save({_TENSOR: np.unique(numbers)}, metadata=metadata))
    return folder / SEEN


def _check(
    path: Path, said: dict[str, str], number: "NDArray[np.uint64]", names: list[str]
) -> None:
    """Refuse what is no such list."""
    wrong = ""
    if said.get("format") != FORMAT:
        wrong = f"its format is {said.get('format')!r}, and this version knows {FORMAT!r}"
    elif names != [_TENSOR] or number.dtype != np.uint64 or number.ndim != 1:
        wrong = f"it holds {names}, expected one vector {_TENSOR!r} of 64-bit numbers"
    elif not said.get("vocabulary"):
        wrong = "it does not say over which genes it was computed"
    elif (number[1:] <= number[:-1]).any():
        wrong = "its numbers do not ascend"
    if wrong:
        msg = f"{path} is no list of training cells: {wrong}. Get it again, or delete it: the weights work without."
        raise WeightsError(msg)
