"""From embeddings and field plots to a variable mapped wall to wall, scored on places that the model never saw."""
