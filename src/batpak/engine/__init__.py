"""A journal directory as a live log: opened, followed, read, checked, repaired.

Brings `journal` (what is on disk) and `index` (what is in memory) together.
"""
