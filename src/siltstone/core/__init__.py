"""Small helpers for all packages: words, checks of numbers, the process and its terminal."""
