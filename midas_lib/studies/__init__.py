"""What each part runs: the grids of settings, seeds and sizes, and what comes out of them."""
