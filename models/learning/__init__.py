"""How models renew themselves: from the training buffer to a model that is published, or refused with the reason."""
