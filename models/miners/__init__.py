"""Other template miners, to compare with: small, offline, without state. The job does not use them."""
