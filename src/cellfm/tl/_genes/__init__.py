"""What genes do: their representations, and what follows from them."""
