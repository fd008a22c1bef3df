"""Language models behind one async protocol: a chat in, a completion out, many in flight."""
