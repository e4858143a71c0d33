"""Who did what: sign-ins, revocations and the acts of administrators."""
