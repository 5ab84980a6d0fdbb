"""The detectors: one file each, all of one contract (contract.py), listed in registry.py."""
