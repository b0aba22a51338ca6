"""The devices and the processes of a run."""
