"""`python -m siltstone` is the `siltstone` command."""

from siltstone.cli.entry import main

if __name__ == "__main__":
    main()
