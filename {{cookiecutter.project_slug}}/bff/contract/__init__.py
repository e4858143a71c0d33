"""What an app offers to browsers, as one contract: documents, types, and what broke in between."""
