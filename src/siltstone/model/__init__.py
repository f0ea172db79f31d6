"""How a window, a memory and a cache make a language model."""
