"""Classes of single points, learned from the classification of a store's own files: encoder, head, folds and scores."""
