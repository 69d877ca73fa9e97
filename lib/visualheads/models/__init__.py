"""From a name to a model that can be traced: loading, wrapping, the attention call, token geometry, conversion."""
