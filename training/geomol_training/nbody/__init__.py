"""The N-body benchmark: its simulations, the network with two pairs of streams, and its training."""
