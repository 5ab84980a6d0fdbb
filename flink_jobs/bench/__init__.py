"""Measuring: the jobs that `driftwood bench` compares with, and how it reads their speed."""
