"""What a run survives, tried out: kills, signals, failing disks, power cuts, hostile files and
hostile names.

``python -m tests.stress`` runs everything at full size and prints a table; the tests run a small
part of each.
"""
