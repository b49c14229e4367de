"""One block: what it is told, its way from pixels to fragments, and the file that it is saved in."""
