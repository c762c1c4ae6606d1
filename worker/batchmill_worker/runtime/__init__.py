"""Services of a device process that the other packages use; it knows none of them."""
