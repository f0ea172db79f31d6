"""The layers of a model: window and full attention, and the memory layer."""
