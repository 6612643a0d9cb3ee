"""A scene with known truth, written in the real formats: it proves mechanisms, not usefulness."""
