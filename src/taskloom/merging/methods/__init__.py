"""Published merging methods, one file each; every one is a composition of `taskloom.algebra`."""
