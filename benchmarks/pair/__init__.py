"""An ABNN pair with random weights: its graphs, and what is timed of them."""
