"""Whether a machine and a file are ready, and what to do next."""
