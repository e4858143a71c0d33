"""`bff new feature`: writes a feature, its test, its table and their registration."""
