"""Search: which words an event can be found by. Pure, and the same for the index, the query and the recheck."""
