"""The version, known without asking the file system."""

__version__ = "0.1.0"
