"""Reads incidents and tells people: a program of its own, so that a job that replays pages nobody twice."""
