"""The tasks of the laboratory, one file a kind. A class with the attribute `name` is a task, found by `config.registry`."""
