"""torch's own ways of using a module."""
