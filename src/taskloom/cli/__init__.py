"""One thin file per verb over one library call."""
