"""Pretrained decoders of transformers."""
