"""Small things that every room may use: words, numbers that callers give, the process and its terminal."""
