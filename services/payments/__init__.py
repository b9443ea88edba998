"""Takes money once and gives it back once: what is wanted of every payment, done at its gateway and told as sums."""
