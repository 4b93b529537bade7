"""In-silico knock-out and over-expression."""
