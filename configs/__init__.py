"""Configurations; each file has get_config(text) for --config=configs/<file>.py:<text>."""
