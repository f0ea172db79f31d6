"""Second opinions: public implementations by others, where their equations are ours. Run by `make opinions`."""
