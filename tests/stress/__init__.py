"""Trials of what a run survives: kills, signals, disk faults, power cuts, hostile files and names.

``python -m tests.stress`` runs all trials at full size and prints a table. The tests run a small
part of each.
"""
