"""Speed and size, measured side by side in one run: medians of interleaved repeats, both sides in the same dtype."""
