"""Your app, built on the engine `bff`. Updates do not change this folder."""
