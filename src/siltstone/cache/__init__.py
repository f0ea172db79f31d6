"""Caching policies: which sealed states are read, and with what weights. One file a policy."""
