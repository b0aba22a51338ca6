"""Sweeps; each file has get_sweep() for launch/sweep.py --sweep=configs/sweeps/<file>.py."""
