"""Banks: which sealed states are kept, and how. One file per kind of bank."""
