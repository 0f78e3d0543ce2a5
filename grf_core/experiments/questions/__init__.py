"""One question a file: its arms, what is measured of them, and what the figures say."""
