"""Configurations; each file has get_config(words) for --config=configs/<file>.py:<words>.

--config loads a file by its path, and the wheel holds this folder as nif_jax/configs. Both work
from any directory because each file puts the folder above its own on sys.path while it imports
`configs`, and removes it afterwards.
"""
