"""Who is it: tokens, tickets, origins."""
