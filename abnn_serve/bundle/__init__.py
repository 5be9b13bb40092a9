"""The bundle: the directory format in which training hands a model to serving."""
