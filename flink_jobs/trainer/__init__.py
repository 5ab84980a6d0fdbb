"""The trainer: reads the training buffer, trains, and publishes models; what it decides is in models/learning/."""
