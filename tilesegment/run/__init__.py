"""What the commands do: a block, a scene, and the other stories, with what they share."""
