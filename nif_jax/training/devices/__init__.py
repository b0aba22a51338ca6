"""How functions are mapped over devices."""
