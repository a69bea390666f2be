"""Statistics of an expert on its task, one file each, registered under "statistic"."""
