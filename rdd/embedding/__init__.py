"""Records to features: the two steps as functions of tables, the directory that they write, and CLIP weights for them."""
