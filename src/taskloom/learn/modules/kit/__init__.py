"""What the small modules share: hooks, places, the loop that fits, the folder they are kept in."""
