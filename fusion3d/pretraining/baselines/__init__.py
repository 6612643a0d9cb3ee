"""Published ways of aligning sensors, for comparison under the same trainer and encoders: one file for each idea.

All pairs needs no file: it is ``--model.alignment pairs`` with as many ``--model.pairs`` as there are.
"""

from fusion3d.pretraining.baselines import consensus, jepa, mil_nce, reconstruction, star

__all__ = ["consensus", "jepa", "mil_nce", "reconstruction", "star"]
