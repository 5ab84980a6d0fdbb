"""A small shop of services that writes logs, with injected faults and their truth."""
