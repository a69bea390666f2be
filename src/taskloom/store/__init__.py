"""The only room that opens weights and packages: readers, adapters, hub, atomic writers."""
