"""Answer rules: from the logits of one or more passes over a sample to its answer, with an optional certificate."""
