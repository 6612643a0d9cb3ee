"""How good the embeddings are, measured on places that were never trained on."""
