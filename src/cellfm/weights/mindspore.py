"""From MindSpore checkpoints to weights folders and back, in memory bounded by the largest tensor."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cellfm.config.model import ModelConfig
from cellfm.errors import CheckpointError, WeightsError
from cellfm.genes.vocabulary import Vocabulary
from cellfm.weights.atomic import refuse_existing, replacing_folder
from cellfm.weights.card import imported_card
from cellfm.weights.dtypes import FLOATING, NUMPY_OF, TEXT, to_float32
from cellfm.weights.layout import (
    CARD,
    CONFIG,
    OPTIMIZER,
    WEIGHTS,
    read_description,
    read_vocabulary,
    write_description,
)
from cellfm.weights.names import (
    UNUSED_WITH_HEAD,
    Name,
    Shape,
    check_tensors,
    infer_config,
    name_table,
)
from cellfm.weights.protobuf import Entry, index, payload, read
from cellfm.weights.protobuf_write import Raw, array_pieces, write
from cellfm.weights.tensors import Tensor32, stored_tensors, write_tensors
from cellfm.weights.wire import PIECE

MOMENTS = {"moment1.": "exp_avg.", "moment2.": "exp_avg_sq."}
"""Adam's running means: MindSpore's prefix and ours (PyTorch's word)."""

TRAINING = (
    "global_step",
    "learning_rate",
    "beta1_power",
    "beta2_power",
    "scale_sense",
    "current_iterator_step",
    "last_overflow_iterator_step",
)
"""State of MindSpore's training loop: never weights."""

Progress = Callable[[int], None]


def import_checkpoint(
    checkpoint: Path,
    genes: Path,
    folder: Path,
    *,
    n_heads: int | None = None,
    optimizer: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    told: Mapping[str, str] | None = None,
) -> None:
    """Make a weights folder of a MindSpore checkpoint.

    Parameters
    ----------
    checkpoint
        File written by MindSpore's ``save_checkpoint``.
    genes
        The gene list (csv or tsv) the weights were trained with, in its order.
    folder
        Weights folder to make.
    n_heads
        Retention heads, which no tensor's shape tells; needed unless the width is that of a released model.
    optimizer
        Keep Adam's moments and the state of the training loop in ``optimizer.safetensors``.
    overwrite
        Replace an existing weights folder.
    progress
        Told the number of bytes just read or written; they add up to `import_size`.
    told
        More about where the weights come from, for the provenance.

    Raises
    ------
    CheckpointError
        The file is damaged, encrypted or no MindSpore checkpoint.
    VocabularyError
        The gene list does not fit the rows of the gene table.
    WeightsError
        Tensors are missing, unknown or misshapen.
    """
    refuse_existing(folder, overwrite=overwrite)
    content = _Content.of(checkpoint)
    vocabulary = Vocabulary.read_foreign(genes)
    shapes = {name: entry.shape for name, entry in content.weights.items()}
    config = infer_config(shapes, n_genes=len(vocabulary), n_heads=n_heads)
    names = name_table(config)
    absent = [
        name
        for name in names
        if config.n_clusters and name.ours in UNUSED_WITH_HEAD and name.theirs not in shapes
    ]
    expected = {name.theirs: name.their_shape for name in names if name not in absent}
    check_tensors(shapes, expected, source=checkpoint.name)
    moments = _moments(content, names, checkpoint) if optimizer else []
    source_hash = _file_hash(checkpoint, progress)
    provenance = content.provenance(checkpoint, source_hash, kept=optimizer, absent=absent)
    provenance |= told or {}
    with replacing_folder(folder, marker=CONFIG) as new:
        tensors = [
            _tensor(checkpoint, content.weights.get(name.theirs), name.ours, name.shape)
            for name in names
        ]
        provenance["sha256"] = write_tensors(new / WEIGHTS, tensors, progress=progress)
        if optimizer:
            metadata = {"scalars": json.dumps(_scalars(checkpoint, content.training))}
            write_tensors(new / OPTIMIZER, moments, metadata=metadata, progress=progress)
        write_description(new, config, vocabulary, provenance)
        (new / CARD).write_text(imported_card(folder.name, config, provenance), encoding="utf-8")


def read_config(checkpoint: Path, genes: Path, *, n_heads: int | None = None) -> ModelConfig:
    """Return the shape of the network in a MindSpore checkpoint, without reading its tensors.

    Parameters
    ----------
    checkpoint, genes, n_heads
        As for `import_checkpoint`.
    """
    shapes = {name: entry.shape for name, entry in _Content.of(checkpoint).weights.items()}
    return infer_config(shapes, n_genes=len(Vocabulary.read_foreign(genes)), n_heads=n_heads)


def import_size(checkpoint: Path, *, optimizer: bool = False) -> int:
    """Return about how many bytes `import_checkpoint` will report as progress."""
    content = _Content.of(checkpoint)
    entries = [*content.weights.values(), *(content.moments.values() if optimizer else ())]
    written = sum(4 * entry.n_bytes // NUMPY_OF[entry.dtype].itemsize for entry in entries)
    return checkpoint.stat().st_size + written


def export_checkpoint(
    folder: Path,
    checkpoint: Path,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> None:
    """Write a weights folder as a checkpoint that MindSpore loads; moments go along when the folder has them.

    Parameters
    ----------
    folder
        Weights folder.
    checkpoint
        File to write.
    overwrite
        Replace an existing file.
    progress
        Told the number of bytes just written.
    """
    refuse_existing(checkpoint, overwrite=overwrite)
    description = read_description(folder)
    read_vocabulary(folder, description)
    names = name_table(description.model)
    write(checkpoint, _exported(folder, names, progress))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """The entries of a checkpoint by their kind."""

    weights: dict[str, Entry]
    moments: dict[str, Entry]
    training: dict[str, Entry]
    other: dict[str, Entry]
    """Scalars and texts of ``append_dict``."""

    @staticmethod
    def of(checkpoint: Path) -> "_Content":
        try:
            entries = index(checkpoint)
        except OSError as error:
            msg = f"{checkpoint} cannot be read: {error.strerror}. Expected a MindSpore checkpoint (.ckpt). Check the path."
            raise CheckpointError(msg) from error
        content = _Content(weights={}, moments={}, training={}, other={})
        for entry in entries:
            content._kind(entry)[entry.name] = entry
        for entry in (*content.weights.values(), *content.moments.values()):
            if entry.dtype not in FLOATING:
                to_float32(entry.name, np.empty(0, NUMPY_OF[entry.dtype]))
        return content

    def _kind(self, entry: Entry) -> dict[str, Entry]:
        if entry.name in TRAINING:
            return self.training
        if entry.dtype == TEXT or not entry.shape:
            return self.other
        return self.moments if entry.name.startswith(tuple(MOMENTS)) else self.weights

    def provenance(
        self, checkpoint: Path, source_hash: str, *, kept: bool, absent: Iterable[Name]
    ) -> dict[str, str]:
        """Tell where the weights come from and what became of the entries of the file."""
        stored = Counter(entry.dtype for entry in self.weights.values())
        dropped = {**({} if kept else {**self.moments, **self.training}), **self.other}
        told = {
            "source": checkpoint.name,
            "source_sha256": source_hash,
            "stored_as": ", ".join(f"{dtype} ({n} tensors)" for dtype, n in stored.items()),
            "dropped": _summary(dropped),
        }
        filled = ", ".join(name.theirs for name in absent)
        return told | ({"zero_filled": filled} if filled else {})


def _summary(dropped: Mapping[str, Entry]) -> str:
    moments = sum(name.startswith(tuple(MOMENTS)) for name in dropped)
    others = [name for name in dropped if not name.startswith(tuple(MOMENTS))]
    parts = [f"{moments} Adam moments"] if moments else []
    return ", ".join(parts + others) or "nothing"


def _tensor(checkpoint: Path, entry: Entry | None, name: str, shape: Shape) -> Tensor32:
    """Return the float32 bytes of an entry, straight from the file where they are stored so; zeros without an entry."""

    def pieces() -> Iterable[bytes | memoryview]:
        if entry is None:
            return array_pieces(np.zeros(shape, "<f4"))
        if entry.dtype == "Float32":
            return payload(checkpoint, entry)
        return array_pieces(to_float32(entry.name, read(checkpoint, entry)))

    return Tensor32(name=name, shape=shape, pieces=pieces)


def _moments(content: _Content, names: Iterable[Name], checkpoint: Path) -> list[Tensor32]:
    if not content.moments:
        msg = f"{checkpoint.name} holds no Adam moments (moment1.…, moment2.…); import it without optimizer (--optimizer)."
        raise WeightsError(msg)
    both = {
        theirs + name.theirs: (ours + name.ours, name)
        for theirs, ours in MOMENTS.items()
        for name in names
    }
    # A frozen tensor has no moments, but one that has the first must have the second.
    trained = {name.split(".", 1)[1] for name in content.moments}
    expected = {key: name.their_shape for key, (_, name) in both.items() if name.theirs in trained}
    shapes = {name: entry.shape for name, entry in content.moments.items()}
    check_tensors(shapes, expected, source=f"{checkpoint.name} (Adam moments)")
    return [
        _tensor(checkpoint, entry, both[key][0], both[key][1].shape)
        for key, entry in content.moments.items()
    ]


def _scalars(checkpoint: Path, training: Mapping[str, Entry]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, entry in training.items():
        value = read(checkpoint, entry)
        found[name] = {"dtype": entry.dtype, "shape": entry.shape, "value": value.tolist()}
    return found


def _file_hash(path: Path, progress: Progress | None) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(PIECE):
            digest.update(piece)
            if progress is not None:
                progress(len(piece))
    return digest.hexdigest()


def _exported(
    folder: Path, names: Iterable[Name], progress: Progress | None
) -> Iterator[tuple[str, Raw | NDArray[np.generic]]]:
    weights, _ = stored_tensors(folder / WEIGHTS)
    _check_stored(folder / WEIGHTS, weights, {name.ours: name.shape for name in names})
    for name in names:
        yield name.theirs, _raw(folder / WEIGHTS, weights[name.ours], name.their_shape, progress)
    path = folder / OPTIMIZER
    if not path.is_file():
        return
    moments, metadata = stored_tensors(path)
    known = {ours + name.ours: name.shape for name in names for ours in MOMENTS.values()}
    _check_stored(path, moments, {key: shape for key, shape in known.items() if key in moments})
    for scalar, stored in json.loads(metadata.get("scalars", "{}")).items():
        value = np.array(stored["value"], NUMPY_OF[stored["dtype"]])
        yield scalar, value.reshape(stored["shape"])
    for theirs, ours in MOMENTS.items():
        for name in names:
            if ours + name.ours in moments:
                entry = moments[ours + name.ours]
                yield theirs + name.theirs, _raw(path, entry, name.their_shape, progress)


def _check_stored(path: Path, found: Mapping[str, Entry], expected: Mapping[str, Shape]) -> None:
    check_tensors({key: entry.shape for key, entry in found.items()}, expected, source=str(path))


def _raw(path: Path, entry: Entry, shape: Shape, progress: Progress | None) -> Raw:
    def pieces() -> Iterator[bytes]:
        for piece in payload(path, entry):
            if progress is not None:
                progress(len(piece))
            yield piece

    return Raw(dtype="Float32", shape=shape, pieces=pieces())
