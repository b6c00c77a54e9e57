"""Everything that reads bytes from the network, each as a function that must take any bytes: see ``targets.py``."""
