"""The weights folder without the network: its files, its description and their checks."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path

from cellfm.config.model import ModelConfig
from cellfm.errors import ConfigError, VocabularyError, WeightsError
from cellfm.genes.vocabulary import Vocabulary

FORMAT = 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
GENES = "genes.tsv"
CARD = "card.md"
OPTIMIZER = "optimizer.safetensors"


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What ``config.json`` says."""

    model: ModelConfig
    vocabulary_hash: str
    provenance: dict[str, str]


def write_description(
    folder: Path, model: ModelConfig, vocabulary: Vocabulary, provenance: Mapping[str, str]
) -> None:
    """Write ``config.json`` and ``genes.tsv``; the vocabulary must be the network's."""
    if len(vocabulary) != model.n_genes:
        msg = f"The vocabulary has {len(vocabulary):,} genes, the network {model.n_genes:,}; they must be the same. Use the gene list that belongs to the network."
        raise VocabularyError(msg)
    content = {
        "format": FORMAT,
        "model": asdict(model),
        "vocabulary": {"n_genes": len(vocabulary), "sha256": vocabulary.hash},
        "provenance": {"cellfm": version("cellfm"), **provenance},
    }
    (folder / CONFIG).write_text(
        json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    vocabulary.write(folder / GENES)


def read_description(folder: Path) -> Description:
    """Read ``config.json``; anything missing, unknown or of the wrong type is an error."""
    path = folder / CONFIG
    content = _json(path)
    found = content.get("format")
    if type(found) is not int or found < 1:
        raise _broken(path, f"'format' is {found!r}, expected {FORMAT}")
    if found > FORMAT:
        msg = (
            f"{folder} was made by a newer cellfm: its format is {found}, and this version ({version('cellfm')}) knows "
            f"{FORMAT}. Update cellfm."
        )
        raise WeightsError(msg)
    vocabulary = _section(path, content, "vocabulary")
    model = _model(path, _section(path, content, "model"))
    if vocabulary.get("n_genes") != model.n_genes or not isinstance(vocabulary.get("sha256"), str):
        raise _broken(
            path, f"its vocabulary {vocabulary} does not fit the {model.n_genes} genes of its model"
        )
    provenance = {key: str(value) for key, value in _section(path, content, "provenance").items()}
    return Description(
        model=model, vocabulary_hash=str(vocabulary["sha256"]), provenance=provenance
    )


def read_vocabulary(folder: Path, description: Description) -> Vocabulary:
    """Read ``genes.tsv``; it must be the list the weights were trained with."""
    vocabulary = Vocabulary.read(folder / GENES)
    if vocabulary.hash != description.vocabulary_hash:
        msg = (
            f"{folder / GENES} is not the gene list of these weights: {len(vocabulary):,} genes with hash "
            f"{vocabulary.hash[:12]}, but {CONFIG} says {description.model.n_genes:,} with {description.vocabulary_hash[:12]}. "
            "Restore the file; a changed order gives every gene another gene's embedding."
        )
        raise VocabularyError(msg)
    return vocabulary


def _json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        msg = f"{path.parent} is no weights folder: it has no {CONFIG}. Expected {CONFIG}, {WEIGHTS} and {GENES}. Check the path."
        raise WeightsError(msg) from error
    except (OSError, ValueError, RecursionError) as error:
        raise _broken(path, str(error)) from error
    if not isinstance(content, dict):
        raise _broken(path, f"it holds a {type(content).__name__}, expected an object")
    return content


def _section(path: Path, content: Mapping[str, object], name: str) -> dict[str, object]:
    section = content.get(name)
    if not isinstance(section, dict):
        raise _broken(path, f"its section {name!r} is missing")
    return section


def _model(path: Path, section: Mapping[str, object]) -> ModelConfig:
    known = {field.name: field for field in fields(ModelConfig)}
    unknown = [name for name in section if name not in known]
    missing = [
        name for name, field in known.items() if field.default is MISSING and name not in section
    ]
    if unknown or missing:
        raise _broken(path, f"its model section has unknown fields {unknown} and lacks {missing}")
    for name, value in section.items():
        wanted = known[name].type
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise _broken(
                path,
                f"model.{name} is {value!r}, expected a value of type {getattr(wanted, '__name__', wanted)}",
            )
    try:
        return ModelConfig(**section)  # type: ignore[arg-type] # the types were just checked
    except ConfigError as error:
        raise _broken(path, str(error)) from error


def _broken(path: Path, what: str) -> WeightsError:
    return WeightsError(
        f"{path} is not a valid description of weights: {what}. Restore the file, or make the folder again."
    )
