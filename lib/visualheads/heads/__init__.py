"""Statistics over heads: rankings, agreement, intervals, nulls, permutations (pure numpy, scipy and xarray)."""
