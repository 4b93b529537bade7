"""Every error CellFM raises on purpose.

::

    CellFMError
    ├── ConfigError            a recipe, an override or a setting that cannot work
    ├── DataError              an AnnData or file whose structure is not what was asked for
    │   ├── GeneMatchError     its genes do not fit the vocabulary
    │   ├── EvidenceError      results without the controls that give them a meaning
    │   ├── CountsError        its values are not what the input scale says
    │   ├── SourceError        a source of a corpus that is set aside
    │   └── CorpusError        a corpus on disk that is damaged or not one
    ├── WeightsError           a weights folder or checkpoint that cannot be used
    │   ├── CheckpointError    a foreign file that is damaged, encrypted or not a checkpoint
    │   └── VocabularyError    a gene list that does not belong to the weights
    ├── OutputExistsError      something would have been overwritten unasked
    ├── ResumeError            a partial result that belongs to another job
    └── MissingDependencyError an optional package is not installed

Each message says what is wrong, what was found, what was expected and what to do.
"""


class CellFMError(Exception):
    """Base of all errors raised on purpose; the command line prints them without a traceback."""


class ConfigError(CellFMError, ValueError):
    """A recipe, an override or a setting cannot work."""


class DataError(CellFMError, ValueError):
    """An AnnData object or a file does not have the structure that was asked for."""


class GeneMatchError(DataError):
    """The genes of the input do not fit the vocabulary."""


class EvidenceError(DataError):
    """Results of a benchmark lack the controls without which they mean nothing."""


class CountsError(DataError):
    """The values of the input are not on the scale they are said to be on."""


class SourceError(DataError):
    """A source cannot become part of a corpus; the build sets it aside and goes on."""


class CorpusError(DataError):
    """A corpus on disk is damaged, of another format, or none at all."""


class WeightsError(CellFMError, ValueError):
    """A weights folder or checkpoint cannot be used."""


class CheckpointError(WeightsError):
    """A foreign checkpoint file is damaged, encrypted or no checkpoint at all."""


class VocabularyError(WeightsError):
    """A gene list does not belong to the weights it came with."""


class OutputExistsError(CellFMError, FileExistsError):
    """A file or key exists already and was not asked to be overwritten."""


class ResumeError(CellFMError, RuntimeError):
    """A partial result belongs to another job."""


class MissingDependencyError(CellFMError, ImportError):
    """An optional package is needed and not installed."""
