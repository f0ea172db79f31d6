"""The language model and the drop-in layer, their states between calls, and their folders on disk."""
