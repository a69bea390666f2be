"""Where rows come from; each module registers one kind of source."""
