"""Importers: each turns a foreign source into events and remembers how far it has read.

The position stands in the batch's own record, so running again, also after a kill,
adds only what is new. An importer prints nothing; it reports and raises.
"""
