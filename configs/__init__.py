"""Configurations; each file has get_config(words) for --config=configs/<file>.py:<words>."""
