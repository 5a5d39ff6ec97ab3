"""The targets, by what they decode. To add one: a decorated function in any module here."""
