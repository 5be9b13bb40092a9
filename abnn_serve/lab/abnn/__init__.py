"""The method: adaptive layers, surgery and the pair of networks."""
