"""What a user can choose about the page."""

from dataclasses import dataclass
from pathlib import Path

from cellfm.errors import ConfigError

GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewOptions:
    """How files are read, and what is done with those that are dropped on the page."""

    embedding: str = "X_cellfm"
    """Key of obsm with the cell states."""
    layer: str | None = None
    """Layer with the counts instead of X."""
    use_raw: bool = False
    """Take the counts of raw."""
    gene_names: str | None = None
    """Column of var with the names of the genes instead of its index."""
    model: str | Path | None = None
    """Weights for dropped files; None takes the small ones of the package."""
    annotator: str | Path | None = None
    """Folder of an annotator for dropped files."""
    device: str | None = None
    """Device to compute on."""
    max_upload: float = 8.0
    """GiB that a dropped file may have."""
    port: int = 0
    """Port on the loopback device; 0 takes a free one."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            msg = f"port is {self.port}; expected a number from 1 to 65535, or 0 for a free one. Give a number in that range."
            raise ConfigError(msg)
        if not self.max_upload > 0:
            msg = f"max_upload is {self.max_upload}; expected GiB above 0, such as 8. Give such a number (--max-upload)."
            raise ConfigError(msg)

    @property
    def upload_bytes(self) -> int:
        """Bytes that a dropped file may have."""
        return int(self.max_upload * GIB)
