"""CRUD over whatever models are live: parsing queries, building statements, validating rows, hooks. No HTTP."""
