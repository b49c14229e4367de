"""Ground that is drawn and not photographed, with every building known."""
