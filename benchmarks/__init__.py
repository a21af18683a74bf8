"""What is measured against the baselines; `make bench` runs `serve` and `train`."""
