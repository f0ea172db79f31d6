"""`python -m siltstone` is the `siltstone` command."""

from siltstone.cli.app import main

main()
