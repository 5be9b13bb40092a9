"""Services that others run, and Python callables, as subjects of an evaluation by queries."""
