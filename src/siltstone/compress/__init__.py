"""Compressors: how `rate` tokens that leave the window become one write. One file a compressor."""
