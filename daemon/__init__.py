"""hsmd: migrates, releases and recalls."""
