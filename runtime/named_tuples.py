"""Named tuples at half the price.

`FusionKey(a, b, ...)` runs a Python function, `FusionKey.__new__`, before it makes the tuple, and a segment needs eight
named tuples on its way. `tuple_of(FusionKey, (a, b, ...))` makes the tuple at once. It does not count the values: for
the path of a segment alone.
"""

tuple_of = tuple.__new__
