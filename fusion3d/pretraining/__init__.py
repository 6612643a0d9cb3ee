"""Self-supervised pretraining: contrast by location, retention of what one sensor knows, and the run around them."""
