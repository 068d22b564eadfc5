"""To the Hub and back: what is pushed, how, and whether it is what its card says."""
