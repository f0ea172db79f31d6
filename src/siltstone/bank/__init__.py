"""Which sealed states are kept, and how: one file a kind of bank."""
