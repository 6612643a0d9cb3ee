"""One page that shows what a run learnt."""
