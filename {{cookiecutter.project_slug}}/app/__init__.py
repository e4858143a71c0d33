"""Yours: the app on top of the engine `bff`. No update touches this folder."""
